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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainer.checkpoint import Saved, find_checkpoint, safefile
from trainer.checkpoint.hub import CHECKPOINT, LIBRARY, SETTINGS
from trainer.checkpoint.publish import published
from trainer.config import Config
from trainer.data.clips.clips import PICTURES, list_clip
from trainer.predict.card import Card
from trainer.predict.formats import check, facts, transformers_folder
from trainer.predict.predictor import DepthPredictor, as_rgb
from trainer.predict.scores import read_scores
from trainer.runtime.errors import UserError
from trainer.runtime.files import CannotWrite, sha256, write_text
from trainer.runtime.rundir import BEST, RunDir
from trainer.tracking import viz

CARD, SHEET = "README.md", "sheet.png"
MOST_PICTURES, WIDEST = 6, 640  # of a sheet; pixels


def pictures_of(folder: Path) -> list[str]:
    """List the pictures in a folder. Raises UserError when there are none."""
    files = list(list_clip(folder, folder.name).frames.values()) if os.path.isdir(folder) else []
    if not files:
        raise UserError(f"--pictures {folder}: is no folder with pictures ({', '.join(PICTURES)})")
    return files


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
        saved = Saved(found, *safefile.read(found))
        if saved.parts:
            raise UserError(f"{found}: holds only {', '.join(saved.parts)}, no whole depth network to share")
        return cls(saved, DepthPredictor.load(found, device="cpu", batch_size=1))

    @property
    def run(self) -> Path:
        """The folder of the run, or that of the file."""
        parent = self.saved.path.absolute().parent
        return parent.parent if parent.name == "ckpts" else parent

    @property
    def date(self) -> str | None:
        """The day on which the training ended, where the run says so."""
        with suppress(UserError):
            state = RunDir(self.run.parents[1], self.run.parent.name, self.run.name).read_state()
            return str(state.time)[:10] if state and state.state == "finished" else None
        return None

    @property
    def sheet(self) -> Path | None:
        """The newest sheet of `evaluate --sheet` in the run or its results: a PNG with `sheet` in its name."""
        found = [path for folder in (self.run, self.run / "results") for path in folder.glob("*sheet*.png")]
        return max(found, key=os.path.getmtime, default=None)

    def draw(self, folder: Path, path: Path) -> None:
        """Draw pictures of a folder and their disparities, evenly spaced, into a PNG. Raises UserError without any."""
        files = pictures_of(folder)
        chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(len(files), MOST_PICTURES)).round().astype(int)]
        rows = []
        for file in chosen:
            picture = as_rgb(file)
            picture.thumbnail((WIDEST, WIDEST))
            found = self.predictor(picture)
            coloured = viz.to_uint8(viz.colour_disp(torch.tensor(found.disparity)[None, None])[0])
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
        public, shortened = published(self.saved)  # the card knows no more than its readers
        notes = [f"of these settings only the last part of a path is kept: {', '.join(shortened)}"] if shortened else []
        problem = self._write_files(public, folder)
        notes += [f"transformers cannot load the folder: {problem}"] if problem else []
        config = Config.from_dict(public.hparams["config"], source=str(public.path), training=False)
        if pictures is not None:
            self.draw(pictures, folder / SHEET)
        elif self.sheet is not None:
            shutil.copyfile(self.sheet, folder / SHEET)
        found, left_out = read_scores(self.run / "results", sha256(self.saved.path))
        card = Card(
            public,
            config,
            self.predictor.scale,
            self.predictor.size,
            name=name,
            place=place,
            licence=licence,
            date=self.date,
            scores=found,
            sheet=SHEET if (folder / SHEET).exists() else None,
            has_pipeline=not problem,
        )
        write_text(folder / CARD, card.text())
        return card, notes + left_out

    def _write_files(self, public: Saved, folder: Path) -> str:
        """Write checkpoint and settings, and what the pipeline of transformers needs, compared with the network.

        Returns why there is no pipeline, "" if there is; then the settings are for the Hub and this trainer alone.
        """
        options = public.hparams["config"]["net"]["depth"]
        try:
            digest = sha256(self.saved.path)
            about = facts.describe(self.predictor, public, public.hparams, digest, self.run / "results")
            transformers_folder.write(self.predictor, public, options, about, folder)
            frames = check.generated_frames(self.predictor.size)
            pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
            check.refuse(transformers_folder.largest_difference(folder, self.predictor, pictures), "32", folder)
        except CannotWrite:
            raise
        except UserError as error:
            for file in folder.iterdir():
                file.unlink()
            settings = {"library_name": LIBRARY, "model_type": LIBRARY}
            settings["depth_estimation_type"] = "metric" if self.predictor.scale.unit == "m" else "relative"
            write_text(folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
            safefile.write(folder / CHECKPOINT, public.tensors, public.metadata)
            return str(error)
        return ""
