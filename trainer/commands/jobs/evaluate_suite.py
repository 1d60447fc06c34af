"""Evaluate a checkpoint on the data sets of a suite."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from trainer.commands.jobs.evaluate_depth import score_depth
from trainer.commands.jobs.evaluate_options import read_request
from trainer.data.files.paths import SET_A_ROOT, data_roots
from trainer.evaluation import EvaluationResult, suite_table
from trainer.evaluation.leaks import in_words
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Machine, Network, start
from trainer.evaluation.suite import Opened, Suite, read_suite, run_suite
from trainer.runtime.errors import UserError
from trainer.runtime.processes import Processes


def run(args: argparse.Namespace) -> int:
    """Score what is here, print and write one table. Returns 1 when a set is broken or none is here.

    Raises UserError for mistakes in the suite, its pages and options, before any work.
    """
    suite = read_suite(args.suite)
    requests = list(_requests(suite, args))
    subject = requests[0].subject
    with start() as machine:
        network = Network.load(subject.path, subject.hparams, machine.device, subject.metres)

        def score(request: EvaluationRequest, opened: Opened, processes: Processes) -> Sequence[EvaluationResult]:
            done: list[EvaluationResult] = []

            def keep(_: Any, results: Sequence[EvaluationResult], *__: Any) -> None:
                done.extend(results)

            score_depth(request, opened, (Machine(machine.device, processes), network), keep)
            return done

        def tell(line: str) -> None:
            print(line, flush=True)

        rows = run_suite(suite, requests, score, machine.processes, again=args.again, tell=tell)
        if machine.processes.is_first:
            suite_table.show(suite, rows, Console())
            if any(row.state == "not here" for row in rows):
                looked = ", ".join(f"{folder.absolute()} ({origin})" for folder, origin in data_roots(None))
                print(f"data that are not here were looked for in {looked}. To name another folder: {SET_A_ROOT}")
            for path in suite_table.save(suite, rows, subject.path, subject.metadata["checkpoint"], args.limit):
                print(f"saved: {path}")
            for row in rows:
                sentence, is_warning = in_words(row.result["protocol"]["leaks"]) if row.result else ("", False)
                if is_warning:
                    print(f"warning: {row.set}: {sentence}", file=sys.stderr)
            for row in (row for row in rows if row.state == "broken"):
                print(f"error: {row.set}: {row.reason}", file=sys.stderr)
            if all(row.state == "not here" for row in rows):
                print("error: no data set of this suite is on this machine", file=sys.stderr)
    if not machine.processes.is_first:  # the first one knows all rows
        return 0
    states = {row.state for row in rows}
    return 1 if "broken" in states or states == {"not here"} else 0


def _requests(suite: Suite, args: argparse.Namespace) -> Iterator[EvaluationRequest]:
    """Yield the request of each set, options over its page. Raises UserError naming the set."""
    subject = None
    for one in suite.sets:
        options = copy.copy(args)
        options.cfg_file, options.set = [one.page], [*one.overrides, *args.set]
        try:
            request = read_request(options, subject)
            request.protocols  # noqa: B018 built now: a wrong name must not show after hours
        except UserError as error:
            if subject is None:  # most likely the checkpoint
                raise
            raise UserError(f"{suite.path}, {one.name}: {error}") from error
        subject = request.subject
        yield request
