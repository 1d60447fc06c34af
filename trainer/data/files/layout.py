"""Where the files of a data set lie below its folder, and what they hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trainer.data.files.coding import DepthCoding
from trainer.data.files.depth import DepthFormat, format_of
from trainer.data.files.paths import SET_A_ROOT, DataNotFound, data_roots, expanded, find_folder
from trainer.data.files.patterns import INDEX, Pattern
from trainer.runtime.errors import UserError

_PATTERNS = ("images", "depth", "edges", "poses", "list_line")
_NEAR = 50  # folders inside a wrong one that are looked at


class Cut(NamedTuple):
    """Shares of height and width that are cut from pictures and maps before anything else."""

    top: float = 0.0
    bottom: float = 0.0
    left: float = 0.0
    right: float = 0.0

    def box(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns that are kept."""
        return (
            slice(round(self.top * height), round((1 - self.bottom) * height)),
            slice(round(self.left * width), round((1 - self.right) * width)),
        )


@dataclass(frozen=True)
class Layout:
    """The files of one data set. Patterns start from its folder; all but `images` and `list_line` are filled in."""

    images: Pattern
    depth: Pattern | None
    masks: tuple[Pattern, ...]
    edges: Pattern | None
    camera: Pattern | None
    poses: Pattern | None
    list_file: str | None
    list_line: Pattern | None
    form: DepthFormat
    key: str  # of the array in an npz
    coding: DepthCoding
    mask_valid: Sequence[float] | None  # None = all but 0
    cut: Cut

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Layout:
        """Make the layout of arguments of `frames`. Raises UserError listing what is wrong with them."""
        if problems := problems_of(arguments):
            raise UserError("\n".join(f"dataset.{line}" for line in problems))
        (patterns, _), of = _patterns(arguments), arguments.get
        form: Any = of("depth_format") or format_of(of("depth") or "") or "npy"
        kind: Any = of("depth_kind") or "depth"
        coding = DepthCoding(
            of("depth_scale") or 1.0, of("depth_offset") or 0.0, kind, _numbers(of("invalid")), of("baseline") or 1.0
        )
        masks = tuple(pattern for key, pattern in patterns.items() if key.startswith("mask"))
        return cls(
            patterns["images"], patterns.get("depth"), masks, patterns.get("edges"), patterns.get("K"),
            patterns.get("poses"), of("list_file"), patterns.get("list_line"), form, of("depth_key") or "depth", coding,
            of("mask_valid"), Cut(**of("cut") or {}),
        )  # fmt: skip

    def files(self) -> dict[str, tuple[Pattern, ...]]:
        """Map what the files of an item hold to their patterns; pictures are not among them."""
        kinds = {"depth": (self.depth,), "a mask": self.masks, "depth edges": (self.edges,)}
        kinds |= {"a camera": (self.camera,), "a pose": (self.poses,)}
        return {what: tuple(p for p in patterns if p) for what, patterns in kinds.items() if any(patterns)}

    def tree(self) -> str:
        """Show the files that are expected, a line each."""
        rows = {self.images.text: "a picture"}
        for what, patterns in self.files().items():
            for pattern in patterns:
                rows[pattern.text] = f"{rows[pattern.text]}, {what}" if pattern.text in rows else what
        if self.list_file:
            rows[self.list_file] = f"one item a line: {self.list_line or 'the path of a picture first'}"
        width = max(map(len, rows))
        return "\n".join(f"    {name:{width}}  {what}" for name, what in rows.items())

    def words_of_line(self, line: str) -> dict[str, str] | None:
        """Return the words of a line of the list; None for a line of another form."""
        if self.list_line:
            return self.list_line.match(line)
        first = re.split("," if "," in line else r"\s", line)[0].strip()
        return self.images.match(first.removeprefix("./"))

    def find_root(self, root: str | None, folder: str, what: str) -> Path:
        """Find the folder of the data: `folder` in `root`, or `root` itself; in the usual places without one.

        `folder` may be a path, of which a part may lead there. Raises DataNotFound that shows the expected files and
        what was found.
        """
        parts = folder.split("/")
        names = ["/".join(parts[i:]) for i in range(len(parts))]
        expected = f"(words in braces stand for any name)\n{self.tree()}"
        try:
            return find_folder(data_roots(root), names, self._lies_in, what, SET_A_ROOT)
        except DataNotFound as error:
            if root is None:
                raise DataNotFound(f"{error}. Expected there {expected}") from error
        place = expanded(root)
        near = next(filter(self._lies_in, [*list(place.absolute().parents)[:3], *_folders_in(place)]), None)
        advice = f"Did you mean {near}?" if near else "Set dataset.root to the folder that these paths start from"
        raise DataNotFound(
            f"{place} has no pictures of {what}: expected in it {expected}\nfound: {self.images.found(place)}. {advice}"
        )

    def _lies_in(self, folder: Path) -> bool:
        return bool(self.images.find(folder))


def problems_of(arguments: Mapping[str, Any]) -> list[str]:
    """List what is wrong with arguments of `frames`, each line opening with its key."""
    patterns, problems = _patterns(arguments)
    if problems or "images" not in patterns:
        return problems
    of, line = arguments.get, patterns.get("list_line")
    words = set(patterns["images"].words)
    given = set(line.words) if line else words  # what is known of an item before any of its files is looked for
    known = {"images": (words & given) - {INDEX}, "list_line": given - {INDEX}, "poses": words}
    for key, pattern in patterns.items():
        allowed = known.get(key, words | given | {INDEX})
        if unknown := sorted(set(pattern.words) - allowed):
            where = "list_line" if line and key == "images" else "images"
            problems.append(
                f"{key}: {pattern.text!r} has {{{unknown[0]}}}, which {where} does not give. Known:"
                f" {', '.join(sorted(allowed)) or 'no word'}"
            )
    if line and not of("list_file"):
        problems.append("list_line: there is no list_file to read with it. Set list_file, or remove list_line")
    return problems + _problems_of_depth(of) + _problems_of_cut(of("cut") or {})


def _problems_of_depth(of: Callable[[str], Any]) -> list[str]:
    problems = []
    form = of("depth_format") or format_of(of("depth") or "")
    if of("depth") and form is None:
        problems.append(f"depth_format: {of('depth')!r} has another ending: set it to png, npy, npz, dpt or raw")
    scale = of("depth_scale")
    if scale is not None and not scale > 0:
        problems.append(f"depth_scale: must be positive, got {scale}")
    if scale is None and form == "png" and of("depth"):
        problems.append("depth_scale: the whole numbers of a PNG need it, values per metre: 1000 = millimetres")
    if of("depth_kind") == "disparity" and (of("K") is None or not of("baseline")):
        problems.append("depth_kind: a disparity becomes depth with K and baseline, in metres. Set both")
    return problems


def _problems_of_cut(cut: Mapping[str, float]) -> list[str]:
    if wrong := sorted(set(cut) - set(Cut._fields)):
        return [f"cut: {wrong[0]!r} is no side: {', '.join(Cut._fields)}"]
    sides = Cut(**cut)
    if min(sides) < 0 or sides.top + sides.bottom >= 1 or sides.left + sides.right >= 1:
        return [f"cut: shares of height and width from 0 that leave something, got {dict(cut)}"]
    return []


def _patterns(arguments: Mapping[str, Any]) -> tuple[dict[str, Pattern], list[str]]:
    """Make the patterns among the arguments, masks as `mask`, `mask 2`, ..., and list those that are none."""
    mask, camera = arguments.get("mask") or (), arguments.get("K")
    texts: dict[str, Any] = {key: arguments.get(key) for key in _PATTERNS}
    texts |= {"K": camera if isinstance(camera, str) else None}
    for i, text in enumerate([mask] if isinstance(mask, str) else mask):
        texts[f"mask {i + 1}" if i else "mask"] = text
    patterns, problems = dict[str, Pattern](), []
    for key, text in texts.items():
        if text is None:
            continue
        try:
            patterns[key] = Pattern(text, of_line=key == "list_line")
        except ValueError as error:
            problems.append(f"{key}: {error}")
    return patterns, problems


def _numbers(values: Collection[float | str] | None) -> tuple[float, ...]:
    """Read numbers among which "inf" stands for both infinities."""
    numbers = [float(value) for value in values or ()]
    return (*numbers, *(-n for n in numbers if math.isinf(n)))


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())[:_NEAR]
    except OSError:
        return []
