"""Results of a checkpoint for its model card: numbers, and the protocol of each in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.runtime.errors import UserError
from trainer.tables.columns import Column, headings
from trainer.tables.results import Result, read_file, read_result

BLIND = "constant_depth"  # the guess that numbers are shown beside


@dataclass(frozen=True)
class Scores:
    """One result file of a checkpoint."""

    result: Result
    raw: Mapping[str, Any]  # the file, without its items

    @property
    def protocol(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.raw["protocol"]
        return found

    @property
    def data(self) -> str:
        """Data set, split and mode."""
        return self.result.protocol.get("dataset", "?")

    @property
    def blind(self) -> Mapping[str, float]:
        """Numbers of the best constant depth under the same protocol, by key; empty where there are none."""
        found: Mapping[str, float] = (self.raw.get("baselines") or {}).get(BLIND) or {}
        return found

    @property
    def words(self) -> str:
        """The protocol in words, as far as the file states it."""
        p, fields = self.protocol, self.result.protocol
        parts = [f"{self.data}, images: {p.get('limit') or p.get('items', '?')}"]
        if "size" in fields:
            parts.append(f"network input {fields['size']}")
        if "alignment" in p:
            factor = p.get("factor")
            how = f"depth x {factor:g}, nothing fitted to the truth" if isinstance(factor, int | float) else factor
            parts.append(f"alignment {p['alignment']}: {how}")
        if "depth" in fields:
            parts.append(f"truths of {fields['depth']} are scored, crop {p.get('crop')}")
        if "flip_post_processing" in p:
            flip = "blended with" if p["flip_post_processing"] else "without"
            parts.append(f"{flip} the prediction for the mirrored image")
        if "mean_over" in p:
            parts.append(f"mean over {p['mean_over']}")
        if self.result.leak:
            parts.append(f"{self.result.leak}, which flatters it")
        if "pixels" in fields:
            parts.append(f"only {fields['pixels']}")
        return "; ".join(parts)


def read_scores(folder: Path, digest: str) -> tuple[list[Scores], list[str]]:
    """Read the result files in `folder` that score the checkpoint with this SHA-256.

    Returns them, and a note for each file that is left out.
    """
    scores, notes = [], []
    for path in sorted(folder.glob("*.yaml")):
        try:
            raw, results = read_file(path, with_items=False), read_result(path)
        except UserError as error:
            notes.append(f"left out: {error}")
            continue
        protocol = raw.get("protocol") if isinstance(raw, Mapping) else None
        scored = protocol.get("checkpoint") if isinstance(protocol, Mapping) else None
        if isinstance(scored, Mapping) and scored.get("sha256") == digest:
            scores += [Scores(result, raw) for result in results]
        else:
            notes.append(f"left out: {path}: scores another checkpoint than this")
    return scores, notes


def table(scores: Sequence[Scores]) -> Iterator[str]:
    """Write a Markdown table: two rows per result, the network and the best constant depth, a column per metric."""
    columns: list[Column] = list(dict.fromkeys(column for one in scores for column in one.result.values))
    titles = headings(columns, names="title")
    units = {c: f" ({c.unit})" if c.unit not in ("", "fraction") else "" for c in columns}
    yield "| | | " + " | ".join(f"{titles[c]}{units[c]}" for c in columns) + " |"
    yield "|---|---|" + "---:|" * len(columns)
    for number, one in enumerate(scores, start=1):
        yield _row([f"{number}", "**this model**"], [one.result.values.get(c) for c in columns])
        if one.blind:
            yield _row(["", "best constant depth"], [one.blind.get(c.key) for c in columns])


def _row(names: Sequence[str], values: Sequence[float | None]) -> str:
    cells = ("-" if v is None else f"{v:.4f}" if abs(v) < 10 else f"{v:.2f}" for v in values)
    return f"| {' | '.join([*names, *cells])} |"
