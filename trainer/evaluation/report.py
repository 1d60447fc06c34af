"""Show an evaluation: a table on the terminal, the protocol in a line, a sheet of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.data.base import DepthDataset
from trainer.evaluation.depth import depth_pictures
from trainer.evaluation.items import Items
from trainer.evaluation.predictions import DepthSource, evenly_spaced
from trainer.evaluation.results import EvaluationResult
from trainer.metrics.odometry import UNITS
from trainer.metrics.protocol import EDGES
from trainer.runtime.files import make_folder, replacing
from trainer.tracking import viz

BASELINES = (
    "best constant: one depth for all pixels; mean of row: each image row at its mean depth over all images (far above,"
    " near below). Both see no image and are fitted to the truth that scores them"
)
LABEL_LENGTH = 40  # characters that fit across a picture
CLIPS = 10  # that are printed; the file has all


def report(results: Sequence[EvaluationResult], console: Console) -> None:
    """Print the numbers, one column per alignment, beside those of blind guesses under each; protocols below."""
    print_line = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    first = results[0]
    subject = "prediction" if "predictions" in first.protocol else "network"
    names = [subject] if len(results) == 1 else [r.protocol["alignment"] for r in results]
    names += [f"{name}, all pixels" for name, r in zip(names, results, strict=True) if r.pooled]
    table = Table(title="mean over images")
    for title in ("metric", "better"):
        table.add_column(title, no_wrap=True)
    guesses = _guesses(results)
    for title in (*names, *guesses):
        table.add_column(title, no_wrap=True, justify="right")
    table.add_column("key in files", no_wrap=True)
    columns = [r.mean for r in results]
    columns += [r.pooled["mean"] for r in results if r.pooled]
    columns += guesses.values()
    metrics = {m.key: m for s in first.setup.sets.values() for m in s.metrics}
    for key in first.mean:
        metric = metrics[key if key in metrics else key.removesuffix(EDGES)]
        name = metric.shown + " on edges" * (metric.key != key)
        numbers = (f"{column[key]:.4f}" if key in column else "-" for column in columns)
        table.add_row(Text(name), "higher" if metric.higher_is_better else "lower", *numbers, key)
    whole = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, whole)  # numbers must not be cut
    console.print(table)
    print_line(BASELINES)
    if first.pose:
        pose = first.pose
        print_line(
            f"pose: {pose['mean']:.2f} degrees off the true direction, median {pose['median']:.2f}, over"
            f" {pose['count']} motions (one fixed direction: {pose['mean_of_fixed_direction']:.2f})"
        )
    for result in results:
        print_line(interval_line(result))
    for result in results:
        print_line(protocol_line(result))


def _guesses(results: Sequence[EvaluationResult]) -> dict[str, dict[str, Any]]:
    """Means of the blind guesses, by title. Where they differ between alignments, the title names those."""
    columns: dict[str, dict[str, Any]] = {}
    for title, key in (("best constant", "constant_depth"), ("mean of row", "row_mean_depth")):
        groups: list[tuple[dict[str, Any], list[str]]] = []
        for result in results:
            mean = {k: v for k, v in result.baselines[key].items() if k in result.mean}
            same = next((names for known, names in groups if known == mean), None)
            if same is None:
                groups.append((mean, same := []))
            same.append(result.protocol["alignment"])
        columns |= {f"{title}, {' '.join(names)}" if len(groups) > 1 else title: mean for mean, names in groups}
    return columns


def interval_line(result: EvaluationResult) -> str:
    """The interval of AbsRel over images and over scenes, or why there is none."""
    key = result.setup.headline
    metric = next(m for s in result.setup.sets.values() for m in s.metrics if m.key == key)
    known, few = [], []
    for units in ("images", "scenes"):
        if about := result.interval.get(units):
            count = f"{about['count']} {units if about['count'] != 1 else units.removesuffix('s')}"
            if key in about:
                low, high = about[key]
                known.append(f"{low:.4f} to {high:.4f} over {count}")
            else:
                few.append(count)
    too_few = f"{' of '.join(few)} {'is' if few[0].startswith('1 ') else 'are'} too few" if few else ""
    start = f"{metric.shown}, {result.protocol['alignment']}: {result.mean[key]:.4f}, "
    if not known:
        return f"{start}no interval: {too_few}"
    lacking = f"; {too_few} for another" if few else ""
    return f"{start}95 % interval {', '.join(known)}{lacking} (bootstrap; this network alone, not other seeds)"


class Scored(Protocol):
    """What has a protocol to print: an `EvaluationResult`, or variations of one."""

    protocol: dict[str, Any]
    factor: dict[str, float]


def protocol_line(result: Scored) -> str:
    """The protocol in one line, for tables and pictures."""
    protocol = result.protocol
    data = protocol["dataset"]
    split = " ".join(filter(None, [data["type"], DepthDataset.split_name(data), data["mode"]]))
    if "truth" in protocol:
        split += f" from {protocol['truth']}"
    stored = protocol.get("predictions")
    size = f"maps {_by(stored['size'])}" if stored else f"input {_by(data['size'])}"
    factor = f"{result.factor['median']:.3g}"
    if result.factor.get("relative_std", 0) > 1e-9:  # a fixed factor has no spread but that of rounding
        factor += f" +- {100 * result.factor['relative_std']:.0f} %"
    edges = ", edges aligned for themselves" if "edges" in protocol else ""
    return (
        f"protocol: {split}, {protocol['items']} items, {protocol['skipped_without_valid_pixel']} without truth"
        f", {size}; alignment {protocol['alignment']} (factor {factor}{edges}), crop {protocol['crop']}, "
        f"{protocol['min_depth_m']:g}-{protocol['max_depth_m']:g} m, "
        f"{'flip' if protocol['flip_post_processing'] else 'no flip'}; "
        f"{'uncertainty ' + protocol['uncertainty'] + '; ' if 'uncertainty' in protocol else ''}{_origin(result)[1]}"
    )


def report_odometry(result: Mapping[str, Any], place: str) -> None:
    """Print the numbers of each sequence, the place of the file, and the means."""
    for row in result["sequences"]:
        numbers = [f"{key} {row[key]:.4f} {unit}" for key, unit in UNITS.items() if row[key] is not None]
        print(f"{row['name']}: {row['frames']} frames, {row['path_m']:.0f} m; {', '.join(numbers) or 'too short'}")
    print(f"saved: {place}")
    print(", ".join(f"{key} {value:.4f} {UNITS[key]}" for key, value in result["mean"].items()))


def report_temporal(result: Mapping[str, Any], place: str) -> None:
    """Print the error of the first clips, the place of the file, the protocol, and the mean."""
    for row in result["clips"][:CLIPS]:
        empty = f"; {row['empty']} of {2 * row['pairs']} comparisons have no common pixel" if row["empty"] else ""
        value = "no common pixel" if row["tae_pct"] is None else f"tae_pct {row['tae_pct']:.4f} %"
        print(f"{row['name']}, from {row['first']}: {row['frames']} frames; {value}{empty}")
    if more := len(result["clips"][CLIPS:]):
        print(f"and {more} more clips, in the file")
    print(f"saved: {place}")
    protocol = result["protocol"]
    limits = ""
    if "min_depth_m" in protocol:
        limits = f", crop {protocol['crop']}, {protocol['min_depth_m']:g}-{protocol['max_depth_m']:g} m"
    print(f"protocol: {protocol['poses']}; alignment {protocol['alignment']} ({protocol['factor']}){limits}")
    print(f"temporal alignment error: tae_pct {result['mean']['tae_pct']:.4f} %, mean over clips")


def draw_sheet(source: DepthSource, items: Items, result: EvaluationResult, path: Path, count: int) -> None:
    """Draw `count` of the scored items, evenly spaced, into a PNG file."""
    chosen = [result.items[i]["index"] for i in evenly_spaced(count, len(result.items))]
    rows = list(depth_pictures(source, items, chosen, result.setup))
    for row in rows:
        row["name"], row["label"] = row["label"], row["label"][-LABEL_LENGTH:]  # the end of a path is what differs
    title = f"{_origin(result)[0]}: Abs Rel {result.abs_rel:.3f}"
    make_folder(path.parent)
    with replacing(path) as staged:
        viz.picture_sheet(rows, staged, title=title, footer=protocol_line(result))


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _origin(result: Scored) -> tuple[str, str]:
    """Name of what was scored, and where it comes from."""
    if "predictions" in result.protocol:
        about = result.protocol["predictions"]
        name = Path(about["file"]).name
        return name, f"{name}, {about['kind']}, unit {about['unit']}"
    about = result.protocol["checkpoint"]
    file = Path(about["file"])
    return about["run"]["name"] or file.stem, f"{file.name} of epoch {about['epoch']}, step {about['step']}"
