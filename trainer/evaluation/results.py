"""The result of an evaluation, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.metrics.legacy import legacy_rows
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime import files, yaml_text

RESULT_FORMAT = 1  # of the result file


@dataclass
class EvaluationResult:
    """Means over the items, those of blind guesses under the same protocol, and each item."""

    setup: DepthProtocol = field(repr=False, compare=False)
    mean: dict[str, float]  # over items
    interval: dict[str, Any]  # of the means, as `trainer.metrics.resampling.intervals` has it
    factor: dict[str, float]  # median of the alignment factors, and their std / median where it is not 0
    baselines: dict[str, dict[str, Any]]  # "constant_depth", "row_mean_depth": how made, its means
    protocol: dict[str, Any]
    items: list[dict[str, Any]] = field(repr=False)
    skipped: list[str] = field(default_factory=list)  # names of items without a valid pixel
    pose: dict[str, Any] | None = None
    curves: dict[str, list[float]] = field(default_factory=dict, repr=False)  # mean over items, by name
    remarks: list[str] = field(default_factory=list)  # what is unusual about the predictions
    pooled: dict[str, Any] | None = None  # means over all pixels, as of `trainer.evaluation.pooling`

    @property
    def abs_rel(self) -> float:
        """Mean AbsRel, a fraction."""
        return self.setup.abs_rel(self.mean)

    @property
    def ratio_to_constant(self) -> float:
        """AbsRel over that of the best constant depth; below 1, the network makes use of the image."""
        constant = self.setup.abs_rel(self.baselines["constant_depth"])
        return self.abs_rel / constant if constant else math.inf


def save_result(result: EvaluationResult, path: str | Path) -> None:
    """Write numbers, protocol and every item as YAML. The file appears complete or not at all.

    Raises CannotWrite, a UserError, when the disk refuses.
    """
    head = {
        "mean": result.mean,
        **({"pooled": result.pooled} if result.pooled else {}),
        "interval": result.interval,
        "baselines": result.baselines,
        "ratio_to_constant_depth": result.ratio_to_constant,
        "factor": result.factor,
        **({"pose": result.pose} if result.pose else {}),
        **({"remarks": result.remarks} if result.remarks else {}),
        "protocol": result.protocol,
    }
    curves = {"curves": result.curves} if result.curves else {}
    rows = {**curves, "items": result.items, "skipped": result.skipped}
    write_result(path, head, rows, width=10**6, default_flow_style=None)  # one line per item


def save_legacy(result: EvaluationResult, path: str | Path) -> None:
    """Write the means (the items, if they have categories) alone, spelled as in arXiv:2208.01489; see `legacy_rows`.

    Raises CannotWrite, a UserError, when the disk refuses.
    """
    rows = legacy_rows(result.items, result.setup)
    _write(path, yaml.safe_dump(rows, sort_keys=False, width=10**6, default_flow_style=False))


def write_result(path: str | Path, head: Mapping[str, Any], rows: Mapping[str, Any], **style: Any) -> None:
    """Write a result file: the format, `head`, then `rows` in a YAML style. Raises CannotWrite."""
    text = yaml.safe_dump({"format": RESULT_FORMAT, **head}, sort_keys=False, width=120)
    _write(path, text + yaml.safe_dump(rows, sort_keys=False, **style))


def read_head(path: Path) -> dict[str, Any] | None:
    """Read a result without its items; None where there is none that can be read."""
    try:
        content = yaml_text.load(files.read_file(path).decode().partition("\nitems:")[0])
    except (OSError, ValueError, yaml.YAMLError):  # no result, so it is replaced
        return None
    return content if isinstance(content, dict) else None


def _write(path: str | Path, text: str) -> None:
    files.make_folder(Path(path).parent)
    files.write_text(Path(path), text)
