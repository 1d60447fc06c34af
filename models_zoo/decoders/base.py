"""What every decoder is built from and returns: five levels, from the stride-32 feature back to the image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128, 256)  # channels that level i (stride 2**i) ends with; Monodepth2, arXiv:1806.01260
LEVELS = (4, 3, 2, 1, 0)  # the order in which a decoder visits the levels
SCALES = (0, 1, 2, 3)  # the levels that can give an output


class Decoder(nn.Module, ABC):
    """Turn encoder features into maps (b out_ch h/2**s w/2**s) at every scale s of `out_scales`.

    Args:
        channels: E, channels of the encoder features, shallow to deep.
        reductions: R, their strides; the last is 32.
        out_scales: scales to predict; the order numbers the output convolutions in the state dict.
        out_ch: channels of every output.
        activation: key of `models_zoo.layers.ACTIVATIONS`, applied to every output.
        use_skip: fuse encoder features on the way up; False uses only the deepest, as an autoencoder wants.
    """

    source: ClassVar[str]  # where the decoder was published: "Monodepth2, arXiv:1806.01260"
    supports_mask: ClassVar[bool] = True  # False: outputs are disparities by construction
    supports_init: ClassVar[bool] = False  # True: `output_convs` names what `set_output` needs
    supports_no_skip: ClassVar[bool] = True  # False: nothing is left of the idea without encoder features

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
        self.activation = activation
        self.channels = tuple(channels)
        self._feature_at = {stride: index for index, stride in enumerate(reductions)} if use_skip else {}

    def set_output(self, value: float) -> None:
        """Make a sigmoid decoder start from `value`, 0..1, everywhere: the biases of its output convolutions."""
        for head in self.output_convs():
            if head.bias is not None:
                nn.init.constant_(head.bias, math.log(value / (1 - value)))

    def output_convs(self) -> Sequence[nn.Conv2d]:
        """The convolutions before the activation, one per scale; none where outputs are made differently."""
        return ()

    @abstractmethod
    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return {scale: map}, ascending, in float32; feats (b E_i h/R_i w/R_i) are shallow to deep."""

    def in_channels(self, level: int) -> int:
        """Channels that arrive at a level from the level below."""
        return self.channels[-1] if level == LEVELS[0] else WIDTHS[level + 1]

    def skip_index(self, level: int) -> int | None:
        """Position of the encoder feature with the stride of a level; None for none, and at level 0."""
        return self._feature_at.get(2**level) if level > 0 else None

    def skip_channels(self, level: int) -> int:
        """Channels of the encoder feature that is fused at a level, 0 for none."""
        index = self.skip_index(level)
        return 0 if index is None else self.channels[index]
