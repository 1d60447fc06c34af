"""Depth of one picture, with what its numbers mean: to look at, to compute with, to save."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer import __version__
from trainer.predict.camera import Camera
from trainer.predict.colours import Limits, coloured, limits_of, with_legend
from trainer.predict.scale import Scale, Unit
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, replacing

KITTI_STEPS = 256  # per metre, of depth in 16 bits; KITTI's development kit
PNG_EFFORT = {"compress_level": 1, "compress_type": zlib.Z_RLE}  # a quarter of the time of the default for colours


@dataclass(frozen=True, eq=False, repr=False)
class DepthMap:
    """Depth of one picture, at its size.

    Args:
        disparity: 1 / depth (H W), positive.
        scale: what the numbers mean.
        picture: what it was predicted from (H W), RGB; needed to draw it and to colour points.
        model: SHA-256 of the checkpoint, "" = not known.
        camera: puts the pixels into space.
    """

    disparity: NDArray[np.float32]
    scale: Scale
    picture: Image.Image | None = None
    model: str = ""
    camera: Camera = field(default_factory=Camera)

    @property
    def depth(self) -> NDArray[np.float32]:
        """Depth along the optical axis (H W), in `unit`."""
        return np.reciprocal(self.disparity)

    @property
    def unit(self) -> Unit:
        """Unit of depth: "m", or "relative" where only ratios of depths mean something."""
        return self.scale.unit

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.disparity.shape
        return width, height

    @property
    def texts(self) -> dict[str, str]:
        """What goes into the metadata of every file: unit of depth, scale and its origin, the model."""
        return {
            "unit": self.unit,
            "scale": f"{self.scale.factor:.9g}",
            **({} if self.scale.exponent == 1 else {"scale_exponent": f"{self.scale.exponent:.9g}"}),
            "scale_origin": self.scale.origin,
            "model_sha256": self.model,
            "Software": f"monodepth {__version__}",
        }

    def colored(self, limits: Limits | None = None, *, legend: bool = True) -> Image.Image:
        """Colour the disparity, red = near, with a bar of unit and range below, if it is wide enough.

        limits: disparities at the far and near end of the colours; None = 2nd and 98th percentile.
        """
        limits = limits or limits_of(self.disparity)
        picture = coloured(self.disparity, limits)
        return with_legend(picture, limits, self.scale) if legend else picture

    def save(self, path: str | Path, kind: str | None = None) -> None:
        """Save in the format of the suffix: .png (colours), .npz, .npy or .ply.

        kind: one of `trainer.predict.depthmap.KINDS` of that suffix, e.g. "gray16" or "overlay"; None = the usual one.

        Raises UserError for another suffix, CannotWrite when the disk refuses.
        """
        suffixes = {"color": ".png", **{kind: suffix for kind, (suffix, _) in FILES.items()}}
        path = Path(path)
        kind = kind or next((kind for kind, suffix in suffixes.items() if suffix == path.suffix.lower()), "")
        if kind not in KINDS or path.suffix.lower() != suffix_of(kind):
            known = ", ".join(f"{kind} ({suffix_of(kind)})" for kind in KINDS)
            raise UserError(f"{path}: no kind of output for this name. Known are {known}")
        make_folder(path.parent)
        write(self, kind, path, Look(limits_of(self.disparity)))

    def __repr__(self) -> str:
        width, height = self.size
        unit = " m" if self.unit == "m" else ", relative depth"
        near, far = 1 / float(self.disparity.max()), 1 / float(self.disparity.min())
        return f"DepthMap({width}x{height}, {near:.3g} to {far:.3g}{unit})"


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


def suffix_of(kind: str) -> str:
    """Return the ending of the files of an output: pictures are PNG."""
    return FILES[kind][0] if kind in FILES else ".png"


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
