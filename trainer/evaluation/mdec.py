"""Predictions as the monocular depth challenge takes them, MDEC 2025 (arXiv:2504.17787): `pred` and `pred_type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

PRED_TYPE = "pred_type"  # of the text that says what `pred` holds
MDEC_ALIGNMENT = "lsqr_depth_trim"  # whatever was predicted

# What `pred_type` may say, and whether `pred` (N h w) is disparity or depth.
PRED_TYPES: dict[str, Literal["disp", "depth"]] = {
    "disparity": "disp",
    "affine-invariant": "depth",
    "scale-invariant": "depth",
    "metric": "depth",
}
DATA = "syns_patches"
IMAGES = {"val": 400, "test": 775}  # of that data set


def why_no_submission(arguments: Mapping[str, Any]) -> str:
    """Say why predictions of a data set with these arguments are none that the challenge takes; "" when they are."""
    found = f"{arguments['num_items']} items of {arguments['type']} {arguments['mode']}"
    if arguments["type"] == DATA and IMAGES.get(arguments["mode"]) == arguments["num_items"]:
        return ""
    wanted = " or ".join(f"the {count} of {mode}" for mode, count in IMAGES.items())
    return f"these are {found}, and MDEC 2025 takes {wanted} of {DATA}, all of them in the order of their list"
