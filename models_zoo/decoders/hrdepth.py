"""The decoder of HR-Depth (arXiv:2012.07356): a triangle of nodes that fuses every level with the one below it.

Node (r, c) has stride 2**(r + 1). Column 0 holds the encoder features of strides 2 to 32; node (r, c) fuses the
upsampled node (r + 1, c - 1) with all nodes to its left:

    (0,0) (0,1) (0,2) (0,3) (0,4) -> scales 1 and 0
    (1,0) (1,1) (1,2) (1,3)       -> scale 2
    (2,0) (2,1) (2,2)             -> scale 3
    (3,0) (3,1)
    (4,0)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from models_zoo.assembling import share_padding, up2
from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import Decoder
from models_zoo.layers import ConvELU, SqueezeExcite, activate, conv3x3, convolve

DEEPEST = 4  # row of the feature of stride 32; the last node of row r stands in column DEEPEST - r
STRIDES = (2, 4, 8, 16, 32)  # of the rows


@DECODERS.register("hrdepth")
class HRDepthDecoder(Decoder):
    """Densely nested skips, fused by squeeze-and-excitation at the end of every row.

    Also works for encoders whose channels do not double from level to level. A missing feature of stride 2 is replaced
    by that of stride 4, upsampled. Raises ValueError for use_skip=False, and when another stride is missing.
    """

    source = "HR-Depth, arXiv:2012.07356"
    supports_init = True
    supports_no_skip = False

    def build(self) -> None:
        """Create the layers by the names of published keys."""
        reductions = list(self._feature_at)
        if not reductions:
            raise ValueError("hrdepth needs use_skip=True: it fuses encoder features at every level")
        if missing := sorted({*STRIDES[1:]} - {*reductions}):
            raise ValueError(
                f"hrdepth needs encoder features of strides {list(STRIDES)}, of which only 2 may be missing; "
                f"the encoder gives {reductions}, without {missing}. Choose e.g. resnet18 or convnext_tiny"
            )
        shallow = self._feature_at.get(2, self._feature_at[4])
        self._rows = (shallow, *(self._feature_at[stride] for stride in STRIDES[1:]))
        self._has_stride_2 = 2 in reductions

        sources = [self.channels[index] for index in self._rows]
        widths = [source // 2 for source in sources[1:]]  # channels of the new nodes of a row
        self.convs = nn.ModuleDict()
        for row, column in nodes():
            width, source = widths[row], f"{row + 1}{column - 1}"
            below = sources[row + 1] if column == 1 else widths[row + 1]
            fused = width + sources[row] + (column - 1) * width  # channels of all inputs of the node
            self.convs[f"{source}_conv_0"] = ConvELU(below, width)
            if row + column == DEEPEST:
                self.convs[f"{row}{column}_att"] = GatedFusion(fused, width)
                continue
            if column > 1:
                self.convs[f"{row}{column}_down"] = nn.Conv2d(fused, 2 * width, kernel_size=1, bias=False)
                fused = 2 * width
            self.convs[f"{source}_conv_1"] = ConvELU(fused, width)

        half = sources[1] // 4
        self.convs["04_conv_0"] = ConvELU(widths[0], half)
        self.convs["04_conv_1"] = ConvELU(half, half)
        for scale, width in enumerate([half, *widths[:3]]):
            if scale in self.out_scales:
                self.convs[f"outconv_{scale}"] = nn.Sequential(conv3x3(width, self.out_ch))

    def heads(self) -> Sequence[nn.Module]:
        return [self.convs[f"outconv_{scale}"] for scale in self.out_scales]

    def forward(self, feats: Sequence[Tensor]) -> dict[int, Tensor]:
        grid = [[feats[index]] for index in self._rows]
        if not self._has_stride_2:
            grid[0] = [up2(grid[0][0])]
        for row, column in nodes():
            source = f"{row + 1}{column - 1}"
            is_last, below = row + column == DEEPEST, grid[row + 1][column - 1]
            pad = column == 1 and not is_last  # else a 1x1 convolution or a gate follows
            x = convolve(self.convs[f"{source}_conv_0"], below, *grid[row], up=True, pad=pad)
            if is_last:
                x = self.convs[f"{row}{column}_att"](x)
                grid[row].append(share_padding(x) if row + 1 in self.out_scales else x)
                continue
            if column > 1:
                x = self.convs[f"{row}{column}_down"](x)
            grid[row].append(self.convs[f"{source}_conv_1"](x))

        x = convolve(self.convs["04_conv_0"], grid[0][-1], up=True, pad=True)
        x = convolve(self.convs["04_conv_1"], x, pad=True)
        maps = [x, grid[0][-1], grid[1][-1], grid[2][-1]]
        return {
            scale: activate(self.convs[f"outconv_{scale}"](maps[scale]), self.activation)
            for scale in sorted(self.out_scales)
        }


class GatedFusion(nn.Module):
    """Gate the channels of concatenated nodes and mix them: (b in_ch h w) -> (b out_ch h w), at least 0."""

    def __init__(self, in_ch: int, out_ch: int):
        super().__init__()
        self.se = SqueezeExcite(in_ch)
        self.conv = nn.Sequential(nn.Conv2d(in_ch, out_ch, kernel_size=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.se(x))


def nodes() -> Iterator[tuple[int, int]]:
    """Yield (row, column) of the computed nodes, column by column: each after those it is made from."""
    for column in range(1, DEEPEST + 1):
        for row in range(DEEPEST + 1 - column):
            yield row, column
