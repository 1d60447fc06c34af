"""Scores of a depth network on corrupted pictures, relative to a baseline: mCE, mRR, RmCE.

Kong et al., *RoboDepth*, arXiv:2310.15171. All start from DEE, the depth estimation error of a kind of corruption:
AbsRel and 1 - δ1 in equal parts, averaged over its levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

SOURCE = "RoboDepth, arXiv:2310.15171"
DEE_DIGITS = 3  # after the point, of the published DEE that scores are made of
FORMULAS: Mapping[str, str] = MappingProxyType(
    {
        "dee": f"(AbsRel - δ1 + 1) / 2 of the means over levels, rounded to {DEE_DIGITS} decimals",
        "ce": "100 DEE / DEE of the baseline; mCE: mean over kinds",
        "rr": "100 (1 - DEE) / (1 - DEE of the clean pictures); mRR: mean over kinds",
        "rmce": "mean over kinds of (DEE - clean) / (the same of the baseline)",
    }
)


@dataclass(frozen=True)
class Baseline:
    """DEE of a published network."""

    name: str
    source: str
    clean: float
    kinds: Mapping[str, float]  # by kind of corruption


MONODEPTH2 = Baseline(
    "Monodepth2, ResNet-18, mono, 640x192",
    SOURCE,
    0.119,
    MappingProxyType(
        {
            "brightness": 0.130,
            "dark": 0.280,
            "fog": 0.155,
            "frost": 0.277,
            "snow": 0.511,
            "contrast": 0.187,
            "defocus_blur": 0.244,
            "glass_blur": 0.242,
            "motion_blur": 0.216,
            "zoom_blur": 0.201,
            "elastic_transform": 0.129,
            "color_quant": 0.193,
            "gaussian_noise": 0.384,
            "impulse_noise": 0.389,
            "shot_noise": 0.340,
            "iso_noise": 0.388,
            "pixelate": 0.145,
            "jpeg_compression": 0.196,
        }
    ),
)


@dataclass(frozen=True)
class Robustness:
    """Scores of one network; `kinds` in the order of its errors."""

    ce_pct: Mapping[str, float]  # error relative to the baseline, by kind
    rr_pct: Mapping[str, float]  # what is left of the accuracy on clean pictures, by kind; NaN if there was none
    rmce: float  # what is lost, relative to what the baseline loses

    @property
    def mce_pct(self) -> float:
        """Mean CE, lower is better; 100 for the baseline."""
        return _mean(self.ce_pct.values())

    @property
    def mrr_pct(self) -> float:
        """Mean resilience, higher is better."""
        return _mean(self.rr_pct.values())


def dee(abs_rel: float, delta1: float) -> float:
    """Depth estimation error of AbsRel and δ1, both fractions: in [0, ..], 0 for a perfect prediction; rounded."""
    return round((abs_rel - delta1 + 1) / 2, DEE_DIGITS)


def robustness(clean: float, kinds: Mapping[str, float], baseline: Baseline = MONODEPTH2) -> Robustness:
    """Compare the DEE of some kinds of corruption, and of the clean pictures, with those of a baseline."""
    base = baseline.kinds
    return Robustness(
        ce_pct={kind: 100 * error / base[kind] for kind, error in kinds.items()},
        rr_pct={kind: 100 * (1 - error) / (1 - clean) if clean < 1 else math.nan for kind, error in kinds.items()},
        rmce=_mean((error - clean) / (base[kind] - baseline.clean) for kind, error in kinds.items()),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
