"""The pose network: camera motion between two images, and the camera itself if asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo import NETWORKS
from models_zoo.encoders.build import build_encoder, check_images, encode, encoder_problems, feature_spec
from models_zoo.layers import at_least_float32
from models_zoo.registry import problems_of
from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD, Standardise, statistics_problems

WIDTH = 256
SLOTS = 2  # motions per pair; Monodepth2 uses only the first and stores weights of both
STEP = 0.01  # a fresh network predicts motions near the identity
FOCAL = 0.69  # of a new camera, in image sides: that of a new head, softplus(0)
FOCAL_LIMITS = (0.1, 20.0)  # image sizes: 157 to 3 degrees; what `K_init` may name


@NETWORKS.register("pose")
class Pose(nn.Module):
    """Predict the motion between two frames, and on demand the camera that took them.

    Args:
        enc_name: timm model, or a name in `models_zoo.encoders.ENCODERS`, its first layer widened to 6 channels.
        pretrained: true = start from timm's weights, which are downloaded once; a path = from those of a file, see
            docs/tasks/pretrained.md. Raises PretrainedUnavailable or UnreadableWeights when they cannot be had.
        mean: mean of RGB in [0, 1] for the standardisation of both frames.
        std: deviation of RGB in [0, 1] for the standardisation of both frames.
        learn_K: learn the camera, too (arXiv:1904.04998), in place of the K of the data: true = focal lengths and
            principal point of each pair; focal = one focal length of all pairs, a number, while centre and shape of the
            pixels, fy / fx, are the data's.
        K_init: what a new network predicts for every pair at first: fx, fy, cx, cy in image widths and heights, or fx
            alone with `learn_K: focal`; null = focal lengths near 0.69, 72 degrees.
        enc_options: further arguments of an encoder of `ENCODERS`; null = none.
    """

    source: ClassVar[str] = (
        "SfM-Learner, arXiv:1704.07813; Monodepth2, arXiv:1806.01260; learn_K: Gordon et al., arXiv:1904.04998, SlowTV,"
        " arXiv:2307.10713"
    )

    def __init__(
        self,
        enc_name: str = "resnet18",
        pretrained: bool | str = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        learn_K: bool | Literal["focal"] = False,
        K_init: Sequence[float] | None = None,
        enc_options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if problems := pose_problems(enc_name, mean, std, learn_K, K_init, enc_options):
            raise ValueError("pose network: " + "; ".join(problems))
        self.standardise = Standardise(mean, std, images=2)
        self.encoder = build_encoder(
            enc_name, pretrained, in_chans=6, deepest_only=True, options=enc_options, network="pose"
        )
        deepest = feature_spec(self.encoder).channels[-1]
        self.squeeze = nn.Sequential(nn.Conv2d(deepest, WIDTH, 1), nn.ReLU())
        self.decoder = _branch(6 * SLOTS)
        self.learn_K = learn_K
        if learn_K == "focal":  # its logarithm: a learning rate is a relative change then
            self.focal_length = nn.Parameter(torch.tensor(K_init or [FOCAL]).log())
        elif learn_K:
            self.focal, self.centre = _branch(2), _branch(2)
            if K_init is not None:
                focal, centre = torch.tensor(K_init, dtype=torch.float64).view(2, 2)
                _start(self.focal, focal.expm1().log())  # the inverse of softplus
                _start(self.centre, centre.logit())

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        return problems_of(cls, pose_problems, kwargs)

    def forward(self, pairs: Tensor) -> dict[str, Tensor]:
        """Predict the motion from the first to the second frame of each pair.

        pairs (b 6 h w): two RGB images in [0, 1] in temporal order; h, w multiples of 32, at least 64, else
        ValueError. Returns {"R": (b 2 3) axis-angle in radians, "t": (b 2 3) translation}, float32 even under
        autocast; slot 0 of the middle axis is the motion, slot 1 is unused. With `learn_K` also {"focal": (b 2) = fx,
        fy > 0, "centre": (b 2) = cx, cy in (0, 1)}, both in image widths and heights; with `learn_K: focal` {"focal":
        (b 1) = fx} alone.
        """
        check_images(pairs, channels=6)
        feats = self.squeeze(encode(self.encoder, self.standardise(pairs))[-1])
        motion = STEP * _pooled(self.decoder, feats).view(-1, SLOTS, 6)
        out = {"R": motion[..., :3], "t": motion[..., 3:]}
        if self.learn_K == "focal":
            out["focal"] = at_least_float32(self.focal_length).exp().expand(len(pairs), 1)
        elif self.learn_K:
            with torch.autocast(feats.device.type, enabled=False):  # 16 bit would round K to half a per cent
                out["focal"] = F.softplus(_pooled(self.focal, at_least_float32(feats)))
                out["centre"] = _pooled(self.centre, at_least_float32(feats)).sigmoid()
        return out


def _branch(outputs: int) -> nn.Sequential:
    hidden = [nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()) for _ in range(2)]
    return nn.Sequential(*hidden, nn.Conv2d(WIDTH, outputs, 1))


def _pooled(branch: nn.Module, feats: Tensor) -> Tensor:
    return at_least_float32(branch(feats)).mean(dim=(2, 3))


@torch.no_grad()
def _start(branch: nn.Sequential, values: Tensor) -> None:
    """Let a branch give `values` for every input until it learns."""
    last: Any = branch[-1]
    last.weight.zero_()
    last.bias.copy_(values)


def pose_problems(
    enc_name: str,
    mean: Sequence[float],
    std: Sequence[float],
    learn_K: bool | Literal["focal"] = False,
    K_init: Sequence[float] | None = None,
    enc_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """List what is wrong with the options of a pose network."""
    problems = encoder_problems(enc_name, enc_options) + statistics_problems(mean, std)
    if K_init is None:
        return problems
    if not learn_K:
        problems.append("K_init starts a learned camera: set learn_K: true or focal, or K_init: null")
    near, far = FOCAL_LIMITS
    lengths, centre = (K_init[:1], K_init[1:]) if learn_K == "focal" else (K_init[:2], K_init[2:])
    whole = len(K_init) == (1 if learn_K == "focal" else 4)
    if not (whole and all(near <= f <= far for f in lengths) and all(0 < c < 1 for c in centre)):
        wanted, sides = (
            (f"[fx], one number from {near:g} to {far:g} in image widths with learn_K: focal", "width")
            if learn_K == "focal"
            else (
                f"fx, fy ({near:g} to {far:g}) and cx, cy (0 to 1) in image widths and heights",
                "width, height, width, height",
            )
        )
        problems.append(f"K_init must be {wanted}, not {list(K_init)}; pixels are divided by {sides}")
    return problems
