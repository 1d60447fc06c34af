"""Kinds of output: pictures to look at, and files to compute with; each says what its numbers mean."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from models_zoo.registry import did_you_mean
from trainer.predict.colours import Limits, limits_of, with_legend
from trainer.predict.depthmap import DepthMap
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, replacing

KITTI_STEPS = 256  # per metre, of depth in 16 bits; KITTI's development kit
PNG_EFFORT = {"compress_level": 1, "compress_type": zlib.Z_RLE}  # a quarter of the time of the default for colours


@dataclass(frozen=True)
class Look:
    """How results are shown and written."""

    limits: Limits
    legend: bool = True


def color(result: DepthMap, look: Look) -> Image.Image:
    """Draw the disparity in colours."""
    return result.colored(look.limits, legend=look.legend)


def overlay(result: DepthMap, look: Look) -> Image.Image:
    """Blend the picture and the colours of its disparity half and half."""
    both = Image.blend(_picture(result), result.colored(look.limits, legend=False), 0.5)
    return with_legend(both, look.limits, result.scale) if look.legend else both


def side_by_side(result: DepthMap, look: Look) -> Image.Image:
    """Draw the picture, and the colours of its disparity to the right of it."""
    width, height = result.size
    both = Image.new("RGB", (2 * width, height))
    both.paste(_picture(result), (0, 0))
    both.paste(result.colored(look.limits, legend=False), (width, 0))
    return with_legend(both, look.limits, result.scale) if look.legend else both


def _picture(result: DepthMap) -> Image.Image:
    if result.picture is None:
        raise UserError("the depth map holds no picture to draw, or to colour points with")
    return result.picture


def _png(picture: Image.Image, texts: dict[str, str], path: Path) -> None:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text) if not text.isascii() else info.add_text(key, text)
    picture.save(path, "PNG", pnginfo=info, **PNG_EFFORT)


def save_gray16(result: DepthMap, look: Look, path: Path) -> None:
    """Write a PNG of 16 bits.

    Metres: 256 times depth, 0 = none, as KITTI does; at most 255.996 m, and the text `clipped_pixels` counts those that
    are farther. Relative depth: disparity from its least value (0) to its largest (65535): disparity =
    `disparity_offset` + value * `disparity_step`.
    """
    if result.unit == "m":
        steps = np.round(result.depth * KITTI_STEPS)
        known = np.isfinite(steps)
        values = np.where(known, np.clip(steps, 1, 65535), 0)
        clipped = str(int((steps[known] > 65535).sum()))
        texts = {"quantity": "depth", "formula": "depth_m = value / 256, 0 = none", "clipped_pixels": clipped}
    else:
        known = np.isfinite(result.disparity)
        low, high = (
            (float(result.disparity[known].min()), float(result.disparity[known].max())) if known.any() else (0, 0)
        )
        step = (high - low) / 65535
        values = np.where(known, np.round((result.disparity.astype(np.float64) - low) / (step or 1)), 0)
        texts = {"quantity": "disparity", "formula": "disparity = disparity_offset + value * disparity_step"}
        texts |= {"disparity_offset": f"{low:.9g}", "disparity_step": f"{step:.9g}"}
    _png(Image.fromarray(values.astype(np.uint16)), texts | result.texts, path)


def save_npz(result: DepthMap, look: Look, path: Path) -> None:
    """Write `disparity` (H W) float32 and texts."""
    with open(path, "wb") as file:
        np.savez(file, disparity=result.disparity, quantity="disparity", **result.texts)  # type: ignore[arg-type]


def save_npy(result: DepthMap, look: Look, path: Path) -> None:
    """Write depth (H W) float32, in the unit of the result; the format has no room for saying so."""
    with open(path, "wb") as file:
        np.save(file, result.depth)


def save_ply(result: DepthMap, look: Look, path: Path) -> None:
    """Write one point per pixel, x right, y down, z forward, with the colour of the picture."""
    depth, K = result.depth.ravel(), result.camera.K(result.size)
    width, height = result.size
    v, u = np.divmod(np.arange(width * height), width)
    known = np.isfinite(depth)
    fields = [(axis, "<f4") for axis in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    points = np.empty(int(known.sum()), fields)
    for axis, pixel, focal, centre in (("x", u, K[0, 0], K[0, 2]), ("y", v, K[1, 1], K[1, 2])):
        points[axis] = ((pixel - centre) / focal * depth)[known]
    points["z"] = depth[known]
    colours = np.asarray(_picture(result)).reshape(-1, 3)[known]
    for i, name in enumerate(("red", "green", "blue")):
        points[name] = colours[:, i]
    unit = "metres" if result.unit == "m" else "relative depth, no unit"
    comments = [f"unit {unit}", "axes x right, y down, z forward", f"camera {result.camera.origin}"]
    comments += [f"{key} {text}" for key, text in result.texts.items()]
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {text}" for text in comments)]
    lines += [f"element vertex {len(points)}", *(f"property float {axis}" for axis in "xyz")]
    lines += [*(f"property uchar {name}" for name in ("red", "green", "blue")), "end_header", ""]
    with open(path, "wb") as file:
        file.write("\n".join(lines).encode("ascii", "replace"))
        file.write(points.tobytes())


Painter: TypeAlias = Callable[[DepthMap, Look], Image.Image]
PAINTERS: dict[str, Painter] = {"color": color, "overlay": overlay, "side-by-side": side_by_side}
FILES: dict[str, tuple[str, Callable[[DepthMap, Look, Path], None]]] = {
    "gray16": (".png", save_gray16),
    "npz": (".npz", save_npz),
    "npy": (".npy", save_npy),
    "ply": (".ply", save_ply),
}
KINDS = (*PAINTERS, *FILES)
NEED_PICTURE = {"overlay", "side-by-side", "ply"}
MARKED = {*PAINTERS, "gray16"}  # kinds that share a suffix, so that they stand in the name


def path_of(folder: Path, name: str, kind: str) -> Path:
    """Return the file for the output `kind` of the frame `name`."""
    suffix = FILES[kind][0] if kind in FILES else ".png"
    return folder / f"{name}{f'_{kind}' if kind in MARKED else ''}{suffix}"


def write(result: DepthMap, kind: str, path: Path, look: Look) -> None:
    """Write one output as a whole. Raises CannotWrite when the disk refuses."""
    with replacing(path) as staged:
        if kind in PAINTERS:
            _png(PAINTERS[kind](result, look), {"quantity": "disparity", **ends(look.limits)} | result.texts, staged)
        else:
            FILES[kind][1](result, look, staged)


def ends(limits: Limits) -> dict[str, str]:
    """Say in metadata which depths the ends of the colours are."""
    far, near = (f"{1 / end:.6g}" if end > 0 else "inf" for end in limits)
    return {"depth_nearest_colour": near, "depth_farthest_colour": far}


def save(result: DepthMap, path: Path, kind: str | None = None) -> None:
    """Write a result by the suffix of `path`; see `DepthMap.save`."""
    suffixes = {"color": ".png", **{kind: suffix for kind, (suffix, _) in FILES.items()}}
    kind = kind or next((kind for kind, suffix in suffixes.items() if suffix == path.suffix.lower()), "")
    suffix = FILES[kind][0] if kind in FILES else ".png"
    if kind not in KINDS or path.suffix.lower() != suffix:
        known = ", ".join(f"{kind} ({FILES[kind][0] if kind in FILES else '.png'})" for kind in KINDS)
        raise UserError(f"{path}: no kind of output for this name. Known are {known}")
    make_folder(path.parent)
    write(result, kind, path, Look(limits_of(result.disparity)))


def kinds_of(words: Sequence[str], default: str) -> list[str]:
    """Read `--save`: names, or several of them with commas. Raises UserError for an unknown one."""
    kinds = [kind for word in words for kind in word.split(",") if kind] or [default]
    for kind in kinds:
        if kind not in (*KINDS, "video"):
            raise UserError(f"--save {kind!r} is no kind of output. {did_you_mean(kind, (*KINDS, 'video'))}")
    return list(dict.fromkeys(kinds))
