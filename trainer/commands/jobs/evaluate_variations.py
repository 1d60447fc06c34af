"""One evaluation under changes of its protocol, one at a time: its work, table and file."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from trainer import __version__
from trainer.commands.jobs.evaluate_options import check_outputs
from trainer.evaluation import evenly_spaced, leaks
from trainer.evaluation.places import announced, apart, variations_path
from trainer.evaluation.reference import check_order, open_truths
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Network, progress, start
from trainer.evaluation.variations import open_other_truths, report_variations, save_variations, vary


def score_variations(request: EvaluationRequest) -> int:
    """Check everything, then load, score, print, save. Raises UserError for the mistakes of a user."""
    subject = request.subject
    items, about_items = open_truths(request)
    truths, missing = open_other_truths(request, about_items["dataset"])
    check_outputs(request, items)
    if subject.stored:
        check_order(subject.stored, items, about_items["dataset"], request)
    leaked = leaks.leaks_of(request, items)
    with start() as machine:
        network = (
            None if subject.stored else Network.load(subject.path, subject.hparams, machine.device, subject.metres)
        )
        source: Any = subject.stored or (network and network.predict_depth)
        num_items = len(evenly_spaced(request.limit, len(items)))
        with progress("depth", num_items, machine) as on_item:
            found = vary(
                source,
                items,
                request.protocols[0],
                request.execution(machine.processes, on_item),
                truths=truths,
                without=subject.pointless,
                limit=request.limit,
                metadata={**about_items, **subject.metadata, "leaks": leaked, "trainer_version": __version__},
            )
        if machine.processes.is_first:
            found.not_measured += missing
            save = request.save or apart(variations_path(subject.path, found.protocol), found.protocol)
            saved = announced(save)
            report_variations(found, Console())
            save_variations(found, save)
            leaks.tell(leaked)
            print(f"saved: {saved}")
    return 0
