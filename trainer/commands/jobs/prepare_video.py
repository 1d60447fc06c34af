"""`prepare video`: films as folders of frames for dataset.type=folder, and what is likely to go wrong with them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.commands.jobs.preparing import clean_stale_under, store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainer.data.clips.survey import Survey
    from trainer.data.clips.video import Film

_SHORTEST = 3  # frames of a clip: a target and both neighbours


def add_parser(jobs: Any) -> None:
    """Describe the command line."""
    parser = jobs.add_parser(
        "video",
        help="a video as a folder of frames",
        description="Decode videos, drop frames in which the camera stands, cut them into clips where the scene"
        " changes, and report frame rate, motion, parallax, sharpness and a frame gap for training. Warns of what"
        " usually goes wrong. Videos that are done are left alone by the same command.",
        epilog="Example: prepare video drive.mp4 --out data/my_frames",
    )
    add = parser.add_argument
    add("videos", type=Path, nargs="+", metavar="VIDEO", help="video files")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of clips: <video>-<number>/<10 digits>.jpg",
    )
    add("--every", type=int, default=1, metavar="N", help="look at every N-th frame only (default 1)")
    add("--report-only", action="store_true", help="write no frames")
    parser.set_defaults(run=run)


def run(videos: list[Path], out: Path, every: int, report_only: bool) -> int:
    """Decode what is not there yet, print a report for each video; return 1 when there are warnings."""
    from trainer.runtime.errors import UserError
    from trainer.runtime.optional import require

    require("av", "video", "Decoding videos")
    require("cv2", "hints", "Looking through videos")
    if every < 1:
        raise UserError(f"--every must be at least 1, got {every}")
    twice = {path.stem for path in videos if sum(path.stem == other.stem for other in videos) > 1}
    if twice:
        raise UserError(f"videos of the same name: {', '.join(sorted(twice))}. Give each its own --out")
    warned, gaps, problems = False, [], []
    for video in videos:
        survey = _look_through(video, out, every, report_only)
        if isinstance(survey, str):
            problems.append(survey)
            continue
        print(video)
        for line in survey.report():
            print(f"  {line}")
        for warning in survey.warnings():
            print(f"  warning: {warning}")
            warned = True
        gaps += [survey.frame_gap] if survey.kept else []
    if problems:
        raise UserError("\n".join(problems))
    if gaps and not report_only:
        print(f"train on them with dataset.type=folder dataset.path={out} dataset.frame_gap={max(gaps)}")
        print(
            f"a film does not tell its camera: set dataset.fov=<degrees>, or write {out}/K.txt (fx fy cx cy)"
        )
    return int(warned)


def _look_through(video: Path, out: Path, every: int, report_only: bool) -> Survey | str:
    """What is in a video, from now or an earlier run; or what is wrong with it."""
    from trainer.runtime.errors import UserError

    try:
        return _done(out, video, every) or _decode(video, out, every, report_only)
    except UserError as error:
        return str(error)


def _manifest(out: Path, video: Path) -> Path:
    return out / f".{video.stem}.json"


def _place(out: Path, video: Path, clip: int, number: int) -> Path:
    return out / f"{video.stem}-{clip:03d}" / f"{number:010d}.jpg"


def _facts(video: Path, every: int) -> dict[str, Any]:
    stat = video.stat()
    return {
        "video": str(video.resolve()),
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "every": every,
    }


def _done(out: Path, video: Path, every: int) -> Survey | None:
    """The survey of an earlier run, when the same video was decoded to its end and all its frames are still there.

    Raises UserError when frames of another video, or of another choice, are there, all of them or some.
    """
    from trainer.data.clips.survey import Survey
    from trainer.runtime.errors import UserError

    manifest = _manifest(out, video)
    if not manifest.is_file() or not video.is_file():
        return None
    try:
        content = json.loads(manifest.read_text())
        facts, seen = content["facts"], content["survey"]
        survey = None if seen is None else Survey(**seen)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest} cannot be read ({error}). Remove it to decode the video again"
        ) from error
    if facts != _facts(video, every):
        raise UserError(
            f"{out} holds frames of another {video.name}, or with another --every. Choose another --out, or remove"
            f" {manifest} and {out / video.stem}-*"
        )
    if survey and (gone := _gone(out, video, survey.clips)):
        print(f"{video}: {gone} of {survey.kept} frames are no longer in {out}: decoded again")
        return None
    return survey


def _gone(out: Path, video: Path, clips: list[int]) -> int:
    """Count the frames that an earlier run wrote and that were deleted since; `clips` are the frames of each."""
    return sum(
        not _place(out, video, clip, number).is_file()
        for clip, length in enumerate(clips)
        for number in range(length)
    )


def _decode(video: Path, out: Path, every: int, report_only: bool) -> Survey:
    """Go through a video once; write the frames that are kept, then the survey."""
    from trainer.data.clips.survey import Survey
    from trainer.data.clips.video import Film, jpeg
    from trainer.runtime.errors import UserError

    if not video.is_file():
        raise UserError(
            f"{video} is a folder: name the videos in it" if video.is_dir() else f"{video} does not exist"
        )
    with Film(video) as film:
        survey = Survey(fps=film.fps, size=(0, 0), announced=film.announced)
        if not report_only:
            clean_stale_under(out.glob(f"{video.stem}-[0-9]*"))
            _note(out, video, every, None)
        for clip, number, frame in _kept(_frames(film, survey, every, video.name), survey):
            path = _place(out, video, clip, number)
            if not report_only and not path.is_file():
                store(path, jpeg(frame))
    if not survey.read:
        raise UserError(f"{video} has no frame that can be decoded. Copy it again")
    if not report_only:
        _note(out, video, every, survey)
    return survey


def _note(out: Path, video: Path, every: int, survey: Survey | None) -> None:
    """Say whose frames are in `out`, before the first is written, and what was seen, after the last."""
    content = {"facts": _facts(video, every), "survey": survey and dataclasses.asdict(survey)}
    store(_manifest(out, video), json.dumps(content).encode())


def _frames(film: Film, survey: Survey, every: int, name: str) -> Iterator[NDArray[np.uint8]]:
    """Yield every n-th frame (h w 3), RGB, under a progress bar; count in the survey."""
    from tqdm import tqdm

    from trainer.data.clips.survey import uneven_share
    from trainer.data.clips.video import pixels

    times = []
    for frame in tqdm(film, total=film.announced or None, unit="frame", desc=name, disable=None):
        if frame is None:
            continue
        times.append(frame.time or 0.0)
        if survey.read % every == 0:
            rgb = pixels(frame)
            survey.size = rgb.shape[1], rgb.shape[0]
            yield rgb
        survey.read += 1
    survey.uneven = uneven_share(times)


def _kept(
    frames: Iterator[NDArray[np.uint8]], survey: Survey
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Give (clip, number, frame) of what is kept, clips being numbered from 0; fills in the survey."""
    from trainer.data.clips.survey import (
        CUT,
        STANDING,
        Stillness,
        combing,
        compare,
        is_blank,
        sharpness,
        small_grey,
    )

    stillness = Stillness()
    last: NDArray[np.uint8] | None = None  # grey values of the frame that was kept last
    waiting: list[NDArray[np.uint8]] = []  # of a clip that is too short so far
    length = 0
    for frame in frames:
        grey = small_grey(frame)
        if is_blank(grey):
            survey.blank += 1
            continue
        if last is not None:
            difference = compare(last, grey)
            if difference.found < CUT:
                survey.cuts += 1
                survey.too_short += len(waiting)
                length, waiting = 0, []
            elif difference.shift < STANDING:
                survey.standing += 1
                continue
            else:
                survey.shifts.append(difference.shift)
                survey.parallaxes.append(difference.parallax)
                survey.flicker.append(difference.brightness)
        last = grey
        survey.sharp.append(sharpness(grey))
        if len(survey.sharp) % 4 == 1:  # as slow as all the rest together
            survey.combed.append(combing(frame))
        stillness.add(grey)
        length += 1
        waiting.append(frame)
        if length == _SHORTEST:
            survey.clips.append(0)
        if length >= _SHORTEST:
            for entry in waiting:
                yield len(survey.clips) - 1, survey.clips[-1], entry
                survey.clips[-1] += 1
            waiting = []
    survey.too_short += len(waiting)
    survey.still_share, survey.changing = stillness.share(), stillness.changing()
