"""The encoders of Lite-Mono (arXiv:2211.13202): 2 to 8 M parameters, dilated convolutions, attention among channels.

Parameters have the names of the published files.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import FeatureInfo
from torch import Tensor, nn

from models_zoo.encoders import ENCODERS
from models_zoo.layers import at_least_float32
from models_zoo.registry import problems_of

STRIDES = (4, 8, 16)  # of the three stages
EXPANSION = 6  # of the channels inside a block
HEADS = 8
FREQUENCIES = 32  # of the position code, per axis
NORM_EPS, GAMMA = 1e-6, 1e-6  # of layer norms; the scale that residual branches start with
WEIGHTS = "ImageNet weights of the authors, linked from github.com/noahzn/Lite-Mono"

# Dilations of three local blocks: of all threes of a stage, but for the last one of the third stage; and of this one.
Dilations = tuple[tuple[int, int, int], tuple[int, int, int]]
DILATIONS: dict[str, Dilations] = {"small": ((1, 2, 3), (2, 4, 6)), "large": ((1, 2, 5), (2, 4, 10))}


@ENCODERS.register("litemono")
class LiteMono(nn.Module):
    """Three stages of local blocks, each closed by a global one: (b 3 h w) -> (b c h/s w/s), s = 4, 8, 16.

    Every stage also reads the image, shrunk to its size, and the input of the stage before it. Layer norms of local
    blocks are in published files and never used: they are kept, frozen, so that files load unchanged.

    Args:
        in_chans: channels of the standardised images. Lite-Mono has (x - 0.45) / 0.225: `mean`, `std` of the network.
        dilation: "small": as trained at 640 x 192; "large": as trained at 1024 x 320. No weight depends on it.
        drop_path: probability of leaving out the last block, 0..1; that of the others rises to it from 0.
    """

    source: ClassVar[str] = "Lite-Mono, arXiv:2211.13202"
    weights: ClassVar[str] = WEIGHTS
    dims: ClassVar[tuple[int, int, int]] = (48, 80, 128)
    blocks: ClassVar[tuple[int, int, int]] = (4, 4, 10)
    dilations: ClassVar[dict[str, Dilations]] = DILATIONS

    def __init__(self, in_chans: int = 3, dilation: Literal["small", "large"] = "small", drop_path: float = 0.2):
        super().__init__()
        if problems := litemono_problems(dilation, drop_path):
            raise ValueError("; ".join(problems))
        first = self.dims[0]
        stem = nn.Sequential(_stem(in_chans, first, stride=2), *(_stem(first, first, stride=1) for _ in range(2)))
        self.stem2 = nn.Sequential(_conv(first + in_chans, first, stride=2))
        self.downsample_layers = nn.ModuleList([stem])
        for narrow, wide in pairwise(self.dims):
            self.downsample_layers.append(nn.Sequential(_conv(2 * narrow + in_chans, wide, stride=2)))

        last = sum(self.blocks) - 1
        rates = iter([drop_path * i_block / last for i_block in range(last + 1)])
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(LocalBlock(dim, size, next(rates)) for size in self.sizes(dilation, i_stage)),
                GlobalBlock(dim, next(rates), has_position=i_stage == 0),
            )
            for i_stage, dim in enumerate(self.dims)
        )
        self.feature_info = FeatureInfo(
            [
                {"num_chs": dim, "reduction": stride, "module": f"stages.{i_stage}"}
                for i_stage, (dim, stride) in enumerate(zip(self.dims, STRIDES, strict=True))
            ],
            out_indices=(0, 1, 2),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        return problems_of(cls, litemono_problems, kwargs)

    @classmethod
    def sizes(cls, dilation: str, i_stage: int) -> Sequence[int]:
        """Return the dilations of the local blocks of a stage."""
        period, ending = cls.dilations[dilation]
        count = cls.blocks[i_stage] - 1
        return period * (count // 3) if i_stage < 2 else period * (count // 3 - 1) + ending

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps; see the class. Sides of the images are multiples of 16."""
        small = [images]  # the image at strides 1, 2, 4, 8
        for _ in range(3):
            small.append(F.avg_pool2d(small[-1], 3, stride=2, padding=1))  # zeros beyond the border count
        x = self.stem2(torch.cat([self.downsample_layers[0](images), small[1]], dim=1))
        feats: list[Tensor] = []
        for i_stage, stage in enumerate(self.stages):
            if i_stage:
                x = self.downsample_layers[i_stage](torch.cat([x, feats[-1], small[i_stage + 1]], dim=1))
            feats.append(stage(x))
        return feats


@ENCODERS.register("litemono_small")
class LiteMonoSmall(LiteMono):
    """Lite-Mono-small: `litemono` with fewer blocks in the last stage."""

    blocks = (4, 4, 7)


@ENCODERS.register("litemono_tiny")
class LiteMonoTiny(LiteMono):
    """Lite-Mono-tiny: `litemono_small` with fewer channels in the first two stages."""

    dims = (32, 64, 128)
    blocks = (4, 4, 7)


@ENCODERS.register("litemono_8m")
class LiteMono8M(LiteMono):
    """Lite-Mono-8M: `litemono` with more channels. Its dilations are the small ones at 1024 x 320, too."""

    dims = (64, 128, 224)
    dilations = dict.fromkeys(DILATIONS, DILATIONS["small"])


class LocalBlock(nn.Module):
    """Convolve every channel 3x3 with a dilation, mix the channels per pixel, add: (b dim h w) -> (b dim h w)."""

    def __init__(self, dim: int, dilation: int, drop_path: float):
        super().__init__()
        conv = nn.Conv2d(dim, dim, 3, padding=dilation, dilation=dilation, groups=dim, bias=False)
        self.ddwconv = nn.Sequential(OrderedDict(conv=conv))
        self.bn1 = nn.BatchNorm2d(dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS).requires_grad_(False)  # never used, see `LiteMono`
        self.pwconv1 = nn.Linear(dim, EXPANSION * dim)
        self.pwconv2 = nn.Linear(EXPANSION * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), GAMMA))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.ddwconv(x)).permute(0, 2, 3, 1)  # (b h w dim)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + self.drop_path(y.permute(0, 3, 1, 2))


class GlobalBlock(nn.Module):
    """Attend among channels over all pixels, mix the channels per pixel, add: (b dim h w) -> (b dim h w).

    What is added to is the input itself, before the position code and the attention.
    """

    def __init__(self, dim: int, drop_path: float, has_position: bool):
        super().__init__()
        self.pos_embd = PositionCode(dim) if has_position else None
        self.norm_xca = nn.LayerNorm(dim, eps=NORM_EPS)
        self.gamma_xca = nn.Parameter(torch.full((dim,), GAMMA))
        self.xca = ChannelAttention(dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, EXPANSION * dim)
        self.pwconv2 = nn.Linear(EXPANSION * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), GAMMA))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        marked = x if self.pos_embd is None else x + self.pos_embd(x)
        tokens = marked.permute(0, 2, 3, 1).flatten(1, 2)  # (b hw dim)
        tokens = tokens + self.gamma_xca * self.xca(self.norm_xca(tokens))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(tokens))))
        y = y.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)
        return x + self.drop_path(y)


class ChannelAttention(nn.Module):
    """Mix the channels of each head by their likeness over all positions: (b n dim) -> (b n dim).

    Cross-covariance attention; XCiT, arXiv:2106.09681. Likeness and softmax are float32 even under autocast, because
    they sum over all positions.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 4, 1)  # (3 b heads dim/heads n)
        with torch.autocast("cpu" if tokens.is_meta else tokens.device.type, enabled=False):  # meta tensors have none
            query, key, value = at_least_float32(parts).unbind()
            likeness = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
            mixed = (likeness * self.temperature).softmax(dim=-1) @ value  # (b heads dim/heads n)
        return self.proj(mixed.permute(0, 3, 1, 2).flatten(2).to(parts.dtype))


class PositionCode(nn.Module):
    """Waves along both axes, projected to the channels of a map: (b dim h w) -> (1 dim h w)."""

    def __init__(self, dim: int):
        super().__init__()
        self.token_projection = nn.Conv2d(2 * FREQUENCIES, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows, columns = (waves(length, x.device) for length in (h, w))
        code = torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], dim=-1)
        return self.token_projection(code.permute(2, 0, 1)[None].to(x.dtype))


def waves(length: int, device: torch.device) -> Tensor:
    """Code the positions of an axis: (length, FREQUENCIES), sine and cosine in turn, fast ones first, float32."""
    place = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * (2 * math.pi)
    slowness = 10000 ** (torch.arange(0, FREQUENCIES, 2, dtype=torch.float32, device=device) / FREQUENCIES)
    phase = place[:, None] / slowness
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)


def litemono_problems(dilation: Any, drop_path: Any) -> list[str]:
    """List what is wrong with the options of an encoder of Lite-Mono."""
    problems = []
    if dilation not in [*DILATIONS]:  # it may be unhashable
        problems.append(f"dilation is {dilation!r}; choose small (trained at 640 x 192) or large (1024 x 320)")
    if not isinstance(drop_path, int | float) or not 0 <= drop_path < 1:
        problems.append(f"drop_path is {drop_path!r}; it must be a number from 0 to below 1")
    return problems


def _conv(n_in: int, n_out: int, stride: int, **layers: nn.Module) -> nn.Sequential:
    """Build a 3x3 convolution without bias, under the name `conv`, and further layers under theirs."""
    conv = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, **layers))


def _stem(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Build a convolution, batch norm and GELU."""
    return _conv(n_in, n_out, stride, bn_gelu=nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(n_out), act=nn.GELU())))
