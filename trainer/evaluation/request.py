"""One evaluation as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.config import EvaluationSection
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import dataset_class
from trainer.evaluation.subject import Subject
from trainer.metrics.protocol import DepthProtocol

TARGETS = "targets"  # stands for the data set of ground truth in a file where none is named


@dataclass(frozen=True)
class EvaluationRequest:
    """What is scored, on which items, by which protocols, and where the numbers go."""

    subject: Subject
    changes: Changes  # already part of `subject.cfg`
    settings: EvaluationSection  # None = the default
    mode: str = "test"
    targets: Path | None = None  # a file of ground truth, instead of that of the data set
    limit: int | None = None  # number of items, evenly spaced; None = all
    pose: bool = False  # score the direction of predicted motion, too
    odometry: bool = False  # score camera paths instead of depth
    vary: bool = False  # score under one change of the protocol at a time instead
    save: Path | None = None  # None = beside the run
    legacy: Path | None = None  # numbers alone, in an earlier spelling
    sheet: Path | None = None  # pictures
    num_sheet: int = 6  # items on the sheet
    batch_size: int = 8
    num_workers: int = 0

    @property
    def data_name(self) -> str:
        """Type of the data set; of ground truth in a file, the type that the changes name, or `TARGETS`."""
        if self.targets is not None and self.changes.dataset_type is None:
            return TARGETS
        return self.subject.cfg.dataset_kwargs(self.mode)[0]

    @cached_property
    def protocols(self) -> list[DepthProtocol]:
        """One protocol per alignment. Raises UserError for unknown names and an empty range of depth."""
        given, subject = self.settings, self.subject
        return [
            DepthProtocol(
                ["eigen"] if given.metrics is None else given.metrics,
                alignment,
                dataset_class(self.data_name).usual_crop if given.crop is None else given.crop,
                1e-3 if given.min_depth is None else given.min_depth,
                80.0 if given.max_depth is None else given.max_depth,
                flip=subject.is_flipped if subject.stored else bool(given.flip),
            )
            for alignment in dict.fromkeys(given.alignment or [subject.alignment])
        ]
