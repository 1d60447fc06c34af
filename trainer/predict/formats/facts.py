"""What an exported file says about itself: unit and scale, source, and how well the network did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.checkpoint import Saved
from trainer.predict.formats.program import Interface
from trainer.predict.predictor import DepthPredictor
from trainer.predict.scale import Scale
from trainer.runtime.errors import UserError
from trainer.tables.results import read_file

PROTOCOL = ("alignment", "crop", "min_depth_m", "max_depth_m", "items")  # what is told of a protocol


def describe(
    predictor: DepthPredictor, saved: Saved, settings: Mapping[str, Any], sha256: str, results: Path
) -> dict[str, str]:
    """Texts by name, for the metadata of a file.

    settings: hparams of the run. sha256: of the checkpoint. results: folder of result files; those of other
    checkpoints are left out.
    """
    scale, network = predictor.scale, predictor.network
    options = {**settings["config"]["net"]["depth"]}
    options.pop("adapter", None)  # folded into the weights
    depth = "depth in metres" if scale.unit == "m" else "relative depth, up to an unknown factor"
    run = {f"run_{key}": str(settings[key]) for key in ("name", "version", "seed") if settings.get(key) is not None}
    return {
        "description": f"Monocular depth of one image: {depth}, and disparity = 1 / depth",
        "width": str(predictor.size[0]),
        "height": str(predictor.size[1]),
        "unit": scale.unit,
        "disparity_unit": scale.disparity_unit,
        "scale": repr(scale.factor),
        **({} if scale.exponent == 1 else {"scale_exponent": repr(scale.exponent)}),
        "scale_origin": scale.origin,
        "min_depth": "none" if network.depth.activation == "relu" else repr(_scaled(network.min_depth, scale)),
        "max_depth": repr(_scaled(network.max_depth, scale)) if network.max_depth else "none",
        **({"calibration": json.dumps(saved.calibration.to_dict())} if saved.calibration else {}),
        **({"camera": json.dumps(saved.camera.to_dict())} if saved.camera else {}),
        "networks": json.dumps(options),
        "checkpoint_sha256": sha256,
        "checkpoint_epoch": str(saved.position.epoch),
        **run,
        **({"teacher": json.dumps(settings["pseudo"])} if settings.get("pseudo") else {}),
        "results": json.dumps(_results(results, sha256)),
        "trainer_version": __version__,
    }


def _scaled(depth: float, scale: Scale) -> float:
    return float(depth if scale.exponent == 1 else depth**scale.exponent) * scale.factor


def of_interface(interface: Interface) -> dict[str, str]:
    """Texts by name on what goes in and out of a graph."""
    batch, size = (name in interface.dynamic for name in ("batch", "size"))
    return {
        "input": f"{interface}; batch {'any' if batch else 1}; "
        + ("sides multiples of 32, at least 64" if size else "width and height as stated"),
        "outputs": "disparity and depth, float32 (b 1 h w)",
        "precision": f"float{interface.precision}",
    }


def _results(folder: Path, sha256: str) -> list[dict[str, Any]]:
    """Means and protocols, in short, of the result files that belong to a checkpoint."""
    results = (_result(path, sha256) for path in sorted(folder.glob("*.yaml")))
    return [result for result in results if result]


def _result(path: Path, sha256: str) -> dict[str, Any] | None:
    try:
        data = read_file(path, with_items=False)
        protocol = data["protocol"]
        if protocol["checkpoint"]["sha256"] != sha256:
            return None
        about = {key: protocol[key] for key in PROTOCOL if key in protocol}
        about["dataset"] = {key: protocol["dataset"].get(key) for key in ("type", "split", "mode")}
        return {"file": path.name, "mean": data["mean"], "protocol": about}
    except (UserError, KeyError, TypeError, AttributeError):  # no result of this trainer, or of predictions in a file
        return None
