"""Miniatures of data sets: a few rendered pictures with their depth and camera, written in the layout of the set."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.data.clips.cameras import CAM
from trainer.data.files.arrays import archive_bytes, array_bytes
from trainer.data.files.depth import DPT_HEAD, DPT_TAG
from trainer.data.files.layout import Layout
from trainer.data.files.patterns import INDEX, Pattern
from trainer.data.world.layouts import draw_scene
from trainer.runtime.files import make_folder, replacing

ITEMS = 3
LONGEST = 192  # pixels of the longer side, at most
_SEED = (0, 4, 0)  # after the modes of `synthetic` (0 to 2) and the drives of `prepare synthetic` (3)
_FOCAL = 0.8  # image widths
_FARTHEST = 80.0  # metres; beyond is no truth
_PATCH = 8  # pixels of a corner that masks leave out
_STEP = 1.1  # ratio of the depths of neighbours at an edge


class Made(NamedTuple):
    """A rendered picture."""

    picture: NDArray[np.uint8]  # (h w 3) RGB
    depth: NDArray[np.float32]  # (h w) metres, 0 = none
    K: NDArray[np.float64]  # (3 3) pixels
    T_world: NDArray[np.float64]  # (4 4) camera -> world, metres

    @property
    def edges(self) -> NDArray[np.bool_]:
        """Depth edges (h w): where a neighbour to the right or below is farther or nearer by more than a tenth."""
        logs = np.log(np.maximum(self.depth, 1e-3))
        edges = np.zeros(logs.shape, np.bool_)
        edges[:, :-1] |= np.abs(np.diff(logs, axis=1)) > np.log(_STEP)
        edges[:-1] |= np.abs(np.diff(logs, axis=0)) > np.log(_STEP)
        return edges


def made_frames(native_size: tuple[int, int], indoors: bool) -> list[Made]:
    """Render `ITEMS` successive frames of a drive, with the shape of `native_size` (w, h), reduced: always the same."""
    reduced = min(1.0, LONGEST / max(native_size))
    width, height = (max(16, round(side * reduced)) for side in native_size)
    K = np.array([[_FOCAL * width, 0, (width - 1) / 2], [0, _FOCAL * width, (height - 1) / 2], [0, 0, 1]])
    kind: Any = "corridor" if indoors else "road"
    scene = draw_scene(_SEED, kind, ITEMS, motion=0.8, rotation=1.0, moving_objects=0, standing=0.0)
    frames = []
    for i in range(ITEMS):
        view = scene.view(i, False, K, (width, height))
        picture, depth, background = scene.render(i, view)
        depth = np.where(background | (depth > _FARTHEST), np.float32(0), depth)
        frames.append(Made(picture, depth, K, view.T_world))
    return frames


def write_layout(out: Path, layout: Layout, frames: list[Made]) -> None:
    """Write rendered pictures and everything that a layout has beside them. Raises CannotWrite."""
    lines: list[str] = []
    poses: dict[str, list[NDArray[np.float64]]] = {}
    for i, made in enumerate(frames):
        words = _words(layout, i)
        contents = {layout.images: picture_bytes(made.picture, layout.images.text)}
        if layout.depth:
            contents[layout.depth] = _depth_bytes(made, layout)
        for mask in layout.masks:
            contents[mask] = _mask_bytes(made, layout, mask.text)
        if layout.edges:
            contents[layout.edges] = picture_bytes(np.uint8(255) * made.edges, layout.edges.text)
        if layout.camera:
            contents[layout.camera] = _camera_bytes(made, layout.camera.text)
        for pattern, content in contents.items():
            write(out / pattern.fill(words), content)
        if layout.poses:
            poses.setdefault(layout.poses.fill(words), []).append(made.T_world)
        lines.append((layout.list_line or layout.images).fill(words))
    for name, motions in poses.items():
        is_cam = name.endswith(".cam")
        rows = "".join(" ".join(f"{n:.9g}" for n in T[:3].ravel()) + "\n" for T in motions)
        write(out / name, _cam_bytes(frames[0].K, motions[0]) if is_cam else rows.encode())
    if layout.list_file:
        write(out / layout.list_file, "".join(f"{line}\n" for line in lines).encode())


def picture_bytes(pixels: NDArray[Any], name: str) -> bytes:
    """Encode a picture by the ending of its name: JPEG, else PNG; (h w) uint16 is a deep PNG."""
    buffer, is_jpeg = io.BytesIO(), name.lower().endswith((".jpg", ".jpeg"))
    Image.fromarray(pixels).save(buffer, **({"format": "JPEG", "quality": 95} if is_jpeg else {"format": "PNG"}))
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file whole, with the folders above it. Raises CannotWrite."""
    make_folder(path.parent)
    with replacing(path) as staged:
        staged.write_bytes(content)


def _words(layout: Layout, i: int) -> dict[str, str]:
    """Choose the words of item `i`: a number where they complete a name or tell items apart, else their own name."""
    words = dict.fromkeys(layout.list_line.words if layout.list_line else (), f"{i:05}")
    own, last = _befores(layout.images), layout.images.words[-1] if layout.images.words else ""
    words |= {w: f"{i:05}" if w == last else "00001" if before else w for w, before in own.items()}
    return {**words, INDEX: str(i)}


def _befores(pattern: Pattern) -> dict[str, bool]:
    """Tell of each word whether text stands before it in the same name, where it is seen first."""
    befores, text = dict[str, bool](), pattern.text
    for word in pattern.words:
        before = text[: text.index("{" + word)]
        befores[word] = bool(before) and not before.endswith("/")
    return befores


def _depth_bytes(made: Made, layout: Layout) -> bytes:
    values = layout.coding.encode(made.depth, made.K[0, 0], whole=layout.form == "png")
    encoders: Mapping[str, Any] = {
        "png": lambda: picture_bytes(values, ".png"),
        "npy": lambda: array_bytes(values),
        "npz": lambda: archive_bytes({layout.key: values}),
        "dpt": lambda: DPT_HEAD.pack(DPT_TAG, *values.shape[::-1]) + values.astype("<f4").tobytes(),
        "raw": lambda: values.astype("<f4").tobytes(),
    }
    content: bytes = encoders[layout.form]()
    return content


def _mask_bytes(made: Made, layout: Layout, name: str) -> bytes:
    is_array = name.endswith(".npy")
    valid = (1 if is_array else 255) if layout.mask_valid is None else layout.mask_valid[0]
    mask = np.where(made.depth > 0, valid, 0).astype(np.float32 if is_array else np.uint8)
    mask[:_PATCH, :_PATCH] = 0
    return array_bytes(mask) if is_array else picture_bytes(mask, name)


def _camera_bytes(made: Made, name: str) -> bytes:
    fx, fy, cx, cy = made.K[0, 0], made.K[1, 1], made.K[0, 2], made.K[1, 2]
    if name.endswith(".cam"):
        return _cam_bytes(made.K, made.T_world)
    if name.endswith(".json"):
        return json.dumps({"intrinsic": {"fx": fx, "fy": fy, "u0": cx, "v0": cy}}, indent=2).encode()
    return f"{fx:.9g} {fy:.9g} {cx:.9g} {cy:.9g}\n".encode()


def _cam_bytes(K: NDArray[np.float64], T_world: NDArray[np.float64]) -> bytes:
    return CAM.pack(DPT_TAG, *K.ravel(), *np.linalg.inv(T_world)[:3].ravel())
