"""Reading, the network and writing side by side: threads with queues between them, so that memory has a bound."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.predict.colours import ColourRange, Limits
from trainer.predict.predictor import DepthPredictor
from trainer.predict.sources import Item, Source
from trainer.predict.threads import Ahead, Budget, in_threads
from trainer.predict.writing import Outputs
from trainer.runtime.errors import DataError

IN_FLIGHT = 1 << 26  # pixels between reading and writing, at most: 256 MB of pictures, or one larger one
SAMPLED = (8, 64, 50)  # frames looked at for the colours: at least, at most, and one in so many


@dataclass
class Frame:
    """A frame on its way."""

    item: Item
    problem: str = ""  # why it could not be read
    size: tuple[int, int] = (0, 0)
    input: Tensor | None = None  # (3 h w) uint8, until the network has seen it
    picture: Image.Image | None = None  # where an output shows it
    disparity: Tensor | None = None  # (1 h w), after that
    limits: Limits | None = None


@dataclass
class Outcome:
    """What was done."""

    frames: int = 0
    problems: list[str] = field(default_factory=list)  # of the items that could not be read
    seconds: float = 0.0  # from the first frame on


def predict_all(
    predictor: DepthPredictor,
    source: Source,
    outputs: Outputs,
    colours: ColourRange,
    known: Mapping[str, Tensor] | None = None,
    *,
    on_frame: Callable[[], None] = lambda: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Predict all frames of a source and write the outputs; frames that cannot be read are counted and left out.

    Args:
        colours: where its limits are not fixed, they are taken from the first batch.
        known: what `look_first` returned.
        on_frame: called after each frame. is_stopped: asked before each; what is under way is finished then.

    Raises what writing raises, and UserError when the source ends early.
    """
    outcome, start = Outcome(), time.perf_counter()
    budget, workers = Budget(IN_FLIGHT), _workers()
    read = partial(_read, predictor, keep=outputs.needs_picture)

    def frames() -> Generator[Frame, None, None]:
        items = takewhile(lambda _: not is_stopped(), outputs.missing(source.items()))
        with closing(in_threads(read, items, workers)) as found:
            for frame in found:
                budget.take(_pixels(frame))
                yield frame

    with ExitStack() as stack:
        stack.callback(budget.open)
        reading = stack.enter_context(Ahead(frames(), 2 * predictor.batch_size, is_stopped))
        predicted = stack.enter_context(
            Ahead(_predicted(predictor, reading, colours, known or {}), predictor.batch_size)
        )
        stack.enter_context(outputs)
        drawn = in_threads(partial(_draw, predictor, outputs, budget), predicted, workers)
        for frame, pictures in stack.enter_context(closing(drawn)):
            if frame.problem:
                outcome.problems.append(frame.problem)
            else:
                outputs.add(pictures, frame.item)
                outcome.frames += 1
            on_frame()
    outcome.seconds = time.perf_counter() - start
    return outcome


def look_first(predictor: DepthPredictor, source: Source, colours: ColourRange) -> dict[str, Tensor]:
    """Fix the colours by frames spread over a source, unless they are known or its first batch is all of it.

    Returns the disparities (1 h w) of these frames by the name of their items, so that none is predicted twice.
    """
    least, most, share = SAMPLED
    known: dict[str, Tensor] = {}
    if colours.is_known or source.is_stream or (source.total or 0) <= predictor.batch_size:
        return known
    samples = source.samples(min(max((source.total or 0) // share, least), most))
    with closing(in_threads(partial(_read, predictor, keep=False), samples, _workers())) as frames:
        for group in _batches((frame for frame in frames if not frame.problem), predictor.batch_size):
            disparities = _disparities(predictor, group)
            colours.see(disparities.numpy())
            known |= {frame.item.name: disparity for frame, disparity in zip(group, disparities, strict=True)}
    colours.fix()
    return known


def _workers() -> int:
    """Threads that read, and as many that write."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, 8))


def _read(predictor: DepthPredictor, item: Item, *, keep: bool) -> Frame:
    try:
        picture = item.load()
    except DataError as error:
        return Frame(item, str(error))
    return Frame(item, "", picture.size, predictor.prepare(picture), picture if keep else None)


def _pixels(frame: Frame) -> int:
    return frame.size[0] * frame.size[1]


def _batches(frames: Iterable[Frame], most: int) -> Iterator[list[Frame]]:
    """Group frames, and close a group early when its pictures are large: the next one may wait for their memory."""
    group: list[Frame] = []
    for frame in frames:
        group.append(frame)
        if len(group) == most or sum(map(_pixels, group)) > IN_FLIGHT // 4:
            yield group
            group = []
    if group:
        yield group


def _predicted(
    predictor: DepthPredictor, frames: Iterable[Frame], colours: ColourRange, known: Mapping[str, Tensor]
) -> Generator[Frame, None, None]:
    for group in _batches(frames, predictor.batch_size):
        whole = [frame for frame in group if frame.input is not None]
        fresh = [frame for frame in whole if frame.item.name not in known]
        found = dict(known)
        if fresh:
            found |= {
                f.item.name: disparity for f, disparity in zip(fresh, _disparities(predictor, fresh), strict=True)
            }
        if whole:
            limits = colours.limits(np.stack([found[frame.item.name].numpy() for frame in whole]))
            for frame in whole:
                frame.input, frame.disparity, frame.limits = None, found[frame.item.name], limits
        yield from group


def _disparities(predictor: DepthPredictor, frames: Iterable[Frame]) -> Tensor:
    return predictor.disparities(torch.stack([frame.input for frame in frames if frame.input is not None])).cpu()


def _draw(predictor: DepthPredictor, outputs: Outputs, budget: Budget, frame: Frame) -> tuple[Frame, list[Image.Image]]:
    """Write the files of a frame; return its pictures for films."""
    if frame.disparity is None or frame.limits is None:
        return frame, []
    result = predictor.restore(frame.disparity, frame.size, frame.picture)
    pictures = outputs.draw(frame.item.name, result, frame.limits)
    frame.disparity = frame.picture = None
    budget.give(_pixels(frame))
    return frame, pictures
