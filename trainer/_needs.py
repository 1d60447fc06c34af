"""What losses can need of networks and batches, and what to say when it is not there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from models_zoo.registry import did_you_mean

# What a loss can need, and what to do when it is missing.
REMEDIES = {
    "supports": "name supports in dataset.supp_idxs, and add net.pose for offsets other than 0",
    "stereo": "add 0 to dataset.supp_idxs",
    "mask": "set net.depth.mask_name",
    "explainability": "set net.depth.mask_name: explainability",
    "virtual_stereo": "set net.depth.use_virtual_stereo: true and add 0 to dataset.supp_idxs",
    "autoencoder": "add net.autoencoder",
    "hints": "set dataset.use_hints: true",
    "features": "use a depth network with a method `encode`, or add net.autoencoder",
    "img_recon": "add loss.img_recon, whose photometric error is used",
}
# Keys of a batch that a loss with a need reads, and the setting that brings them.
KEYS = {
    "target": "every data set gives it",
    "supports": "set dataset.supp_idxs",
    "K": "every data set gives it",
    "T_stereo": "dataset.supp_idxs has 0, so use a data set with stereo pairs",
    "depth_hints": "set dataset.use_hints: true",
}


def unmet(
    networks: nn.ModuleDict, losses: Collection[str], needed_by: Mapping[str, str], supp_idxs: Sequence[int]
) -> list[str]:
    """List what the losses need and networks and supports do not give. needed_by: {need: a loss that says so}."""
    if "depth" not in networks:
        return [f"networks must hold 'depth', got {sorted(networks)}"]
    if len(set(supp_idxs)) != len(supp_idxs):
        return [f"supp_idxs name a support twice: {supp_idxs}"]
    depth: Any = networks["depth"]
    stereo = 0 in supp_idxs
    mask_name = getattr(depth, "mask_name", None)
    virtual_stereo = getattr(depth, "use_virtual_stereo", False)
    given = {
        "supports": bool(supp_idxs) and ("pose" in networks or not any(supp_idxs)),
        "stereo": stereo,
        "mask": mask_name is not None,
        "explainability": mask_name == "explainability",
        "virtual_stereo": virtual_stereo and stereo,
        "autoencoder": "autoencoder" in networks,
        "hints": True,  # a matter of the batch
        "features": "autoencoder" in networks or hasattr(depth, "encode"),
        "img_recon": "img_recon" in losses,
    }
    have = f"networks: {', '.join(networks)}; supp_idxs: {tuple(supp_idxs)}"
    problems = []
    for need, key in needed_by.items():
        if need not in REMEDIES:
            known = did_you_mean(need, REMEDIES)
            problems.append(f"loss {key!r} needs {need!r}, which nobody gives. {known}")
        elif not given[need]:
            problems.append(f"loss {key!r} needs {need!r}: {REMEDIES[need]} ({have})")
    if losses and virtual_stereo and not stereo:
        problems.append(
            f"net.depth.use_virtual_stereo: add 0 to dataset.supp_idxs, which are {tuple(supp_idxs)}"
        )
    return problems


def batch_keys(needed_by: Collection[str], supp_idxs: Sequence[int]) -> list[str]:
    """List the keys of a batch that losses with these needs read."""
    keys = ["target"]
    if "supports" in needed_by:
        keys += ["supports", "K"]
    if 0 in supp_idxs and {"supports", "stereo", "virtual_stereo"} & set(needed_by):
        keys.append("T_stereo")
    return [*keys, "depth_hints"] if "hints" in needed_by else keys


def require(batch: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise ValueError naming the keys that the batch lacks, what brings them, and the keys that it has."""
    missing = [f"the batch has no {key!r}: {KEYS[key]}" for key in keys if key not in batch]
    if missing:
        raise ValueError("\n".join([*missing, f"keys of the batch: {', '.join(sorted(batch))}"]))
