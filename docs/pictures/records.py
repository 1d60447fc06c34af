"""Pictures of what is on record: order of items, seeds of all draws, checkpoints, results of `evaluate --vary`."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import torch
import yaml
from svg import MARGIN, WIDTH, Drawing

from trainer.checkpoint import safefile
from trainer.data.loaders import EpochBatches
from trainer.runtime.rundir import BEST, LAST

ROOT = Path(__file__).resolve().parents[2]
FULL = WIDTH - 2 * MARGIN
# Draws by place, "file.function": how often they happen, and what they decide.
DRAWS: list[tuple[str, str, dict[str, str]]] = [
    ("net", "once", {"training/run._with_first_weights": "weights that come from no file"}),
    (
        "data",
        "which items, for all processes alike",
        {
            "data/loaders._orders": "order of an epoch; COMPUTED: of 2^20 items or more",
            "data/mixed.__init__": "seed of the i-th of mixed data sets",
            "data/mixed._order": "order in which one of them is walked through",
        },
    ),
    (
        "data",
        "one item in one epoch",
        {
            "data/base.__getitem__": "flip, colours, views",
            "data/clips/dataset.load_in": "how far away its supports are (supp_range)",
            "data/recorded._item_or_other": "what stands in for an unreadable item",
        },
    ),
    (
        "geo",
        "one forward pass on one process",
        {
            "training/loop.move": "automask noise, dropout, drop path; number: of the micro-batch",
            "training/validation.validate": "the same in validation",
            "training/validation.overview": "the same for the sheet of pictures",
            "training/loop.statistics_batches": "the same for the statistics of averaged weights",
            "data/aspect.__call__": "shape of a batch; position: TRAINING, step, number",
        },
    ),
    (
        "plain",
        "seeds of their own: worlds, damage, statistics",
        {
            "data/world/layouts.draw_scene": "a street or room; seed: scene_seed, mode, scene",
            "data/world/shading.face_table": "its textures",
            "data/world/texture.noise_pyramid": "their grain, the same everywhere",
            "data/world/labels.label": "scale and shift of made pseudo-labels",
            "data/world/labels._redness": "which made fronts are mislabelled",
            "data/corruptions/kinds.corrupt": "corrupted pictures of evaluate --corrupt",
            "metrics/resampling._resampled": "confidence intervals",
            "metrics/resampling.sign_flips": "p-values",
        },
    ),
]
NO_DRAWS = {
    "data/loaders.make_loader",  # keeps torch's loader off the global stream
    "data/permutation.__init__",  # given the words of `_orders`
    "data/permutation._window",  # likewise
    "training/replay.replay",  # repeats a step
    "training/replay.name_operation",  # likewise
}
# Text in checkpoints, by key.
TEXTS = {
    "hparams": "the whole configuration, seed, data, versions: no YAML file is needed to load it",
    "epoch": "where the run stands",
    "batch": "micro-batches of that epoch",
    "step": "optimizer steps",
    "monitor": "what best is chosen by",
    "metrics": "of the latest validation",
    "trained_on": "the frames it was trained on, for the guard against leaks",
    "camera": "the learned camera",
    "calibration": "how depth becomes metres",
    "parts": "what it holds of the networks",
    "format_version": "of the file",
    "checksum": "of all tensors",
    "header_checksum": "of everything else",
    "best": "best value so far, and its epoch",
    "best_checksum": "which best belongs to it",
    "optimizer": "groups and options of the optimizer",
    "scheduler": "where the learning rate stands",
    "scaler": "scale of losses in precision 16",
    "extra": "guard, averages, early stopping, budget",
}
NARROW = 60  # a box with less room has its name below


def order() -> Drawing:
    """Draw the items that processes get: the order of an epoch, dealt out afterwards."""
    d = Drawing("The order of twelve items in batches of four")
    d.paragraph("12 items, loader.batch_size 4; a number is an item, a frame a global batch, a colour a process")
    rows = [(42, epoch, world, 0) for epoch in (0, 1) for world in (1, 2)] + [(42, 1, 2, 1), (43, 0, 1, 0)]
    for seed, epoch, world, start in rows:
        how = "continued by " if start else ""
        d.text(MARGIN, d.y + 18, f"seed {seed}, epoch {epoch}", "note")
        d.text(MARGIN, d.y + 34, f"{how}{world} process{'es' if world > 1 else ''}", "note")
        _dealt(d, seed, epoch, world, start)
        d.y += 46
    return d


def _dealt(d: Drawing, seed: int, epoch: int, world: int, start: int) -> None:
    cell, left = 25, WIDTH - MARGIN - 12 * 25 - 3 * 8
    for rank in range(world):
        sampler = EpochBatches(12, 4, rank, world, seed=seed, shuffle=True)
        sampler.set_position(epoch, start)
        share = 4 // world
        for i_batch, keys in enumerate(sampler, start):
            x = left + i_batch * (4 * cell + 12)
            if rank == 0:
                d.rect(x - 3, d.y + 2, 4 * cell + 6, cell + 10, "card", 4)
            for k, (_, item) in enumerate(keys):
                at = d.rect(x + (rank * share + k) * cell + 1, d.y + 7, cell - 2, cell, ("data", "net")[rank], 3)
                d.text(at.middle, at.y + 17, str(item), "name", "middle")


def draws() -> Drawing:
    """Draw every place where the trainer draws at random, with the numbers that its draw is a function of."""
    d = Drawing("Where randomness comes from")
    d.paragraph(
        "What each draw is a function of, beside the seed of the run (--seed). Words in capitals are constants that"
        " keep streams apart."
    )
    found = {place: words for place, words in _seeded().items() if place not in NO_DRAWS}
    if unknown := sorted({*found} ^ {place for *_, places in DRAWS for place in places}):
        raise ValueError(f"describe these draws in DRAWS, or take them out: {unknown}")
    for kind, head, places in DRAWS:
        rows = [
            (words.removeprefix("seed, "), "" if i else about)
            for place, about in places.items()
            for i, words in enumerate(found[place])
        ]
        d.below(d.box(kind, head, rows, column=None), gap=8)
    d.y -= 8
    return d


@cache
def _seeded() -> dict[str, list[str]]:
    """Find calls that seed something: "file.function" -> what each is seeded with, in short."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "trainer").rglob("*.py")):
        name = path.relative_to(ROOT / "trainer").as_posix().removesuffix(".py")
        if name.startswith(("commands/", "runtime/seeding")):  # benchmarks and tries; what the others call
            continue
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for call in ast.walk(function):
                    words = _words(call) if isinstance(call, ast.Call) else ""
                    if words and words not in found.setdefault(f"{name}.{function.name}", []):
                        found[f"{name}.{function.name}"].append(words)
    return {place: words for place, words in found.items() if words}


def _words(call: ast.Call) -> str:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "seed_everything":
        given = ast.unparse(ast.List(call.args, ast.Load()))
    elif name in ("default_rng", "SeedSequence", "Permutation", "manual_seed"):
        given = ast.unparse(call.args[-1])
    else:
        return ""
    given = re.sub(r"\b(self\.settings|self\.accelerator|self|accelerator|moment|position|sampler)\.", "", given)
    given = re.sub(r"zlib\.crc32\((\w+)\.encode\(\)\)", r"\1", given)
    given = re.sub(r"int\((\w+)\)|\b_(?=[A-Z])|[\[\]*]|list|\(|\)", r"\1", given)
    return given.replace("process_index", "rank").replace("micro_batch", "number").replace("'", "")


def checkpoint(run: Path) -> Drawing:
    """Draw what the two files of a run hold, to scale."""
    held = {name: safefile.read(run / "ckpts" / name) for name in (LAST, BEST)}
    sizes = {name: _bytes_of_parts(tensors) for name, (tensors, _) in held.items()}
    most = max(sum(parts.values()) for parts in sizes.values())
    texts = {
        name: {key: len(value.encode()) for key, value in metadata.items()} for name, (_, metadata) in held.items()
    }
    d = Drawing("What checkpoints hold")
    page = "/".join(run.resolve().parts[-3:])
    d.paragraph(f"{page}/ckpts: tensors to scale (networks, state of the optimizer), then text with its length")
    for name, parts in sizes.items():
        d.text(MARGIN, d.y + 14, f"{name}, {_size(sum(parts.values()))}", "head")
        d.y += 20
        x = float(MARGIN)
        for part, count in parts.items():
            w = FULL * count / most
            kind = "loss" if part.startswith("optim") else "net"
            d.rect(x, d.y, w, 44, kind, 3)
            if w < NARROW:
                d.text(x, d.y + 60, f"{part.removeprefix('networks.')}, {_size(count)}", "note")
            else:
                d.text(x + 8, d.y + 18, part.removeprefix("networks."), "name")
                d.text(x + 8, d.y + 35, _size(count), "note")
            x += w
        d.y += 70 if any(FULL * count / most < NARROW for count in parts.values()) else 54
    shared = [key for key in TEXTS if all(key in text for text in texts.values())]
    own = [key for key in TEXTS if key in texts[LAST] and key not in shared]
    if unknown := sorted({key for text in texts.values() for key in text} - {*shared, *own}):
        raise ValueError(f"describe these keys of checkpoints in TEXTS: {unknown}")
    for kind, head, keys in (("data", "text in both", shared), ("loss", f"text in {LAST} alone", own)):
        rows = [(key, f"{TEXTS[key]} ({_size(texts[LAST][key])})") for key in keys]
        d.below(d.box(kind, head, rows, column=None), gap=8)
    d.y -= 8
    return d


def _bytes_of_parts(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    parts: dict[str, int] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: not item[0].startswith("networks.")):
        part = ".".join(name.split(".")[:2]) if name.startswith("networks.") else name.partition(".")[0]
        parts[part] = parts.get(part, 0) + tensor.nbytes
    return parts


def _size(count: float) -> str:
    for unit in ("B", "kB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.0f} MB"


def protocol(results: Path) -> Drawing:
    """Draw what `evaluate --vary` found: how far each change of the protocol moves AbsRel."""
    found = yaml.safe_load(results.read_text(encoding="utf-8"))
    about, most = found["protocol"], 30.0  # per cent; what moves it further is cut off, and says so
    d = Drawing("What a protocol does to a number")
    d.paragraph(
        f"{about['items']} images. Alignment {about['alignment']}, crop {about['crop']}, {about['min_depth_m']:g}"
        f" to {about['max_depth_m']:g} m: AbsRel {found['chosen']['abs_rel']:.4f}. Then one choice changed at a time:"
    )
    zero, scale = 290.0, 95 / most
    d.parts.append(f'<path d="M{zero:g} {d.y:g}V{d.y + 24 * len(found["effects"]):g}" class="rule"/>')
    for effect in found["effects"]:
        change = effect["change_pct"]
        w = min(abs(change), most) * scale
        d.text(MARGIN, d.y + 16, f"{effect['factor']}: {effect['choice']}", "note")
        d.rect(zero - (w if change < 0 else 0), d.y + 5, w, 14, "bar-loss" if change > 0 else "bar-data", 2)
        words = f"{change:+.0f} %, cut" if abs(change) > most else f"{change:+.1f} %"
        x, anchor = (zero - w - 5, "end") if change < 0 else (zero + w + 5, "start")
        d.text(x, d.y + 16, words, "note", anchor)
        d.y += 24
    return d
