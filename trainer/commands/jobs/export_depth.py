"""One export from parsed arguments to the saved file."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from trainer.config.plugins import load_plugins
from trainer.evaluation import Execution, flip_blended, predict_all, write_predictions
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import names_of
from trainer.evaluation.mdec import PRED_TYPE, why_no_submission
from trainer.evaluation.places import check_place, predictions_path
from trainer.evaluation.reference import open_dataset
from trainer.evaluation.session import Network, progress, start
from trainer.evaluation.subject import read_checkpoint
from trainer.runtime.errors import UserError
from trainer.runtime.processes import is_first_process

UNIT_OF = {"none": "m", "stereo": "baseline", "median": "any"}  # by the usual alignment, see `evaluate --pred-unit`


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, predict, write. Raises UserError for the mistakes of a user."""
    load_plugins(args.plugins)
    subject = read_checkpoint(args.ckpt, args.hparams, Changes(args.cfg_file, args.set), args.mode)
    dataset, arguments = open_dataset(subject.cfg, args.mode, supp_idxs=None, use_depth=False)
    is_mdec = args.format == "mdec"
    save = args.save or predictions_path(subject.path, arguments, args.flip, "mdec" if is_mdec else None)
    if save.suffix != ".npz":
        raise UserError(f"{save}: must end in .npz, the only kind of file that is written")
    if os.path.exists(save) and not args.force:
        raise UserError(f"{save}: exists. Use --force to replace it, or another name with --save")
    check_place(save, "--save")
    if is_mdec and (reason := why_no_submission(arguments)) and is_first_process():
        print(f"warning: no submission: {reason}", file=sys.stderr)
    with start() as machine:
        network = Network.load(subject.path, subject.hparams, machine.device, subject.metres)
        predict = flip_blended(network.predict_depth) if args.flip else network.predict_depth
        with progress("export", len(dataset), machine) as on_item:
            how = Execution(args.batch_size, args.num_workers, machine.processes, on_item)
            disps = predict_all(predict, dataset, how)
        if disps is not None:
            metadata: dict[str, Any] = {
                "kind": "disp",
                "unit": UNIT_OF[subject.alignment],
                "checkpoint": subject.metadata["checkpoint"]["sha256"],
                "flip": str(args.flip).lower(),
                "items": names_of(dataset) or "",
                "dataset": json.dumps(arguments, default=str),
            }
            write_predictions(save, disps, {PRED_TYPE: "disparity"} if is_mdec else metadata)
            print(f"saved: {save}, {' x '.join(map(str, disps.shape))}")
    return 0
