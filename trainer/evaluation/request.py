"""One evaluation as it was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from trainer.config import EvaluationSection
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import dataset_class
from trainer.evaluation.predictions import Execution
from trainer.evaluation.subject import Subject
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.sparsification import STEPS, Sparsification
from trainer.runtime.processes import Processes

Motion = Literal["auto", "true", "learned"]  # auto = true where the data set has it, and depth
TARGETS = "targets"  # stands for the data set of ground truth in a file where none is named


@dataclass(frozen=True)
class EvaluationRequest:
    """What is scored, on which items, by which protocols, and where the numbers go."""

    subject: Subject
    changes: Changes  # already part of `subject.cfg`
    settings: EvaluationSection  # None = the default
    mode: str = "test"
    targets: Path | None = None  # a file of ground truth, instead of that of the data set
    trained_on: str | None = None  # a list of training frames that the user declares
    limit: int | None = None  # number of items, evenly spaced; None = all
    pooled: bool = False  # also give means over all pixels
    pose: bool = False  # score the direction of predicted motion, too
    odometry: bool = False  # score camera paths instead of depth
    temporal: Motion | None = None  # score depth from frame to frame instead, moved by this camera motion
    uncertainty: str | None = None  # where the uncertainty for sparsification comes from; None = none
    ensemble: Sequence[Path] = ()  # the other checkpoints of an ensemble
    sparsification_steps: int | None = None  # None = the default
    corrupt: Sequence[str] = ()  # kinds of corruption, or "all": score corrupted pictures, too
    corrupt_levels: Sequence[int] | None = None  # None = all
    corrupt_seed: int | None = None
    frost_pictures: Path | None = None  # a folder; None = a texture of our own
    vary: bool = False  # score under one change of the protocol at a time instead
    save: Path | None = None  # None = beside the run
    legacy: Path | None = None  # numbers alone, in an earlier spelling
    sheet: Path | None = None  # pictures
    num_sheet: int = 6  # items on the sheet
    batch_size: int = 8
    num_workers: int = 0

    def execution(self, processes: Processes, on_item: Callable[[], None]) -> Execution:
        """Return how items are read and predicted; those of a file are in memory already."""
        num_workers = self.num_workers if self.targets is None else 0
        return Execution(self.batch_size, num_workers, processes, on_item)

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
        steps = self.sparsification_steps or STEPS
        return [
            DepthProtocol(
                ["eigen"] if given.metrics is None else given.metrics,
                alignment,
                dataset_class(self.data_name).usual_crop if given.crop is None else given.crop,
                1e-3 if given.min_depth is None else given.min_depth,
                80.0 if given.max_depth is None else given.max_depth,
                flip=subject.is_flipped if subject.stored else bool(given.flip),
                extra={"sparsification": Sparsification(steps)} if self.uncertainty else {},
            )
            for alignment in dict.fromkeys(given.alignment or [self._usual_alignment])
        ]

    @property
    def _usual_alignment(self) -> str:
        return "lsqr_disp" if self.temporal else self.subject.alignment  # arXiv:2501.12375
