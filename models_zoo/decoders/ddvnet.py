"""The decoder with a discrete disparity volume of Johnston & Carneiro (arXiv:2003.13951)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import LEVELS, SCALES, WIDTHS, Decoder
from models_zoo.layers import ConvELU, at_least_float32, conv3x3, up2

BINS = 128  # disparities j / 128 that an output is an expectation over


class ChannelAttention(nn.Module):
    """Mix the channels of a map by their similarity: (b c h w) -> (b c h w), without a residual.

    Query, key and value are 1x1 convolutions with ReLU. The c x c similarities are unscaled dot products over all
    h*w positions, too large for float16: they and the softmax are computed in float32 whatever autocast says.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query_conv = _conv_relu(width)
        self.key_conv = _conv_relu(width)
        self.value_conv = _conv_relu(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed map in at least float32, in the memory format of x; see the class."""
        convs = (self.query_conv, self.key_conv, self.value_conv)
        query, key, value = (at_least_float32(conv(x)).flatten(2) for conv in convs)  # (b c hw)
        with torch.autocast(x.device.type, enabled=False):
            similarity = (query @ key.transpose(1, 2)).softmax(dim=-1)  # (b c c)
            mixed = (similarity @ value).view(x.shape)
        if x.is_contiguous(memory_format=torch.channels_last):
            return mixed.contiguous(memory_format=torch.channels_last)
        return mixed


def _conv_relu(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())


@DECODERS.register("ddvnet")
class DDVNetDecoder(Decoder):
    """Attention on the deepest feature, then disparity as the mean of 128 bins. arXiv:2003.13951.

    Deviates from the paper: there every position attends to all positions (hw x hw), here every channel to all
    channels (c x c), which is what the weights of the benchmark of arXiv:2208.01489 were trained with. Those weights
    bring bins of their own; a new network has j / 128, held in the state dict as a buffer and not trained. Outputs
    lie in [0, 127/128]; `activation` is not applied, so there are no masks.
    """

    source = "Johnston & Carneiro, arXiv:2003.13951; arXiv:2208.01489"
    supports_mask = False
    bins: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        reductions: Sequence[int],
        out_scales: Sequence[int] = SCALES,
        out_ch: int = 1,
        activation: str = "sigmoid",
        use_skip: bool = True,
    ):
        super().__init__(channels, reductions, out_scales, out_ch, activation, use_skip)
        self.register_buffer("bins", (torch.arange(BINS) / BINS).view(1, BINS, 1, 1))
        layers: list[nn.Module] = [ChannelAttention(self.channels[-1])]
        for level in LEVELS:
            width, skip = WIDTHS[level], self.skip_channels(level)
            layers += [ConvELU(self.in_channels(level), width), ConvELU(width + skip, width)]
        layers += [conv3x3(WIDTHS[scale], BINS * out_ch) for scale in self.out_scales]
        self.decoder = nn.ModuleList(layers)  # flat: the positions are the keys of published checkpoints

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return {scale: (b out_ch h/2**s w/2**s)}, ascending; feats (b E_i h/R_i w/R_i), shallow to deep."""
        x = self.decoder[0](feats[-1])
        outputs: dict[int, Tensor] = {}
        for step, level in enumerate(LEVELS):
            x = up2(self.decoder[1 + 2 * step](x))
            skip = self.skip_index(level)
            if skip is not None:
                x = torch.cat([x, feats[skip]], dim=1)
            x = self.decoder[2 + 2 * step](x)
            if level in self.out_scales:
                head = self.decoder[1 + 2 * len(LEVELS) + self.out_scales.index(level)]
                outputs[level] = self.expectation(head(x))
        return dict(sorted(outputs.items()))

    def expectation(self, logits: Tensor) -> Tensor:
        """Average the bins: logits (b 128*k h w), 128 per output channel -> (b k h w), at least float32."""
        groups = at_least_float32(logits).unflatten(1, (-1, BINS))  # (b k 128 h w)
        return (groups.softmax(dim=2) * self.bins).sum(dim=2)
