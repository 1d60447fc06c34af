"""`monodepth prepare video`: films as folders of frames for dataset.type=folder, and what may go wrong with them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.commands.jobs.preparing import clean_stale_under, store
from trainer.data.clips.motion import uneven_share
from trainer.data.clips.survey import Survey
from trainer.data.clips.video import Film, jpeg, pixels
from trainer.runtime.errors import UserError
from trainer.runtime.optional import require
from trainer.tracking.progress import counting


def run(videos: list[Path], out: Path, every: int, report_only: bool) -> int:
    """Decode what is missing, print a report for each video; return 1 when there are warnings."""
    require("av", "video", "Decoding videos")
    require("cv2", "hints", "Looking through videos")
    if every < 1:
        raise UserError(f"--every must be at least 1, got {every}")
    twice = {path.stem for path in videos if sum(path.stem == other.stem for other in videos) > 1}
    if twice:
        raise UserError(f"videos of the same name: {', '.join(sorted(twice))}. Give each its own --out")
    warned, gaps, problems = False, [], []
    for video in videos:
        try:
            survey = surveyed(video, out, every, report_only)
        except UserError as error:
            problems.append(str(error))
            continue
        print("\n  ".join([str(video), *survey.report(), *(f"warning: {text}" for text in survey.warnings())]))
        warned |= bool(survey.warnings())
        gaps += [survey.frame_gap] if survey.kept else []
    if problems:
        raise UserError("\n".join(problems))
    if gaps and not report_only:
        print(f"the camera is unknown: add dataset.fov=<degrees>, or write {out}/K.txt (fx fy cx cy)")
        settings = [f"dataset.path={out}", f"dataset.frame_gap={max(gaps)}"]
        name = _run_name(videos[0].stem if len(videos) == 1 else out.absolute().name)
        print(f"train on them: monodepth train -c real/folder -n {name} --set {shlex.join(settings)}")
    return int(warned)


def _run_name(text: str) -> str:
    """Name a run after a film or a folder, so that those of two films do not meet in one folder."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.-")[:50] or "film"  # 200 bytes in any alphabet


def surveyed(video: Path, out: Path, every: int = 1, report_only: bool = False) -> Survey:
    """Decode a video into `out` as far as that has not been done; return what was measured. Raises UserError."""
    return _done(out, video, every) or _decode(video, out, every, report_only)


def _manifest(out: Path, video: Path) -> Path:
    return out / f".{video.stem}.json"


def _place(out: Path, video: Path, clip: int, number: int) -> Path:
    return out / f"{video.stem}-{clip:03d}" / f"{number:010d}.jpg"


def _facts(video: Path, every: int) -> dict[str, Any]:
    stat = video.stat()
    return {"video": str(video.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "every": every}


def _done(out: Path, video: Path, every: int) -> Survey | None:
    """Return the survey of an earlier run if it decoded the same video to its end and all its frames still exist.

    Raises UserError when `out` has frames of another video or of another `every`.
    """
    manifest = _manifest(out, video)
    if not os.path.isfile(manifest) or not os.path.isfile(video):
        return None
    try:
        content = json.loads(manifest.read_text())
        facts, seen = content["facts"], content["survey"]
        survey = None if seen is None else Survey(**seen)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest} cannot be read ({error}). Remove it to decode again") from error
    if facts != _facts(video, every):
        raise UserError(
            f"{out} holds frames of another {video.name}, or with another --every. Choose another --out, or remove"
            f" {manifest} and {out / video.stem}-*"
        )
    lengths = enumerate(survey.clips) if survey else ()
    frames = [_place(out, video, clip, number) for clip, length in lengths for number in range(length)]
    if survey and (gone := sum(not os.path.isfile(frame) for frame in frames)):
        print(f"{video}: {gone} of {survey.kept} frames are no longer in {out}: decoded again")
        return None
    return survey


def _decode(video: Path, out: Path, every: int, report_only: bool) -> Survey:
    if not os.path.isfile(video):
        problem = "is a folder: name the videos in it" if os.path.isdir(video) else "does not exist"
        raise UserError(f"{video} {problem}")
    with Film(video) as film:
        survey = Survey(fps=film.fps, size=(0, 0), announced=film.announced)
        if not report_only:
            clean_stale_under(out.glob(f"{video.stem}-[0-9]*"))
            _note(out, video, every, None)
        for clip, number, frame in survey.keep(_frames(film, survey, every, video.name)):
            path = _place(out, video, clip, number)
            if not report_only and not os.path.isfile(path):
                store(path, jpeg(frame))
    if not survey.read:
        raise UserError(f"{video} has no frame that can be decoded. Copy it again")
    if not report_only:
        _note(out, video, every, survey)
    return survey


def _note(out: Path, video: Path, every: int, survey: Survey | None) -> None:
    """Write the manifest: whose frames are in `out` before the first one, and the survey after the last."""
    content = {"facts": _facts(video, every), "survey": survey and asdict(survey)}
    store(_manifest(out, video), json.dumps(content).encode())


def _frames(film: Film, survey: Survey, every: int, name: str) -> Iterator[NDArray[np.uint8]]:
    """Yield every n-th frame (h w 3), RGB; count them in the survey."""
    times = []
    with counting(name, film.announced or None, unit="frame") as count:
        for frame in film:
            count()
            if frame is None:
                continue
            times.append(frame.time or 0.0)
            if survey.read % every == 0:
                rgb = pixels(frame)
                survey.size = rgb.shape[1], rgb.shape[0]
                yield rgb
            survey.read += 1
    survey.uneven = uneven_share(times)
