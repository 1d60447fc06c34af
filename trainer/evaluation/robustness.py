"""What the scores of all passes over corrupted pictures come to: result file, table, sheet of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.data.base import DepthDataset
from trainer.evaluation.corruption import CLEAN, OWN_FROST, Corruptions
from trainer.evaluation.depth import depth_pictures
from trainer.evaluation.items import Items, dataset_class
from trainer.evaluation.passes import Scores
from trainer.evaluation.predictions import PredictDepth
from trainer.evaluation.report import LABEL_LENGTH
from trainer.evaluation.results import write_result
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.robustness import FORMULAS, MONODEPTH2, Robustness, dee, robustness
from trainer.runtime.files import make_folder, replacing
from trainer.tracking import viz

KITTI = ("kitti", "kitti_lmdb")  # data sets that hold the same pictures
UNITS = {"mce_pct": "%", "mrr_pct": "%", "rmce": "fraction", "dee_clean": "fraction"}
RELATIVE = {"mce_pct": "mean_ce_pct", "mrr_pct": "mean_rr_pct", "rmce": "mean_rmce"}  # keys of what is no KITTI-C


def summarise(
    done: Mapping[str, Scores],
    corruptions: Corruptions,
    protocol: DepthProtocol,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Average the passes over levels, compare with the baseline, and state the protocol.

    `about` is what is stored beside the protocol: "dataset", its arguments; "truth" in words; "limit" of a part of the
    items; where the network comes from. Returns plain data, the content of the result file.
    """
    clean = done[CLEAN]
    kinds = {
        kind: _mean([done[corruptions.name_of(kind, n)] for n in corruptions.levels]) for kind in corruptions.kinds
    }
    errors = {kind: dee(**means) for kind, means in kinds.items()}
    clean_error = dee(clean["abs_rel"], clean["d1"])
    scores = robustness(clean_error, errors)
    counts = {"items": int(clean["items"]), "skipped_without_valid_pixel": int(clean["skipped"])}
    described = {**protocol.describe(), **counts, **about}
    other = differences(described, corruptions)
    units = {key if not other else RELATIVE.get(key, key): unit for key, unit in UNITS.items()}
    own = {"corruptions": corruptions.words, "baseline": MONODEPTH2.name, "corruption_seed": corruptions.seed}
    if "frost" in corruptions.kinds:
        own["frost"] = corruptions.frost
    declared = {
        "version": 1,
        "units": units,
        "higher_is_better": [key for key in ("mrr_pct", RELATIVE["mrr_pct"]) if key in units],
        "formulas": dict(FORMULAS),
    }
    numbers = (scores.mce_pct, scores.mrr_pct, scores.rmce, clean_error)
    return {
        "mean": dict(zip(units, numbers, strict=True)),
        "benchmark": "not KITTI-C" if other else "KITTI-C",
        **({"differs": other} if other else {}),
        "baseline": {
            "name": MONODEPTH2.name,
            "source": MONODEPTH2.source,
            "dee": {CLEAN: MONODEPTH2.clean, **MONODEPTH2.kinds},
        },
        "protocol": {**described, **own, "kitti_c": "no" if other else "yes", "metrics": {"robustness": declared}},
        "kinds": [
            {"kind": CLEAN, "abs_rel": clean["abs_rel"], "d1": clean["d1"], "dee": clean_error},
            *({"kind": k, **_row(kinds[k], errors[k], scores, k)} for k in corruptions.kinds),
        ],
        "passes": [
            {"kind": kind, "level": level, **{key: done[name][key] for key in ("abs_rel", "d1")}}
            for name, kind, level in corruptions.passes()
            if kind is not None
        ],
    }


def differences(protocol: Mapping[str, Any], corruptions: Corruptions) -> list[str]:
    """List in what a protocol differs from that of KITTI-C, frost of our own apart."""
    data = protocol["dataset"]
    found = {
        "data": " ".join(filter(None, (data["type"], DepthDataset.split_name(data), data["mode"]))),
        "items": str(protocol["items"] + protocol["skipped_without_valid_pixel"]),
        "truth": protocol.get("truth", "that of the data set"),
        "input": "x".join(map(str, data["size"])),
        "alignment": protocol["alignment"],
        "crop": protocol["crop"],
        "depth": f"{protocol['min_depth_m']:g}-{protocol['max_depth_m']:g} m",
        "flip": "yes" if protocol["flip_post_processing"] else "no",
        "corruptions": corruptions.words,
    }
    wanted = {
        "data": "kitti eigen test",
        "items": "697",
        "truth": dataset_class("kitti").truth_of({"use_benchmark": False, "depth_along": "lidar_x"}),
        "input": "640x192",
        "alignment": "median",
        "crop": "garg",
        "depth": "0.001-80 m",
        "flip": "no",
        "corruptions": Corruptions().words,
    }
    if data["type"] in KITTI:
        found["data"] = found["data"].replace(data["type"], KITTI[0])
    return [f"{key} {found[key]}, not {value}" for key, value in wanted.items() if found[key] != value]


def save_robustness(result: Mapping[str, Any], path: Path) -> None:
    """Write the result as YAML, a line per kind and pass. Raises CannotWrite, a UserError, when the disk refuses."""
    rows = {key: result[key] for key in ("kinds", "passes")}
    head = {key: value for key, value in result.items() if key not in rows}
    write_result(path, head, rows, width=10**6, default_flow_style=None)


def report_robustness(result: Mapping[str, Any], console: Console) -> None:
    """Print a row per kind, the protocol, in what it differs from KITTI-C, and the scores.

    Errors of the baseline were measured on KITTI: beside numbers of other pictures they would mean nothing.
    """
    print_line = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    table = Table(title="mean over images and levels")
    table.add_column("pictures", no_wrap=True)
    base, on_kitti = result["baseline"], result["protocol"]["dataset"]["type"] in KITTI
    columns = {"Abs Rel": ("abs_rel", ".4f"), "δ<1.25": ("d1", ".4f"), "DEE": ("dee", ".3f")}
    columns |= {"baseline": ("baseline", ".3f"), "CE [%]": ("ce_pct", ".1f")} if on_kitti else {}
    columns |= {"RR [%]": ("rr_pct", ".1f")}
    for title in columns:
        table.add_column(title, no_wrap=True, justify="right")
    for row in result["kinds"]:
        numbers = {**row, "baseline": base["dee"][row["kind"]]}
        cells = (format(numbers[key], form) if key in numbers else "-" for key, form in columns.values())
        table.add_row(row["kind"], *cells)
    console.width = max(console.width, 100)  # numbers must not be cut
    console.print(table)
    if on_kitti:
        print_line(f"baseline: {base['name']}, DEE as printed in {base['source']}")
    else:
        print_line(
            "mean CE and RmCE: over those of Monodepth2 on KITTI, so they only compare networks on these pictures"
        )
    print_line(protocol_line(result["protocol"]))
    if differs := result.get("differs"):
        print_line(f"not KITTI-C: {'; '.join(differs)}")
    if "frost" in result["protocol"]:
        print_line(f"frost: {result['protocol']['frost']}")


def scores_line(result: Mapping[str, Any]) -> str:
    """The scores in a line."""
    first, second, third, _ = result["mean"].values()
    benchmark = result["benchmark"]
    if result["protocol"].get("frost") == OWN_FROST:
        benchmark += f" (frost: {OWN_FROST})"
    if "differs" in result:
        return f"{benchmark}: mean CE {first:.2f} %, mean RR {second:.2f} %, mean RmCE {third:.3f}"
    return f"{benchmark}: mCE {first:.2f} %, mRR {second:.2f} %, RmCE {third:.3f}"


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """The protocol in a line, for tables and pictures."""
    data, checkpoint = protocol["dataset"], protocol["checkpoint"]
    split = " ".join(filter(None, (data["type"], DepthDataset.split_name(data), data["mode"])))
    truth = f" from {protocol['truth']}" if "truth" in protocol else ""
    return (
        f"protocol: {split}{truth}, {protocol['items']} items, {protocol['skipped_without_valid_pixel']} without truth,"
        f" input {'x'.join(map(str, data['size']))}; alignment {protocol['alignment']}, crop {protocol['crop']},"
        f" {protocol['min_depth_m']:g}-{protocol['max_depth_m']:g} m,"
        f" {'flip' if protocol['flip_post_processing'] else 'no flip'}; {protocol['corruptions']}, seed"
        f" {protocol['corruption_seed']}; {Path(checkpoint['file']).name} of epoch {checkpoint['epoch']}, step"
        f" {checkpoint['step']}"
    )


def draw_corruptions(
    predict: PredictDepth,
    items: Items,
    index: int,
    corruptions: Corruptions,
    result: Mapping[str, Any],
    protocol: DepthProtocol,
    path: Path,
) -> None:
    """Draw an item into a PNG file: clean, then under each kind at the level in the middle."""
    level = corruptions.levels[len(corruptions.levels) // 2]
    rows = []
    for kind in (None, *corruptions.kinds):
        (row,) = depth_pictures(predict, corruptions.applied(items, kind, level), [index], protocol)
        row["label"] = row["name"] = f"{kind} {level}" if kind else CLEAN
        rows.append(row)
    name = "mCE" if "mce_pct" in result["mean"] else "mean CE"
    error = next(iter(result["mean"].values()))
    title = f"{items.describe(index)[-LABEL_LENGTH:]}: {name} {error:.1f} %"
    make_folder(path.parent)
    with replacing(path) as staged:
        viz.picture_sheet(rows, staged, title=title, footer=protocol_line(result["protocol"]))


def _mean(passes: Sequence[Scores]) -> dict[str, float]:
    """Average AbsRel and δ1 over levels, under the names that `dee` has for them."""
    abs_rel, delta1 = (sum(scores[key] for scores in passes) / len(passes) for key in ("abs_rel", "d1"))
    return {"abs_rel": abs_rel, "delta1": delta1}


def _row(means: Mapping[str, float], error: float, scores: Robustness, kind: str) -> dict[str, float]:
    return {
        "abs_rel": means["abs_rel"],
        "d1": means["delta1"],
        "dee": error,
        "ce_pct": scores.ce_pct[kind],
        "rr_pct": scores.rr_pct[kind],
    }
