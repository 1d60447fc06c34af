"""The decoder with a discrete disparity volume of Johnston & Carneiro (arXiv:2003.13951)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import WIDTHS, LevelDecoder
from models_zoo.layers import at_least_float32, conv3x3

BINS = 128  # disparities j / 128 that an output is an expectation over


class ChannelAttention(nn.Module):
    """Mix the channels of a map by their similarity: (b c h w) -> (b c h w), without a residual.

    Query, key and value are 1x1 convolutions with ReLU. The c x c similarities are unscaled dot products over all
    h*w positions, too large for float16: they and the softmax are float32 even under autocast.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query_conv, self.key_conv, self.value_conv = (
            nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU()) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        convs = (self.query_conv, self.key_conv, self.value_conv)
        query, key, value = (at_least_float32(conv(x)).flatten(2) for conv in convs)  # (b c hw)
        with torch.autocast(x.device.type, enabled=False):
            similarity = (query @ key.transpose(1, 2)).softmax(dim=-1)  # (b c c)
            mixed = (similarity @ value).view(x.shape).to(next(self.parameters()).dtype)  # 16 bits of a 16-bit network
        if x.is_contiguous(memory_format=torch.channels_last):
            return mixed.contiguous(memory_format=torch.channels_last)
        return mixed


@DECODERS.register("ddvnet")
class DDVNetDecoder(LevelDecoder):
    """Attention on the deepest feature, then disparity as the mean of 128 bins.

    Deviates from the paper: there every position attends to all positions (hw x hw), here every channel to all
    channels (c x c), as in the weights of the benchmark of arXiv:2208.01489. Those include bins of their own; a new
    network has the untrained bins j / 128. Outputs lie in [0, 127/128]; `activation` is not applied, so there are no
    masks.
    """

    source = "Johnston & Carneiro, arXiv:2003.13951; arXiv:2208.01489"
    supports_mask = False
    bins: Tensor

    def make_entry(self) -> list[nn.Module]:
        self.register_buffer("bins", (torch.arange(BINS) / BINS).view(1, BINS, 1, 1))
        return [ChannelAttention(self.channels[-1])]

    def make_head(self, scale: int) -> nn.Module:
        return conv3x3(WIDTHS[scale], BINS * self.out_ch)

    def enter(self, feat: Tensor) -> Tensor:
        return self.decoder[0](feat)

    def output(self, x: Tensor) -> Tensor:
        """Average the bins: logits x (b 128*k h w), 128 per output channel -> (b k h w), at least float32."""
        groups = at_least_float32(x).unflatten(1, (-1, BINS))  # (b k 128 h w)
        return (groups.softmax(dim=2) * self.bins).sum(dim=2)
