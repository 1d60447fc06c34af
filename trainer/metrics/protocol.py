"""An evaluation protocol: which pixels count, how depth is aligned, what is measured; printable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models_zoo.registry import did_you_mean
from trainer.geometry import valid_depth
from trainer.metrics import METRICS, Curves, DepthMaps, MapMetricSet, Metric, MetricSet
from trainer.metrics.align import ALIGNMENTS, INFINITE, Fit
from trainer.metrics.crop import CROPS
from trainer.runtime.errors import UserError

HEADLINES = {"abs_rel": 1.0, "abs_rel_pct": 0.01}  # AbsRel, and its factor to a fraction; compares with baselines
Scores = dict[str, float]  # by key

EDGES = "_edges"  # suffix of the keys of numbers on true depth edges alone
CHOICES: dict[str, Callable[[], Mapping[str, Any]]] = {
    "alignment": lambda: ALIGNMENTS,
    "crop": lambda: CROPS,
    "metric set": lambda: {name: METRICS.get(name) for name in METRICS.names()},
}
ELSEWHERE = {"mono": "median"}  # what Monodepth2 and arXiv:2208.01489 call a choice, for the errors
EXTENDED = {"metric set": ". One of your own needs its module: --plugins MODULE"}  # kinds that plugins add to


class DepthProtocol:
    """Which pixels count, how depth is aligned, and what is measured.

    Args:
        metrics: names of metric sets; one of them must have AbsRel (`eigen` or `benchmark`).
        alignment: a name of `trainer.metrics.align`.
        crop: a name of `trainer.metrics.crop`.
        min_depth, max_depth: metres; truths between them count, predictions are clipped to that range.
        flip: whether predictions are blended with those of the mirror image; only stored.
        extra: sets beside `metrics`, by name.

    Raises UserError naming the choices when a name is unknown, when two sets give a key different units, and
    when the depth range is empty.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        alignment: str,
        crop: str,
        min_depth: float = 1e-3,
        max_depth: float = 80.0,
        flip: bool = False,
        extra: Mapping[str, MapMetricSet] | None = None,
    ):
        self.names = {"alignment": alignment, "crop": crop}
        self.alignment = choose("alignment", alignment)
        self.crop = choose("crop", crop)
        if not 0 < min_depth < max_depth:
            raise UserError(f"evaluation needs 0 < min_depth < max_depth, got {min_depth} and {max_depth} m")
        self.min_depth, self.max_depth, self.flip = float(min_depth), float(max_depth), flip
        self.sets: dict[str, MetricSet | MapMetricSet] = {
            **{n: choose("metric set", n)() for n in metrics},
            **(extra or {}),
        }
        self.units = self._units()
        self.headline = next((key for key in HEADLINES if key in self.units), "")
        if not self.headline:
            names = " ".join(metrics) or "[]"
            raise UserError(
                f"none of the metric sets {names} has AbsRel, by which results compare with those of blind guesses: add"
                f" eigen (--metrics {' '.join(['eigen', *metrics])}) or benchmark"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Inputs of the metric sets beside depth: "K", "edges", "foreground", "uncertainty"."""
        return frozenset().union(*(s.needs for s in self.sets.values() if isinstance(s, MapMetricSet)))

    @property
    def pixel_keys(self) -> list[str]:
        """Keys of the sets that need no maps, which baselines have, too."""
        return list(dict.fromkeys(key for s in self._pixel_sets for key in s.keys))

    @property
    def keys(self) -> list[str]:
        """Keys of an item of a data set without edges, in order."""
        return list(dict.fromkeys(key for s in self.sets.values() if not _on_edges(s) for key in s.keys))

    @property
    def edge_keys(self) -> list[str]:
        """Keys of the numbers on depth edges, in order."""
        repeated = [s for s in self.sets.values() if _is_scored(s, on_edges=True) and not _on_edges(s)]
        return [*dict.fromkeys(key + EDGES for s in repeated for key in s.keys), *self._own_edge_keys]

    def valid_pixels(self, truth: np.ndarray) -> np.ndarray:
        """Mark the pixels that count, (H W) bool. truth (H W) metres."""
        return valid_depth(truth, self.min_depth, self.max_depth) & self.crop.mask(*truth.shape)

    def where(self) -> str:
        return f"between {self.min_depth:g} and {self.max_depth:g} m inside the crop {self.names['crop']!r}"

    def clip(self, depth: np.ndarray) -> np.ndarray:
        """Clip metres to [min_depth, max_depth]."""
        return np.clip(depth, self.min_depth, self.max_depth)

    def score(self, pred: np.ndarray, truth: np.ndarray) -> Scores:
        """Score the valid pixels (n,), in metres, by the sets that need no maps. Clips the prediction."""
        pred = self.clip(pred)
        return _merged(s.compute(pred, truth) for s in self._pixel_sets)

    def score_image(
        self,
        pred: np.ndarray,
        truth: np.ndarray,
        K: np.ndarray | None = None,
        edges: np.ndarray | None = None,
        foreground: np.ndarray | None = None,
        uncertainty: np.ndarray | None = None,
    ) -> dict[str, Any] | None:
        """Align and score one image.

        Args:
            pred: depth (H W) in the unit of the network.
            truth: (H W) metres, 0 = none.
            K: (3 3) intrinsics in pixels of (H, W).
            edges: (H W) bool, depth edges of the truth. A second pass then aligns and scores valid edge pixels alone
                (arXiv:2208.01489); its keys end in `_edges`.
            foreground: (H W) in [0, 1], share of a pixel that a near object covers.
            uncertainty: (H W) of the prediction, larger = less certain.

        Returns `pixels`, `factor`; with a shift, `shift` and `nonpositive`, the pixels aligned to <= 0; `fallback`, a
        key of `FALLBACKS`, where another fit took the place of the alignment's; with a factor that ignores the truth,
        `truth_over_prediction`, the ratio of medians; the numbers of `unpredicted` and `infinite` pixels unless 0; then
        the metrics, and `curves` where a set has some. None without a valid pixel.
        """
        valid = self.valid_pixels(truth)
        if not valid.any():
            return None
        maps = DepthMaps(pred, truth, valid, valid, K, foreground=foreground, uncertainty=uncertainty)
        row = self._pass(maps, on_edges=False)
        scored = valid & edges if edges is not None else np.zeros_like(valid)
        if scored.any():
            found = self._pass(replace(maps, scored=scored), on_edges=True)
            found.pop("curves", None)
            row |= {key if key in self._own_edge_keys else key + EDGES: value for key, value in found.items()}
        return row

    def mean(self, scores: Sequence[Mapping[str, Any]], keys: Sequence[str] | None = None) -> Scores:
        """Average each metric over the images that have it."""
        wanted = [*self.keys, *self.edge_keys] if keys is None else keys
        columns = {key: [score[key] for score in scores if key in score] for key in wanted}
        return {key: float(np.mean(column)) for key, column in columns.items() if column}

    def abs_rel(self, scores: Mapping[str, Any]) -> float:
        """Return AbsRel of a network or a baseline as a fraction."""
        return HEADLINES[self.headline] * float(scores[self.headline])

    def describe(self, with_edges: bool = False) -> dict[str, Any]:
        """Return the protocol as stored beside the numbers; `with_edges` adds the pass over depth edges."""
        described = {
            "alignment": self.names["alignment"],
            "factor": self.alignment.rule,
            "crop": self.names["crop"],
            "min_depth_m": self.min_depth,
            "max_depth_m": self.max_depth,
            "resize": "inverse depth, bilinear, to the size of the truth",
            "flip_post_processing": self.flip,
            "mean_over": "images",
            "metrics": {
                name: {
                    "version": s.version,
                    "units": {m.key: m.unit for m in s.metrics},
                    "higher_is_better": [m.key for m in s.metrics if m.higher_is_better],
                    **({"rule": s.rule} if isinstance(s, MapMetricSet) and s.rule else {}),
                }
                for name, s in self.sets.items()
            },
        }
        if with_edges:
            described["edges"] = {
                "pixels": "valid ones on true depth edges",
                "alignment": "fitted to these pixels alone, for ibims too",
                "ending_of_keys": EDGES,
            }
        return described

    def _pass(self, maps: DepthMaps, on_edges: bool) -> dict[str, Any]:
        """Align and score the scored pixels of maps whose `pred` is not aligned yet."""
        ours, target = maps.pred[maps.scored], maps.truth[maps.scored].astype(np.float64)
        fit = self.alignment.fit(ours, target)
        metres = fit.apply(ours)
        row = {"pixels": len(ours), **self._facts(fit, ours, target, metres)}
        chosen = [s for s in self.sets.values() if _is_scored(s, on_edges)]
        if any(isinstance(s, MapMetricSet) for s in chosen):
            whole = fit.apply(maps.pred)
            maps = replace(maps, pred=self.clip(whole), unclipped=whole, truth=maps.truth.astype(np.float64))
        aligned = self.clip(metres)
        scores: list[Scores] = []
        curves: Curves = {}
        for metric_set in chosen:
            if isinstance(metric_set, MetricSet):
                scores.append(metric_set.compute(aligned, target))
            else:
                found, more = metric_set.measure(maps)
                scores.append(found)
                curves |= more
        return row | _merged(scores) | ({"curves": curves} if curves else {})

    def _facts(self, fit: Fit, pred: np.ndarray, truth: np.ndarray, metres: np.ndarray) -> dict[str, Any]:
        facts: dict[str, Any] = {"factor": fit.scale}
        if self.alignment.has_shift:
            facts |= {"shift": fit.shift, "nonpositive": int((metres <= 0).sum())}
            facts |= {"fallback": fit.fallback} if fit.fallback else {}
        elif not self.alignment.constant:
            centre = float(np.median(pred))
            facts["truth_over_prediction"] = float(np.median(truth)) / centre if centre > 0 else None
        odd = {"unpredicted": (pred <= 0).sum(), "infinite": (pred >= INFINITE / 2).sum()}
        return facts | {key: int(count) for key, count in odd.items() if count}

    @property
    def _pixel_sets(self) -> list[MetricSet]:
        return [s for s in self.sets.values() if isinstance(s, MetricSet)]

    @property
    def _own_edge_keys(self) -> list[str]:
        return [key for s in self.sets.values() if _on_edges(s) for key in s.keys]

    def _units(self) -> dict[str, str]:
        units: dict[str, Metric] = {}
        for name, metric_set in self.sets.items():
            for metric in metric_set.metrics:
                before = units.setdefault(metric.key, metric)
                if (before.unit, before.higher_is_better) != (metric.unit, metric.higher_is_better):
                    raise UserError(
                        f"the metric set {name!r} means another {metric.key!r} ({metric.unit}) than one before it"
                        f" ({before.unit}): ask for one at a time"
                    )
        return {key: metric.unit for key, metric in units.items()}


def _is_scored(metric_set: MetricSet | MapMetricSet, on_edges: bool) -> bool:
    """Whether a set is scored in the pass over depth edges, or else in that over all valid pixels."""
    if isinstance(metric_set, MetricSet):
        return True
    return metric_set.repeats_on_edges if on_edges else not _on_edges(metric_set)


def _on_edges(metric_set: MetricSet | MapMetricSet) -> bool:
    return isinstance(metric_set, MapMetricSet) and "edges" in metric_set.needs


def _merged(scores: Iterable[Scores]) -> Scores:
    """Join the scores of several sets. Raises ValueError when two give different numbers for one key."""
    joined: Scores = {}
    for score in scores:
        for key, value in score.items():
            before = joined.setdefault(key, value)
            if before is not value and not np.isclose(before, value, rtol=1e-9, atol=1e-12, equal_nan=True):
                raise ValueError(f"two metric sets give {key!r}: {before} and {value}. Rename one of them")
    return joined


def choose(kind: str, name: str) -> Any:
    """Return the choice with that name. Raises UserError naming the nearest and all choices."""
    known = CHOICES[kind]()
    if name not in known:
        near = did_you_mean(ELSEWHERE.get(name, name), known)
        raise UserError(f"{name!r} is not a known {kind}. {near}{EXTENDED.get(kind, '')}")
    return known[name]
