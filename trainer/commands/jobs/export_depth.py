"""One export from parsed arguments to the saved file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from trainer.build import build_dataset
from trainer.checkpoint import load_objective
from trainer.config.plugins import load_plugins
from trainer.evaluation import flip_blended, predict_all, write_predictions
from trainer.evaluation.items import names_of
from trainer.evaluation.reference import check_dataset
from trainer.evaluation.session import Network, check_place, progress, start
from trainer.evaluation.subject import file_stem, plain_data, read_checkpoint, run_folder
from trainer.runtime.errors import UserError

SUFFIX = ".npz"


def run(args: argparse.Namespace) -> int:
    """Check everything, then load, predict, write. Raises UserError for whatever the user can mend."""
    load_plugins(args.plugins)
    source = read_checkpoint(args)
    type_name, kwargs = source.cfg.dataset_kwargs(args.mode)
    changes: dict[str, Any] = {**plain_data(type_name), "supp_idxs": None, "use_depth": False}
    dataset = build_dataset(source.cfg, args.mode, **changes)
    save = args.save or _default_path(source.path, {"type": type_name, **kwargs}, args)
    if save.suffix != SUFFIX:
        raise UserError(f"{save}: must end in {SUFFIX}, the only kind of file that is written")
    if save.exists() and not args.force:
        raise UserError(f"{save}: is there already. Use --force to replace it, or another name with --save")
    check_place(save, "--save")
    check_dataset(dataset, args.mode)
    with start() as machine:
        network = Network(load_objective(source.path, args.hparams).to(machine.device), machine.device)
        predict = flip_blended(network.predict_depth) if args.flip else network.predict_depth
        with progress("export", len(dataset), machine) as on_item:
            disps = predict_all(
                predict,
                dataset,
                batch_size=args.batch_size,
                num_workers=args.num_workers,
                on_item=on_item,
                processes=machine.processes,
            )
        if disps is not None:
            told = source.about["checkpoint"]
            about = {
                "kind": "disp",
                "unit": "baseline" if source.is_stereo else "any",
                "checkpoint": told["sha256"],
                "flip": str(args.flip).lower(),
                "items": names_of(dataset) or "",
                "dataset": json.dumps(
                    {"type": type_name, **kwargs, **changes, "num_items": len(dataset)}, default=str
                ),
            }
            write_predictions(save, disps, about)
            print(f"saved: {save}, {' x '.join(map(str, disps.shape))}")
    return 0


def _default_path(source: Path, data: dict[str, Any], args: argparse.Namespace) -> Path:
    """`<run>/preds/<dataset>_<checkpoint>.npz`."""
    stem = file_stem(data, source.stem, "flip" if args.flip else None)
    return run_folder(source) / "preds" / f"{stem}{SUFFIX}"
