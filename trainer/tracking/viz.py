"""Pictures: functions that turn tensors into colours, and `picture_sheet`, which writes a PNG.

Colours are float RGB in [0, 1] on the CPU. Pixels that are not finite are magenta.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.tracking import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAGENTA = (1.0, 0.0, 1.0)  # not finite
MAX_IMAGES, PER_ROW = 6, 2
ERROR_VMAX = 0.3  # relative error where the colour scale ends
DISP_QUANTILE = 0.95  # a few very near pixels must not darken the rest
SPARSE_BELOW = 0.5  # share of pixels with ground truth below which points are thickened
DPI = 150  # of a sheet
FOOTER_LENGTH = 170  # characters that fit across a sheet; there is room for two lines
PIXELS_PER_RADIUS = 500  # points of a map 1242 wide become 5 x 5 pixels, 640 wide 3 x 3, 192 wide 1 x 1


def colour_disp(disp: Tensor, vmax: float | Tensor | None = None) -> Tensor:
    """Colour a disparity with the turbo map, red = near.

    disp (b 1 h w), any unit. `vmax` is the value at the top of the map: a number, one per image (b,),
    None = 95th percentile of the positive values of each image. Returns (b 3 h w).
    """
    disp = _cpu(disp)
    top = _upper(disp) if vmax is None else torch.as_tensor(vmax, dtype=torch.float32)
    return _mark(_apply_map("turbo", disp / top.expand(len(disp)).view(-1, 1, 1, 1).clamp(min=1e-12)), disp)


def colour_depth(depth: Tensor, vmax: float | Tensor | None = None) -> Tensor:
    """Colour a depth map by its inverse, like a disparity; black where depth is missing (<= 0).

    depth (b 1 h w), metres; `vmax` in 1/metres as in `colour_disp`. Sparse maps (LiDAR) are thickened for thumbnails,
    the nearest point in front; measured pixels stay. Returns (b 3 h w).
    """
    depth = _cpu(depth)
    known = depth > 0
    disp = _inverse(depth)
    top = _upper(disp) if vmax is None else vmax  # before the near points grow
    disp, shown = _thicken(disp, known)
    return _mark(colour_disp(disp, top) * shown, depth)


def colour_error(abs_rel: Tensor, valid: Tensor | None = None, vmax: float = ERROR_VMAX) -> Tensor:
    """Colour a relative error: blue = 0, red = `vmax` and above, black where `valid` is False.

    abs_rel (b 1 h w), fraction; valid (b 1 h w) bool, None = everywhere. Sparse errors are thickened, the largest in
    front. Returns (b 3 h w).
    """
    abs_rel = _cpu(abs_rel)
    known = torch.ones_like(abs_rel, dtype=torch.bool) if valid is None else valid.detach().cpu().bool()
    abs_rel = torch.where(known, abs_rel, 0.0)
    error, shown = _thicken(abs_rel.nan_to_num(), known)
    return _mark(_apply_map("RdYlBu_r", error / vmax) * shown, abs_rel)


def colour_mask(mask: Tensor) -> Tensor:
    """Show the first channel of a mask (b c h w), bool or [0, 1], in grey: white = kept. Returns (b 3 h w)."""
    return colour_image(mask[:, :1])


def colour_image(image: Tensor) -> Tensor:
    """Show an image (b 1|3 h w), clamped to [0, 1]. Returns (b 3 h w)."""
    image = _cpu(image)
    return _mark(image.nan_to_num().clamp(0, 1).expand(-1, 3, -1, -1), image)


def colour_gradient(gradient: Tensor) -> Tensor:
    """Show the mean over channels of (b c h w) in grey, stretched per image. Returns (b 3 h w)."""
    gradient = _cpu(gradient).mean(1, keepdim=True)
    return _mark(normalise(gradient).expand(-1, 3, -1, -1), gradient)


def normalise(x: Tensor) -> Tensor:
    """Stretch every image of x (b c h w) to [0, 1] by its finite extremes; a constant image becomes 0."""
    x = _cpu(x)
    finite = x.isfinite()
    low = torch.where(finite, x, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    span = torch.where(finite, x, -torch.inf).amax(dim=(1, 2, 3), keepdim=True) - low
    return torch.where(finite & (span > 0), (x - low) / span, 0.0)


def pca_rgb(features: Tensor) -> Tensor:
    """Show the first three principal components of features as red, green and blue.

    features (b c h w). The components are those of the whole batch, stretched to [0, 1] over it; the largest loading is
    positive. Components without variance (constant input, fewer than three channels) are 0. Returns (b 3 h w).
    """
    features = _cpu(features)
    b, c, h, w = features.shape
    pixels = features.nan_to_num(0.0, 0.0, 0.0).permute(0, 2, 3, 1).reshape(-1, c).double()  # (bhw c)
    pixels = pixels - pixels.mean(0)
    axes, variance = _main_axes(pixels)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    scores = pixels @ axes  # (bhw 3)
    scores = scores - scores.amin(0)
    scores = scores / scores.amax(0).clamp(min=1e-30)
    rgb = torch.where(variance > variance[0] * 1e-10 + 1e-20, scores, 0.0).float()  # the rest is rounding
    return _mark(rgb.reshape(b, h, w, 3).permute(0, 3, 1, 2), features)


def grid(images: Tensor, max_images: int = MAX_IMAGES, per_row: int = PER_ROW, gap: int = 2) -> Tensor:
    """Lay out the first images of (b 3 h w) row by row, `gap` black pixels apart. Returns (3 H W)."""
    images = images[:max_images]
    b, _, h, w = images.shape
    columns = min(per_row, b)
    rows = -(-b // columns)  # rounded up
    sheet = images.new_zeros(3, rows * (h + gap) - gap, columns * (w + gap) - gap)
    for i, image in enumerate(images):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, y : y + h, x : x + w] = image
    return sheet


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert colours (3 h w) in [0, 1] to an array (h w 3) of uint8."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


PICTURES: dict[str, Callable[[Tensor], Tensor]] = {  # first part of an image name -> how it is shown
    "imgs": colour_image,
    "imgs_aug": colour_image,
    "imgs_warp": colour_image,
    "disp": colour_disp,
    "depth": colour_depth,
    "masks": colour_mask,
    "grad": colour_gradient,
    "feats": pca_rgb,
    "feats_warp": pca_rgb,
}


def render(name: str, tensor: Tensor) -> Tensor:
    """Colour the image called `name` ("disp/target_0") as PICTURES says for the part before the slash.

    tensor (b c h w). Other names are shown by their channels: 1 in grey, 3 as an image, more by principal components.
    Returns (b 3 h w). Raises ValueError when the tensor does not have four axes.
    """
    if tensor.ndim != 4:
        raise ValueError(f"image {name!r} has shape {tuple(tensor.shape)}: expected (b c h w)")
    by_channels = {1: colour_gradient, 3: colour_image}.get(tensor.shape[1], pca_rgb)
    return PICTURES.get(name.split("/", 1)[0], by_channels)(tensor)


SHEET_COLUMNS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {  # key -> title, picture of a (1 1 h w)
    "input": ("Input", colour_image),
    "prediction": ("Predicted disparity", colour_disp),
    "truth": ("Ground truth", colour_depth),
    "error": ("Error relative to depth", lambda error: colour_error(error, ~error.isnan())),
    "warp": ("Warped support", colour_image),
    "automask": ("Automask: white counts", colour_mask),
}
COLOUR_BARS = {  # key -> colour map, what its ends mean
    "prediction": ("turbo", "far", "near"),
    "truth": ("turbo", "far", "near"),
    "error": ("RdYlBu_r", "0", f"≥ {ERROR_VMAX:g}"),
}
TO_DISPARITY: dict[str, Callable[[Tensor], Tensor]] = {  # of the pictures with a scale of their own
    "prediction": lambda disp: disp,
    "truth": lambda depth: _inverse(depth),
}
BAR_SHARES = (0.25, 0.5)  # of the nearest disparity: where a colour bar has a label, 4 and 2 times as far away


def picture_sheet(rows: Sequence[Mapping[str, Any]], path: str | Path, title: str = "", footer: str = "") -> None:
    """Write the sheet of `sheet` as a PNG that holds the places of its pictures."""
    canvas, places = _drawn(rows, title, footer)
    canvas.print_png(str(path), metadata={panels.CHUNK: panels.as_text(places)})


def sheet(
    rows: Sequence[Mapping[str, Any]], title: str = "", footer: str = ""
) -> tuple[np.ndarray, list[panels.PanelRow]]:
    """Draw a sheet with one row per image: input, predicted disparity, ground truth, relative error, ...

    Keys of a row: `input` (h w 3), `prediction` (h w) disparity in 1/metres, `truth` (h w) metres, 0 = missing,
    `error` (h w) fraction, NaN = missing, `warp` (h w 3), `automask` (h w), of any size; an (h w 3) array, uint8 or in
    [0, 1], is shown unchanged. Columns without pictures are left out. Optional: `label` and `name`, texts, and
    `abs_rel`, a fraction. Each disparity and each ground truth has a scale of its own and below it a colour bar in
    metres; errors share one. Returns the sheet (H W 3) uint8, and where its pictures are. Raises ValueError when there
    is nothing to show.
    """
    canvas, places = _drawn(rows, title, footer)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3], places


def _drawn(rows: Sequence[Mapping[str, Any]], title: str, footer: str) -> tuple[Any, list[panels.PanelRow]]:
    """Lay out a sheet on a canvas of matplotlib; return it and the places of its pictures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = [key for key in SHEET_COLUMNS if any(row.get(key) is not None for row in rows)]
    if not keys:
        raise ValueError(f"nothing to show: {len(rows)} rows, none with {', '.join(SHEET_COLUMNS)}")
    gap, head, foot = 0.06, 0.72 if title else 0.34, 0.6 if footer else 0.3  # inches, like all lengths here
    width = 12.4 / max(len(keys), 2)
    heights = [width * _aspect(row) for row in rows]
    scales = {key: [_metres(key, row) for row in rows] for key in keys}
    between = 0.26 if any(map(any, scales.values())) else gap
    size = (gap + len(keys) * (width + gap), head + sum(heights) + between * (len(rows) - 1) + gap + foot)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    boxes: list[dict[str, panels.Box]] = [{} for _ in rows]

    def axes_at(left: float, top: float, width: float, height: float) -> Axes:
        bottom = size[1] - top - height
        axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
        axes.set_axis_off()
        return axes

    for column, key in enumerate(keys):
        left, top = gap + column * (width + gap), head
        middle, baseline = (left + width / 2) / size[0], 1 - (head - 0.09) / size[1]
        figure.text(middle, baseline, SHEET_COLUMNS[key][0], ha="center", fontsize=min(12, 5 * width))
        for row, height, metres, places in zip(rows, heights, scales[key], boxes, strict=True):
            _draw_cell(axes_at(left, top, width, height), key, row)
            if row.get(key) is not None:
                places[key] = _pixels(left, top, left + width, top + height)
            top += height + between
            if metres or (row is rows[-1] and key in COLOUR_BARS and not any(scales[key])):
                place = axes_at(left + width * 0.2, top - between + gap + 0.05, width * 0.5, 0.12)
                _draw_colour_bar(place, *COLOUR_BARS[key], metres)
    figure.text(0.5, 1 - 0.3 / size[1], title, ha="center", fontsize=14, fontweight="bold")
    figure.text(
        gap / size[0],
        0.1 / size[1],
        textwrap.fill(footer, FOOTER_LENGTH, max_lines=2, placeholder=" ..."),
        fontsize=9,
        color="0.35",
    )
    names = [str(row.get("name") or row.get("label") or i) for i, row in enumerate(rows, start=1)]
    scores = [None if (score := row.get("abs_rel")) is None else float(score) for row in rows]
    return canvas, [panels.PanelRow(*known) for known in zip(names, boxes, scores, strict=True)]


def _pixels(left: float, top: float, right: float, bottom: float) -> panels.Box:
    """Return the pixels that lie inside a box in inches as a whole."""
    return math.ceil(left * DPI), math.ceil(top * DPI), math.floor(right * DPI), math.floor(bottom * DPI)


def _aspect(row: Mapping[str, Any]) -> float:
    """Return height over width of the first picture of a row; 0.3, as in KITTI, for an empty row."""
    shapes = (np.shape(row[key]) for key in SHEET_COLUMNS if row.get(key) is not None)
    h, w = next(shapes, (3, 10))[:2]
    return h / w


def _draw_cell(axes: Axes, key: str, row: Mapping[str, Any]) -> None:
    """Draw one picture and its text; the pictures of a row are stretched to the shape of its first."""
    if row.get(key) is None:
        axes.text(0.5, 0.5, "none", ha="center", va="center", color="0.6")
        return
    picture = np.asarray(row[key])
    if picture.ndim == 2:
        array = torch.from_numpy(picture.astype(np.float32))[None, None]
        picture = to_uint8(SHEET_COLUMNS[key][1](array)[0])
    axes.imshow(picture, aspect="auto", interpolation="antialiased")
    abs_rel = row.get("abs_rel")
    score = None if abs_rel is None else f"AbsRel {abs_rel:.3f}"
    if text := {"input": row.get("label"), "error": score}.get(key):
        plate = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 2.5}
        axes.annotate(text, (0, 0), (5, 5), "axes fraction", "offset points", color="white", fontsize=9, bbox=plate)


def _metres(key: str, row: Mapping[str, Any]) -> float | None:
    """Return the depth at the near end of the colours of a picture; None where they show no depth."""
    picture, to_disparity = row.get(key), TO_DISPARITY.get(key)
    if to_disparity is None or picture is None or np.ndim(picture) != 2:
        return None
    return 1 / float(_upper(to_disparity(torch.tensor(np.asarray(picture, np.float32))[None, None])))


def _draw_colour_bar(axes: Axes, name: str, low: str, high: str, metres: float | None) -> None:
    """Draw a bar with labels at its ends: words, or depths when the near end, in metres, is known."""
    if metres is not None:
        low, high = "∞", f"≤ {_depth(metres)} m"
        for share in BAR_SHARES:
            axes.text(share * 255, 0, _depth(metres / share), ha="center", va="center_baseline", fontsize=7)
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=name)
    axes.text(-0.03, 0.5, low, ha="right", va="center", fontsize=9, transform=axes.transAxes)
    axes.text(1.03, 0.5, high, ha="left", va="center", fontsize=9, transform=axes.transAxes)


def _depth(metres: float) -> str:
    return f"{metres:.0f}" if metres >= 10 else f"{metres:.2g}"


def _inverse(depth: Tensor) -> Tensor:
    """Return 1/depth, 0 where depth is missing (<= 0)."""
    return torch.where(depth > 0, 1 / depth.clamp(min=1e-6), 0.0)


def _cpu(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float32)


def _mark(colours: Tensor, source: Tensor) -> Tensor:
    """Colour magenta where any channel of source (b c h w) is not finite."""
    broken = ~source.isfinite().all(1, keepdim=True)
    return torch.where(broken, torch.tensor(MAGENTA).view(1, 3, 1, 1), colours)


def _upper(disp: Tensor) -> Tensor:
    """95th percentile of the positive finite values of each (1 h w), 1 if there are none. Returns (b,)."""
    positive = [image[image.isfinite() & (image > 0)].numpy() for image in disp]
    return torch.tensor([float(np.quantile(x, DISP_QUANTILE)) if x.size else 1.0 for x in positive])


def _apply_map(name: str, x: Tensor) -> Tensor:
    """Colour x (b 1 h w) in [0, 1] by a colour map of matplotlib. Returns (b 3 h w)."""
    from matplotlib import colormaps

    level = (x[:, 0].nan_to_num().clamp(0, 1) * 255).round().long()  # (b h w)
    colours = colormaps[name](level.numpy())[..., :3].astype(np.float32)
    return torch.from_numpy(colours).permute(0, 3, 1, 2)


def _thicken(value: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Grow the known pixels of a sparse map into their unknown neighbours, the largest value in front."""
    radius = round(value.shape[-1] / PIXELS_PER_RADIUS)
    if radius == 0 or known.float().mean() >= SPARSE_BELOW:
        return value, known
    size = 2 * radius + 1
    shown = F.max_pool2d(known.float(), size, stride=1, padding=radius) > 0
    grown = F.max_pool2d(torch.where(known, value, 0.0), size, stride=1, padding=radius)  # values are >= 0
    return torch.where(known, value, grown), shown


def _main_axes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the principal axes (c 3) of centred pixels (n c) and their variances (3,), largest first.

    Works on the smaller Gram matrix: late features have more channels than pixels. Missing axes are 0.
    """
    n, c = pixels.shape
    if n >= c:
        variance, axes = torch.linalg.eigh(pixels.T @ pixels)  # ascending
    else:
        variance, scores = torch.linalg.eigh(pixels @ pixels.T)
        axes = F.normalize(pixels.T @ scores, dim=0)
    missing = max(0, 3 - axes.shape[1])
    return F.pad(axes[:, -3:].flip(1), (0, missing)), F.pad(variance[-3:].flip(0), (0, missing))
