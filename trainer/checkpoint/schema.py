"""What the text in a checkpoint may say: one strict schema of its metadata, so that nothing odd travels further.

The checksums prove that a file is what somebody wrote, not that it was this trainer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from trainer.checkpoint.encoding import from_json
from trainer.checkpoint.safefile import ADVICE, DamagedFile
from trainer.metrics.validation import ONCE_PER_CENT
from trainer.runtime.errors import printable

# What reading data of the wrong kind raises, here and in the `load_state_dict` of others.
ODD = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError, RuntimeError)


@contextmanager
def reading(path: Path | str, what: str) -> Iterator[None]:
    """Raise DamagedFile when `what` of a file is not what this trainer writes."""
    try:
        yield
    except ODD as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        first = printable(reason.strip().partition("\n")[0])[:200]
        raise DamagedFile(f"{path}: its {what} is not what this trainer writes ({first}). {ADVICE}") from error


def _int(text: Any) -> Any:
    return int(text) if isinstance(text, str) and len(text) < 20 else text


def _decoded(text: Any) -> Any:
    return from_json(text) if isinstance(text, str) else text


Int = Annotated[int, BeforeValidator(_int)]
Count = Annotated[int, Field(ge=0, lt=1 << 53), BeforeValidator(_int)]
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Spread = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Json = BeforeValidator(_decoded)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class _Options(_Strict):
    """Of one network."""

    mean: list[float] | None = None
    std: list[float] | None = None


class _Section(_Strict):
    max_epochs: int | None = None


class _Settings(_Strict):
    net: dict[str, _Options] = {}
    trainer: _Section = _Section()


class _Hparams(_Strict):
    config: _Settings | None = None
    data: dict[str, dict[str, Any]] = {}
    plugins: list[str] = []


class _Best(_Strict):
    value: float | None = None
    epoch: int | None = None
    metrics: dict[str, float] = {}


class _Camera(_Strict):
    """`LearnedCamera`."""

    mean: Annotated[list[Size], Field(min_length=4, max_length=4)]
    sd: Annotated[list[Spread], Field(min_length=4, max_length=4)]
    fov: Annotated[list[Size], Field(min_length=2, max_length=2)]
    fov_sd: Annotated[list[Spread], Field(min_length=2, max_length=2)]
    images: Count
    bend: Spread


class _Calibration(_Strict):
    """`Calibration`."""

    a: Size
    b: Annotated[float, Field(ge=-50, le=50)]
    data: dict[str, str]
    images: Count
    drives: Count
    folds: Count
    abs_rel: dict[str, Spread]


class _Metadata(_Strict):
    epoch: Count = 0
    batch: Count = 0
    step: Count = 0
    hparams: Annotated[_Hparams, Json] = _Hparams()
    metrics: Annotated[dict[str, float], Json] = {}
    camera: Annotated[_Camera | None, Json] = None
    calibration: Annotated[_Calibration | None, Json] = None
    best: Annotated[_Best, Json] = _Best()
    parts: Annotated[list[str], Json] = []
    monitor: str = ""
    micro_batch: Count = 0
    rank: Count = 0
    seed: Int = 0


class Group(_Strict):
    """Parameters of an optimizer by name, and its encoded options for them."""

    params: list[str]
    options: dict[str, Any]


class OptimizerData(_Strict):
    """An optimizer as `state` packs it."""

    kind: str = Field(alias="class")
    groups: list[Group]
    state: dict[str, dict[str, Any]]


class SchedulerData(_Strict):
    """A schedule as `state` packs it."""

    kind: str = Field(alias="class")
    state: dict[str, Any] = {}


def check(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise DamagedFile, in one sentence, for metadata that this trainer does not write."""
    with reading(path, "metadata"):
        try:
            _Metadata.model_validate(dict(metadata))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg']}, not {json.dumps(first['input'], default=str)}") from error


def upgraded(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Convert the metadata of an older format, so that a run that goes on compares like with like.

    Format 1 had some numbers of the validation in per cent: among its metrics, as the best value so far, and in what
    early stopping and a plateau schedule remember. Returns the metadata, and a note if any such number was found.
    Raises DamagedFile.
    """
    if metadata.get("format_version") != "1":
        return dict(metadata), []
    with reading(path, "metadata"):
        kept = ("metrics", "best", "extra", "scheduler", "hparams")
        data = {key: json.loads(metadata.get(key, "{}")) or {} for key in kept}
        config, watched = data["hparams"].get("config") or {}, metadata.get("monitor")
        stopping = data["extra"].get("stopping") or {}
        plateau = (config.get("scheduler") or {}).get("monitor") or watched
        places: list[tuple[Any, str, Any]] = [(data["metrics"], name, name) for name in ONCE_PER_CENT]
        places += [(data["best"], "value", watched)]
        places += [(stopping, key, stopping.get("monitor")) for key in ("best", "reference")]
        places += [(data["scheduler"].get("state") or {}, "best", plateau)]
        found = set()
        for values, key, name in places:
            if name in ONCE_PER_CENT and isinstance(values.get(key), (int, float)):  # neither absent nor infinite
                values[key] /= 100
                found.add(name)
        changed = {key: json.dumps(data[key]) for key in kept[:-1] if key in metadata}
    note = (
        f"{', '.join(sorted(found))} of this run were in per cent and are fractions from here on: best value, stops and"
        " schedules are converted; TensorBoard shows val/* and train/* where it had val_metrics/* and train_metrics/*;"
        " divide a `min_delta` or absolute `threshold` of yours by 100"
    )
    return {**metadata, **changed, "format_version": "2"}, [note] if found else []
