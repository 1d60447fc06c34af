"""The pose network: camera motion between two images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from models_zoo import NETWORKS
from models_zoo.encoders.build import build_encoder, check_images, encode, encoder_problems, feature_spec
from models_zoo.layers import at_least_float32
from models_zoo.registry import problems_of
from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD, Standardise, statistics_problems

WIDTH = 256
SLOTS = 2  # motions per pair; Monodepth2 uses only the first and stores weights of both
STEP = 0.01  # a fresh network predicts motions near the identity


@NETWORKS.register("pose")
class Pose(nn.Module):
    """Predict the motion between two frames.

    Args:
        enc_name: timm model, or a name in `models_zoo.encoders.ENCODERS`, its first layer widened to 6 channels.
        pretrained: start from timm's weights; raises PretrainedUnavailable without access to them.
        mean, std: statistics of RGB in [0, 1] for the standardisation of both frames.
        enc_options: further arguments of an encoder of `ENCODERS`; null = none.
    """

    source: ClassVar[str] = "SfM-Learner, arXiv:1704.07813; Monodepth2, arXiv:1806.01260"

    def __init__(
        self,
        enc_name: str = "resnet18",
        pretrained: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        enc_options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if problems := pose_problems(enc_name, mean, std, enc_options):
            raise ValueError("pose network: " + "; ".join(problems))
        self.standardise = Standardise(mean, std, images=2)
        self.encoder = build_encoder(enc_name, pretrained, in_chans=6, deepest_only=True, options=enc_options)
        deepest = feature_spec(self.encoder).channels[-1]
        self.squeeze = nn.Sequential(nn.Conv2d(deepest, WIDTH, 1), nn.ReLU())
        hidden = [nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()) for _ in range(2)]
        self.decoder = nn.Sequential(*hidden, nn.Conv2d(WIDTH, 6 * SLOTS, 1))

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        return problems_of(cls, pose_problems, kwargs)

    def forward(self, pairs: Tensor) -> dict[str, Tensor]:
        """Predict the motion from the first to the second frame of each pair.

        pairs (b 6 h w): two RGB images in [0, 1] in temporal order; h, w multiples of 32, at least 64, else
        ValueError. Returns {"R": (b 2 3) axis-angle in radians, "t": (b 2 3) translation}, float32 even under
        autocast; slot 0 of the middle axis is the motion, slot 1 is unused.
        """
        check_images(pairs, channels=6)
        feats = encode(self.encoder, self.standardise(pairs))
        motion = at_least_float32(self.decoder(self.squeeze(feats[-1]))).mean(dim=(2, 3))
        motion = STEP * motion.view(-1, SLOTS, 6)
        return {"R": motion[..., :3], "t": motion[..., 3:]}


def pose_problems(
    enc_name: str, mean: Sequence[float], std: Sequence[float], enc_options: Mapping[str, Any] | None = None
) -> list[str]:
    """List what is wrong with the options of a pose network."""
    return encoder_problems(enc_name, enc_options) + statistics_problems(mean, std)
