"""Layers of encoders: numbered from the image on, whatever timm has made of the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models_zoo.encoders.build import build_encoder
from models_zoo.encoders.grouping import layer_numbers


@pytest.mark.parametrize(
    ("enc_name", "layers", "expected"),
    [
        # embeddings, then 6 blocks; what reads them out has the rate of the last
        ("test_vit", 7, {"vit.pos_embed": 0, "vit.blocks.0.": 1, "vit.blocks.5.": 6, "reassemble.": 6}),
        # stem, then the 1 + 2 + 4 + 2 blocks of four stages, the first of each with the downsampling before it
        (
            "test_convnext",
            10,
            {"stem_0.": 0, "stages_0.blocks.0.": 1, "stages_1.downsample.": 2, "stages_3.blocks.1.": 9},
        ),
        # patches, then 2 + 2 + 6 + 2 blocks
        ("swin_tiny_patch4_window7_224", 13, {"patch_embed.": 0, "layers_0.blocks.1.": 2, "layers_3.blocks.1.": 12}),
        ("resnet18", 9, {"conv1.": 0, "bn1.": 0, "layer1.0.": 1, "layer4.1.": 8}),
        ("darknet53", 24, {"stem_conv1.": 0, "stages_0.": 1}),  # a name that timm joins without a number
    ],
)
def test_layers_are_counted_from_the_image_on(enc_name: str, layers: int, expected: dict[str, int]) -> None:
    with torch.device("meta"):
        encoder = build_encoder(enc_name, pretrained=False)
    numbers = layer_numbers(encoder)
    assert list(numbers) == [name for name, _ in encoder.named_parameters()]
    assert set(numbers.values()) == set(range(layers))
    for start, number in expected.items():
        assert number in {numbers[name] for name in numbers if name.startswith(start)}
        assert {numbers[name] for name in numbers if name.startswith(start) and start.count(".") > 1} <= {number}


def test_an_encoder_that_does_not_name_its_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no `group_matcher`, which would name its layers"):
        layer_numbers(nn.Linear(2, 2))
