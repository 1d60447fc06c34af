"""Write predictions to a file, for other code and for `monodepth evaluate --pred-file`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np

from trainer.data.base import DepthDataset
from trainer.evaluation.predictions import PLAIN, Execution, PredictDepth, predicted_maps, read_items
from trainer.evaluation.stored import KEY
from trainer.runtime.files import make_folder, replacing


def predict_all(
    predict: PredictDepth,
    dataset: DepthDataset,
    how: Execution = PLAIN,
) -> np.ndarray | None:
    """Predict the disparity of every item: (N h w) float32 in the order of the data set, 1 / depth of the network.

    The items have a `target` (3 h w), all of one size. The first of the processes returns the array, the others None.

    Raises UserError when a prediction is not a positive finite number.
    """
    reader, processes = read_items(dataset, range(len(dataset)), how), how.processes
    disps: np.ndarray | None = None
    rounds = ceil(len(dataset) / (how.batch_size * processes.world))  # so that only the first holds everything
    for _ in range(rounds):
        chosen, items = next(reader, ([], []))
        rows = []
        for index, depth in zip(chosen, predicted_maps(predict, items, chosen, dataset), strict=True):
            rows.append((index, (1 / depth).numpy()))
            how.on_item()
        for index, disp in processes.gather(rows) if processes.world > 1 else rows:
            if not processes.is_first:
                continue
            if disps is None:
                disps = np.empty((len(dataset), *disp.shape), np.float32)
            disps[index] = disp
    return disps


def write_predictions(path: Path, disps: np.ndarray, metadata: Mapping[str, str | Sequence[str]]) -> None:
    """Write a compressed NPZ file: `pred` (N h w), and texts or lists of texts about it.

    The file appears complete or not at all. Raises CannotWrite, a UserError, when the disk refuses.
    """
    make_folder(path.parent)
    texts = {key: np.array(value) for key, value in metadata.items()}
    with replacing(path) as staged, open(staged, "wb") as file:
        np.savez_compressed(file, **{KEY: disps}, **texts)  # type: ignore[arg-type]
