"""An untrained predictor, small and made once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import models_zoo
from trainer.predict import DepthPredictor
from trainer.predict.network import DepthNetwork
from trainer.predict.scale import STEREO


@pytest.fixture(scope="session")
def predictor() -> DepthPredictor:
    """Networks take 64x64; depth is in metres."""
    torch.manual_seed(0)
    depth = models_zoo.create("depth", enc_name="test_resnet", pretrained=False, out_scales=[0])
    return DepthPredictor(DepthNetwork(depth, factor=STEREO.factor).eval(), (64, 64), STEREO, batch_size=2)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A picture of 90 x 70 with something in it."""
    ramp = np.add.outer(np.arange(70), np.arange(90))
    return Image.fromarray(np.stack([ramp, 2 * ramp % 256, 255 - ramp], -1).astype(np.uint8))
