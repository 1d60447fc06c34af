"""Decoders that published files hold twice, and layers in them that no output depends on.

hrdepth and diffnet were stored under `convs.<name>` and again, as a flat list, under `decoder.<N>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HRDEPTH = (
    *(f"{row}0_conv_0" for row in range(5)),
    *(f"{row}1_conv_0" for row in range(4)),
    *(f"{row}2_conv_0" for row in range(3)),
    *(f"{row}3_conv_0" for row in range(2)),
    *("04_conv_0", "04_conv_1"),
    *("31_att", "22_att", "13_att", "04_att"),
    *("10_conv_1", "20_conv_1", "30_conv_1"),
    *("02_down", "11_conv_1", "12_down", "21_conv_1", "03_down", "12_conv_1"),
)
_SCALES = range(4)


def _hrdepth_layers(scales: Sequence[int]) -> list[str]:
    return [*_HRDEPTH, *(f"outconv_{scale}" for scale in sorted(scales))]


def _diffnet_layers(scales: Sequence[int]) -> list[str]:
    return [*(f"upconv_{level}" for level in (4, 3, 2, 1, 0)), *(f"outconv_{scale}" for scale in _SCALES)]


def _hrdepth_dead(scales: Sequence[int]) -> list[str]:
    return [f"0{column}_conv_0" for column in range(4)]


def _diffnet_dead(scales: Sequence[int]) -> list[str]:
    return [f"outconv_{scale}" for scale in _SCALES if scale not in scales]


Layers = Callable[[Sequence[int]], list[str]]  # out_scales -> names below `convs.`

ALIASES: dict[str, Layers] = {"hrdepth": _hrdepth_layers, "diffnet": _diffnet_layers}  # N -> name
DEAD: dict[str, Layers] = {"hrdepth": _hrdepth_dead, "diffnet": _diffnet_dead}
