"""What every decoder has in common: five levels, from the stride-32 feature back to the image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from models_zoo.layers import ConvELU, activate, conv3x3, convolve

WIDTHS = (16, 32, 64, 128, 256)  # channels that level i (stride 2**i) ends with; Monodepth2, arXiv:1806.01260
LEVELS = (4, 3, 2, 1, 0)  # the order in which a decoder visits the levels
SCALES = (0, 1, 2, 3)  # the levels that can give an output
STRIDE = 32  # of the deepest feature: most decoders upsample five times from there


class Decoder(nn.Module, ABC):
    """Turn encoder features into maps (b out_ch h/2**s w/2**s) at every scale s of `out_scales`.

    Args:
        channels: E, channels of the encoder features, shallow to deep.
        reductions: R, their strides, of which `feature_problems` finds nothing wrong.
        out_scales: scales to predict; the order numbers the output convolutions in the state dict.
        out_ch: channels of every output.
        activation: key of `models_zoo.layers.ACTIVATIONS`, applied to every output.
        use_skip: fuse encoder features on the way up; False uses only the deepest, as in an autoencoder.
    """

    source: ClassVar[str]  # "Monodepth2, arXiv:1806.01260"
    supports_mask: ClassVar[bool] = True  # False: outputs are disparities by construction
    supports_init: ClassVar[bool] = False  # True: `heads` names what `set_output` needs
    supports_no_skip: ClassVar[bool] = True  # False: nothing is left of the idea without encoder features
    scales: ClassVar[Sequence[int]] = SCALES  # choices of `out_scales`
    reads_tokens: ClassVar[bool] = False  # True: reads the tokens of a plain ViT, of images of any size

    def __init__(
        self,
        channels: Sequence[int],
        reductions: Sequence[int],
        out_scales: Sequence[int] = SCALES,
        out_ch: int = 1,
        activation: str = "sigmoid",
        use_skip: bool = True,
    ):
        super().__init__()
        self.out_scales = tuple(out_scales)
        self.out_ch = out_ch
        self.activation = activation
        self.channels = tuple(channels)
        self._feature_at = {stride: index for index, stride in enumerate(reductions)} if use_skip else {}
        self.build()

    @classmethod
    def feature_problems(cls, reductions: Sequence[int]) -> list[str]:
        """List what keeps the decoder from reading encoder features of these strides; empty when it can."""
        if reductions[-1] == STRIDE:
            return []
        return [
            f"its feature maps have strides {list(reductions)}; the deepest must be {STRIDE},"
            " because decoders upsample five times from it. Choose e.g. resnet18, convnext_tiny, hrnet_w18"
        ]

    def build(self) -> None:
        """Create the layers; called by the constructor."""

    @abstractmethod
    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return {scale: map}, ascending, in float32; feats (b E_i h/R_i w/R_i) are shallow to deep."""

    def set_output(self, value: float) -> None:
        """Start from `value` everywhere, 0..1 of a sigmoid, of a metric decoder 1 / value: by biases of the output."""
        bias = value if self.activation in ("relu", "none") else math.log(value / (1 - value))
        for head in self.heads():
            *_, conv = (module for module in head.modules() if isinstance(module, nn.Conv2d))
            if conv.bias is not None:
                nn.init.constant_(conv.bias, bias)

    def heads(self) -> Sequence[nn.Module]:
        """Return the layers that end in an output convolution, one per scale; empty unless `supports_init`."""
        return ()

    def in_channels(self, level: int) -> int:
        """Channels that arrive at a level from the level below."""
        return self.channels[-1] if level == LEVELS[0] else WIDTHS[level + 1]

    def skip_index(self, level: int) -> int | None:
        """Position of the encoder feature with the stride of a level; None if missing, and at level 0."""
        return self._feature_at.get(2**level) if level > 0 else None

    def skip_channels(self, level: int) -> int:
        """Channels of the encoder feature that is fused at a level, 0 for none."""
        index = self.skip_index(level)
        return 0 if index is None else self.channels[index]


class LevelDecoder(Decoder):
    """The U-Net of Monodepth2, arXiv:1806.01260, whose parts subclasses replace: level after level, up to the image.

    `decoder` is flat, because the positions are the keys of published checkpoints: `make_entry`, then `make_level` from
    the deepest level up, then `make_head` in the order of `out_scales`.
    """

    def build(self) -> None:
        layers = self.make_entry()
        self._layers_at: dict[int, range] = {}
        for level in LEVELS:
            first, layers = len(layers), layers + self.make_level(level)
            self._layers_at[level] = range(first, len(layers))
        self._first_head = len(layers)
        self.decoder = nn.ModuleList(layers + [self.make_head(scale) for scale in self.out_scales])

    def make_entry(self) -> list[nn.Module]:
        """Create the layers in front of the first level."""
        return []

    def make_level(self, level: int) -> list[nn.Module]:
        """Create the layers of a level: a convolution before the upsampling, another after the skip."""
        width = WIDTHS[level]
        return [ConvELU(self.in_channels(level), width), ConvELU(width + self.skip_channels(level), width)]

    def make_head(self, scale: int) -> nn.Module:
        """Create the layers that turn a level into an output, before the activation."""
        return conv3x3(WIDTHS[scale], self.out_ch)

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        x = self.enter(feats[-1])
        outputs: dict[int, Tensor] = {}
        for level in LEVELS:
            skip = self.skip_index(level)
            x = self.rise(level, x, None if skip is None else feats[skip])
            if level in self.out_scales:
                outputs[level] = self.output(self.head(level)(x))
        return dict(sorted(outputs.items()))

    def enter(self, feat: Tensor) -> Tensor:
        """Prepare the deepest feature for the first level."""
        return feat

    def rise(self, level: int, x: Tensor, skip: Tensor | None) -> Tensor:
        """Turn the map below a level, (b in_channels h w), into that of the level, (b WIDTHS[level] 2h 2w)."""
        reduce, fuse = self.layers(level)
        return convolve(fuse, convolve(reduce, x, skip, up=True, pad=True), pad=True)

    def output(self, x: Tensor) -> Tensor:
        """Turn the result of a head into an output of the decoder."""
        return activate(x, self.activation)

    def layers(self, level: int) -> list[nn.Module]:
        return [self.decoder[i] for i in self._layers_at[level]]

    def head(self, scale: int) -> nn.Module:
        return self.decoder[self._first_head + self.out_scales.index(scale)]

    def heads(self) -> Sequence[nn.Module]:
        return [self.head(scale) for scale in self.out_scales if self.supports_init]
