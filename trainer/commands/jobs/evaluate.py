"""One evaluation, from parsed arguments to printed table and files: of depth, or of what the options ask for."""

from __future__ import annotations

import argparse

from trainer import __version__
from trainer.commands.jobs import evaluate_suite
from trainer.commands.jobs.evaluate_clips import score_clips
from trainer.commands.jobs.evaluate_corrupted import score_corrupted
from trainer.commands.jobs.evaluate_depth import score_depth
from trainer.commands.jobs.evaluate_options import check_options, read_request
from trainer.commands.jobs.evaluate_variations import score_variations
from trainer.config.plugins import load_plugins
from trainer.evaluation import evaluate_odometry, leaks, report, save_odometry
from trainer.evaluation.places import announced, check_place, odometry_path, run_folder
from trainer.evaluation.reference import open_dataset
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Network, progress, start

NEXT_FRAME = (1,)  # the only support of an item when camera paths are scored


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, score, print, save. Raises UserError for the mistakes of a user."""
    load_plugins(args.plugins)
    check_options(args)
    if args.suite:
        return evaluate_suite.run(args)
    request = read_request(args)
    jobs = {"vary": score_variations, "temporal": score_clips, "corrupt": score_corrupted, "odometry": _score_paths}
    score = next((job for option, job in jobs.items() if getattr(request, option)), score_depth)
    return score(request)


def _score_paths(request: EvaluationRequest) -> int:
    subject = request.subject
    changes = {"supp_idxs": list(NEXT_FRAME), "use_depth": False}
    dataset, arguments = open_dataset(subject.cfg, request.mode, {"clips"}, **changes)
    check_place(request.save or run_folder(subject.path) / "results" / "result.yaml", "--save")
    found = leaks.leaks_of(request, dataset)
    metadata = {"dataset": arguments, **subject.metadata, "leaks": found, "trainer_version": __version__}
    with start() as machine:
        network = Network.load(subject.path, subject.hparams, machine.device, subject.metres)
        network.objective.supp_idxs = NEXT_FRAME
        with progress("odometry", len(dataset), machine) as on_item:
            how = request.execution(machine.processes, on_item)
            result = evaluate_odometry(network.predict_pose, dataset, how, metadata=metadata)
        if machine.processes.is_first:
            save = request.save or odometry_path(subject.path, result["protocol"])
            saved = announced(save)
            save_odometry(result, save)
            leaks.tell(found)
            report.report_odometry(result, saved)
    return 0
