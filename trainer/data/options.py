"""The options that all data sets share, as keywords with types, and checks of single values."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, get_args

from trainer.data import views as of_views
from trainer.runtime.errors import UserError

Mode = Literal["train", "val", "test"]


class CommonOptions(TypedDict, total=False):
    """Arguments of `DepthDataset`, for a constructor that passes them on: `**common: Unpack[CommonOptions]`."""

    mode: Mode
    size: tuple[int, int]
    supp_idxs: int | Sequence[int] | None
    use_depth: bool
    use_hints: bool
    use_pseudo: bool
    pseudo_root: str | None
    use_speed: bool
    decoded_root: str | None
    use_aug: bool
    use_strong_aug: bool
    views: of_views.Ranges | None
    as_torch: bool
    log_time: bool
    seed: int


# Options of items as their files hold them, and without what is prepared or known beside pictures and depth.
AS_READ: dict[str, Any] = {"decoded_root": None, "use_aug": False, "use_strong_aug": False, "views": None}
PLAIN: dict[str, Any] = {"use_hints": False, "use_pseudo": False, "use_speed": False, **AS_READ}


def expanded_signature(cls: Any, base: Any) -> inspect.Signature | None:
    """Replace `**common: Unpack[CommonOptions]` by the options of `base`; None for a class without such an argument."""
    last = list(inspect.signature(cls.__init__).parameters.values())[-1]
    if not str(last.annotation).endswith("[CommonOptions]"):
        return None
    own = list(inspect.signature(cls.__init__, eval_str=True).parameters.values())[1:-1]
    common = list(inspect.signature(base, eval_str=True).parameters.values())
    common = [p.replace(kind=p.KEYWORD_ONLY, default=cls.defaults.get(p.name, p.default)) for p in common]
    return inspect.Signature([*own, *common])


def check_choice(key: str, value: str, choices: Any) -> None:
    """Raise UserError, naming the key, when a value is not one of a Literal."""
    if value not in get_args(choices):
        raise UserError(f"{key} {value!r} is not one of {', '.join(get_args(choices))}")


def checked_size(size: Sequence[int], where: str) -> tuple[int, int]:
    """Return (width, height) as ints. Raises UserError, naming the key `where`, unless it is a landscape size."""
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"{where} must be two positive numbers [width, height], got {list(size)}")
    width, height = map(int, size)
    if height > width:
        swapped = f"{list(size)} is taller than wide. Did you mean {[height, width]}?"
        raise UserError(f"{where} is [width, height]: {swapped}")
    return width, height
