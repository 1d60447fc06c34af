"""Decoders that published files hold twice, and layers in them that no output depends on.

hrdepth and diffnet were stored under `convs.<name>` and again, as a flat list, under `decoder.<N>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Layers = Callable[[Sequence[int]], list[str]]  # out_scales -> names below `convs.`

_HRDEPTH = (
    *(f"{row}{column}_conv_0" for column in range(4) for row in range(5 - column)),
    *("04_conv_0", "04_conv_1"),
    *("31_att", "22_att", "13_att", "04_att"),
    *("10_conv_1", "20_conv_1", "30_conv_1"),
    *("02_down", "11_conv_1", "12_down", "21_conv_1", "03_down", "12_conv_1"),
)
_DIFFNET = (*(f"upconv_{level}" for level in (4, 3, 2, 1, 0)), *(f"outconv_{scale}" for scale in range(4)))

ALIASES: dict[str, Layers] = {  # decoder -> the name of number N
    "hrdepth": lambda scales: [*_HRDEPTH, *(f"outconv_{scale}" for scale in sorted(scales))],
    "diffnet": lambda scales: [*_DIFFNET],
}
DEAD: dict[str, Layers] = {
    "hrdepth": lambda scales: [f"0{column}_conv_0" for column in range(4)],
    "diffnet": lambda scales: [f"outconv_{scale}" for scale in range(4) if scale not in scales],
}
