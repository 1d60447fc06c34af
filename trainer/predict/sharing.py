"""A model to share: one folder with the checkpoint, settings that others' tools read, a model card and pictures.

    model.safetensors   weights, settings and position of the training, verified (`trainer.checkpoint.publish`)
    config.json         by which the Hub, transformers and this trainer know the model
    README.md           the model card (`card`)
    sheet.png           pictures and predictions, if there are some

Where transformers can load the network, the files that its pipeline needs lie beside them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainer.checkpoint import Saved, find_checkpoint
from trainer.checkpoint.hub import CHECKPOINT, LIBRARY, SETTINGS
from trainer.checkpoint.publish import publish
from trainer.checkpoint.safefile import read
from trainer.config import Config
from trainer.data.clips.clips import PICTURES, list_clip
from trainer.predict.card import Card
from trainer.predict.predictor import DepthPredictor, as_rgb
from trainer.predict.scores import read_scores
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite, make_folder, require_space, sha256, why_not, write_text
from trainer.runtime.rundir import BEST, RunDir
from trainer.tracking import viz

CARD, SHEET = "README.md", "sheet.png"
MOST_PICTURES, WIDEST = 6, 640  # of a sheet; pixels


@dataclass(frozen=True)
class Model:
    """A checkpoint that can be shared, in memory."""

    saved: Saved
    predictor: DepthPredictor

    @classmethod
    def open(cls, path: str | Path) -> Model:
        """Read and verify a checkpoint, the `best` of a run, or a model that is shared already.

        Raises UserError for a run without `best`, a file without a whole depth network, and what `load_objective`
        refuses.
        """
        found = find_checkpoint(path)
        if found.name != BEST and os.path.isdir(path) and found.name != CHECKPOINT:
            raise UserError(
                f"{path}: has no {BEST}, the part of a run to share. It appears with the first validated epoch; to"
                f" share {found.name} as it is, name the file: {found}"
            )
        saved = Saved(found, *read(found))
        if saved.parts:
            raise UserError(f"{found}: holds only {', '.join(saved.parts)}, no whole depth network to share")
        return cls(saved, DepthPredictor.load(found))

    @property
    def run(self) -> Path:
        """The folder of the run, or that of the file."""
        parent = self.saved.path.parent
        return parent.parent if parent.name == "ckpts" else parent

    @property
    def date(self) -> str | None:
        """The day on which the training ended, where the run says so."""
        with suppress(UserError):
            state = RunDir(self.run.parents[1], self.run.parent.name, self.run.name).read_state()
            return state.time[:10] if state and state.state == "finished" else None
        return None

    @property
    def sheet(self) -> Path | None:
        """The newest sheet of `evaluate --sheet` in the run or its results: a PNG with `sheet` in its name."""
        found = [path for folder in (self.run, self.run / "results") for path in folder.glob("*sheet*.png")]
        return max(found, key=os.path.getmtime, default=None)

    def draw(self, folder: Path, path: Path) -> None:
        """Draw pictures of a folder and their disparities, evenly spaced, into a PNG. Raises UserError without any."""
        files = list(list_clip(folder, folder.name).frames.values()) if os.path.isdir(folder) else []
        if not files:
            raise UserError(f"{folder}: is no folder with pictures ({', '.join(PICTURES)}) to draw")
        chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(len(files), MOST_PICTURES)).round().astype(int)]
        rows = []
        for file in chosen:
            picture = as_rgb(file)
            picture.thumbnail((WIDEST, WIDEST))
            found = self.predictor(picture)
            coloured = viz.to_uint8(viz.colour_disp(torch.from_numpy(found.disparity)[None, None])[0])
            rows.append({"input": np.array(picture), "prediction": coloured if found.unit != "m" else found.disparity})
        viz.picture_sheet(rows, path, footer=str(self.predictor.scale))

    def write(
        self,
        folder: Path,
        *,
        name: str,
        place: str,
        licence: str | None = None,
        pictures: Path | None = None,
    ) -> tuple[Card, list[str]]:
        """Write all files of a shared model into an empty folder. Returns the card, and notes.

        Args:
            name: of the model, the title of the card.
            place: what people will load it from: its name on the Hub, or a folder.
            licence: of the weights, an identifier of the Hub; None = not stated.
            pictures: folder of pictures to draw on a sheet; None for the sheet beside the run, if there is one.

        Raises CannotWrite, and UserError for a folder without pictures.
        """
        shortened = publish(self.saved, folder / CHECKPOINT)
        notes = [f"of these settings only the last part of a path is kept: {', '.join(shortened)}"] if shortened else []
        public = Saved(folder / CHECKPOINT, *read(folder / CHECKPOINT))  # the card knows no more than its readers
        config = Config.from_dict(public.hparams["config"], source=str(public.path), training=False)
        scale = self.predictor.scale
        if pictures is not None:
            self.draw(pictures, folder / SHEET)
        elif self.sheet is not None:
            shutil.copyfile(self.sheet, folder / SHEET)
        found, left_out = read_scores(self.run / "results", sha256(self.saved.path))
        settings = {
            "library_name": LIBRARY,
            "model_type": LIBRARY,
            "depth_estimation_type": "metric" if scale.unit == "m" else "relative",
        }
        write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
        card = Card(
            public,
            config,
            scale,
            self.predictor.size,
            name=name,
            place=place,
            licence=licence,
            date=self.date,
            scores=found,
            sheet=SHEET if (folder / SHEET).exists() else None,
        )
        write_text(folder / CARD, card.text())
        return card, notes + left_out


@contextmanager
def staged(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Yield an empty folder beside `folder`, which takes its place when the block succeeds; else it is removed.

    In a folder that exists each file replaces the one of its name, and the others stay. Raises CannotWrite, also when
    the disk has less than `num_bytes` free.
    """
    folder = folder.absolute()
    make_folder(folder.parent)
    require_space(folder.parent, num_bytes, "the files of the model")
    beside = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    make_folder(beside)
    try:
        yield beside
        if not os.path.isdir(folder):
            os.replace(beside, folder)
            return
        for file in beside.iterdir():
            os.replace(file, folder / file.name)
    except OSError as error:
        raise CannotWrite(why_not(folder, error)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
