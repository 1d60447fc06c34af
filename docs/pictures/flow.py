"""Pictures of the data flow: one training step, what a scene holds, and what view synthesis does."""

from __future__ import annotations

import base64
import io

import torch
from observe import Observed, notes_on, observe, public_reads
from PIL import Image
from svg import MARGIN, WIDTH, Box, Drawing

from trainer.data import DATASETS
from trainer.geometry import depth_to_disp
from trainer.geometry.scene import Scene
from trainer.tracking import viz
from trainer.types import Batch, Predictions

PAGE = "benchmark/monodepth2_MS"  # of the step that is drawn
PAGES = tuple(f"benchmark/{p}" for p in ("monodepth2_MS", "dvso", "feat_depth", "depth_hints_MS", "klodt", "ddvnet"))
FULL, LANE = WIDTH - 2 * MARGIN, 22  # width of a box; what is left free for lines beside boxes
Rows = dict[str, list[tuple[str, str]]]


def step(page: str = PAGE) -> Drawing:
    """Draw the data flow of one training step of a page."""
    seen = observe(page)
    offsets = list(seen.cfg.supp_idxs)
    d = Drawing(f"One training step of {page}")
    d.paragraph(f"One step of {page}, supp_idxs {offsets}")
    batch = d.box("data", "batch", _shapes(Batch, seen.batch), w=FULL - LANE, column=None)
    d.below(batch)
    nets = _side_by_side(d, "net", {f"network {name}": _network(seen, name) for name in seen.sees}, FULL - LANE)
    made = d.box("net", "predictions", _shapes(Predictions, seen.predictions), w=FULL - LANE, column=None)
    _connect(d, batch, nets, made)
    d.below(made)
    reads = {loss: public_reads(seen.reads[loss]) for loss in seen.losses}
    asked = public_reads({name for names in reads.values() for name in names} - {*seen.given})
    scene = d.box(
        "geo",
        "scene: all that a loss can see",
        [("given", _listed(seen.given)), ("made when asked", _listed(asked))],
        column=None,
    )
    d.arrow((made.middle, made.bottom), (made.middle, scene.y))
    d.arrow((batch.x + batch.w, batch.y + 24), (FULL, batch.y + 24), (FULL, scene.y))
    d.below(scene)
    rows = {f"{seen.losses[key]:g} · {key}": [("reads", _listed(reads[key]))] for key in seen.losses}
    losses = _side_by_side(d, "loss", rows, FULL, column=42)
    total = " + ".join(f"{weight:g} · {key}" for key, weight in seen.losses.items())
    end = d.box("plain", "loss", [("", total), ("", "gradients, verdict of the guard, clipping, optimizer, schedule")])
    _connect(d, scene, losses, end)
    d.below(end, gap=0)
    return d


def _connect(d: Drawing, above: Box, boxes: list[Box], below: Box) -> None:
    """Draw arrows to the first row of boxes, and from the last one."""
    for box in boxes:
        if box.y == boxes[0].y:
            d.arrow((box.middle, above.bottom), (box.middle, box.y))
        if box.y == boxes[-1].y:
            d.arrow((box.middle, box.bottom), (box.middle, below.y))


def _side_by_side(d: Drawing, kind: str, parts: Rows, w: float, column: float = 0, gap: float = 12) -> list[Box]:
    """Draw boxes in rows of at most two, alike in height, and go on below them."""
    found: list[Box] = []
    names = list(parts)
    for start in range(0, len(names), 2):
        row = names[start : start + 2]
        each = (w - gap * (len(row) - 1)) / len(row)
        blank = Drawing("")
        tallest = max(blank.box(kind, name, parts[name], w=each, column=column).lines for name in row)
        boxes = [d.box(kind, n, parts[n], MARGIN + i * (each + gap), each, column, tallest) for i, n in enumerate(row)]
        d.below(*boxes, gap=26 if start + 2 >= len(names) else gap)
        found += boxes
    return found


def _shapes(cls: type, keys: list[str]) -> list[tuple[str, str]]:
    notes = notes_on(cls)
    return [(f"{key:13}{notes[key][0]}", notes[key][1].replace("->", "→")) for key in keys]


def _network(seen: Observed, name: str) -> list[tuple[str, str]]:
    options = seen.cfg.net[name]
    kind = [str(options[key]) for key in ("enc_name", "dec_name") if key in options]
    return [("", _listed(kind)), ("", "sees " + _listed(seen.sees[name])), ("", "gives " + _listed(seen.gives[name]))]


def _listed(names: list[str]) -> str:
    return ", ".join(names)


def scene(pages: tuple[str, ...] = PAGES) -> Drawing:
    """Draw what scenes are given, what they compute, and which loss reads what."""
    seen = [observe(page) for page in pages]
    given = [key for key in notes_on(Scene) if any(key in one.given for one in seen)]
    reads: dict[str, set[str]] = {}
    for one in seen:
        for reader, names in one.reads.items():
            reads.setdefault(reader, set()).update(names)
    losses = sorted({key for one in seen for key in one.losses})
    asked = {name for loss in losses for name in reads[loss]}
    while more := {name for made in asked for name in reads.get(made, ())} - asked:
        asked |= more
    made = [name for name in public_reads(asked) if public_reads(reads.get(name, ()))]
    d = Drawing("What a scene holds")
    of_batch, of_networks = ([key for key in given if (key in notes_on(Batch)) == is_read] for is_read in (True, False))
    d.below(d.box("data", "given by the batch", _shapes(Scene, of_batch), column=None), gap=8)
    top = d.box("net", "given by the networks", _shapes(Scene, of_networks), column=None)
    d.below(top)
    rows = [(name, "from " + _listed(public_reads(reads[name]))) for name in made]
    middle = d.box("geo", "made when a loss first asks, and kept", rows, column=None)
    d.arrow((top.middle, top.bottom), (top.middle, middle.y))
    d.below(middle)
    last = d.box("loss", "who reads what", [(loss, _listed(public_reads(reads[loss]))) for loss in losses], column=None)
    d.arrow((middle.middle, middle.bottom), (middle.middle, last.y))
    d.below(last, gap=0)
    return d


def views() -> Drawing:
    """Draw a scene of a made street with its true depth and motion: what view synthesis does."""
    dataset = DATASETS.create("synthetic", mode="test", size=(384, 128), supp_idxs=(-1,), num_items=64)
    item = {key: value[None] for key, value in dataset[32].items()}
    far = 100.0  # metres: the sky, which has no depth
    depth = torch.where(item["depth"] > 0, item["depth"], far).clamp(0.1, far)
    made = Scene(
        target=item["target"], supports=item["supports"], K=item["K"], Ts=item["Ts_true"],
        disp={0: depth_to_disp(depth, 0.1, far)}, supp_idxs=(-1,), min_depth=0.1, max_depth=far,
    )  # fmt: skip
    before, after = ((image - made.target).abs().mean(1, keepdim=True) for image in (made.support(0), made.warp(0, 0)))
    shown = {
        "target": viz.colour_image(made.target),
        "support, one frame earlier": viz.colour_image(made.support(0)),
        "depth(0), from disp[0]": viz.colour_depth(made.depth(0)),
        "warp(0, 0): the support, with it": viz.colour_image(made.warp(0, 0)),
        "difference of support and target": viz.colour_image((3 * before).clamp(0, 1).expand(-1, 3, -1, -1)),
        "difference of warp and target": viz.colour_image((3 * after).clamp(0, 1).expand(-1, 3, -1, -1)),
    }
    d = Drawing("A support warped into the target with the depth of a scene")
    w = (FULL - 10) / 2
    for i, (words, image) in enumerate(shown.items()):
        x, y = MARGIN + i % 2 * (w + 10), d.y + i // 2 * (w / 3 + 26)
        d.text(x, y + 12, words, "note")
        d.picture(x, y + 18, w, w / 3, _jpeg(image))
    d.y += 3 * (w / 3 + 26) - 8
    return d


def _jpeg(image: torch.Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(viz.to_uint8(image[0])).save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
