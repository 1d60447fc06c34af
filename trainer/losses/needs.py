"""What losses can need of networks and batches, and what to do when it is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from models_zoo.registry import did_you_mean


@dataclass(frozen=True)
class Facts:
    """What networks and data offer to losses, built or as configured."""

    networks: Collection[str]
    losses: Collection[str]
    supp_idxs: Sequence[int]
    mask_name: str | None = None
    virtual_stereo: bool = False
    use_hints: bool = True
    use_pseudo: bool = True
    use_speed: bool = True
    views: bool = True
    automask: bool = True
    encodes: bool = True  # the depth network has a method `encode`


# What a loss may list in `needs`: (is it offered?, what it is and how to get it).
NEEDS: dict[str, tuple[Callable[[Facts], bool], str]] = {
    "supports": (
        lambda f: bool(f.supp_idxs) and ("pose" in f.networks or not any(f.supp_idxs)),
        "support frames: set dataset.supp_idxs, e.g. [-1, 1], and add net.pose for offsets other than 0",
    ),
    "stereo": (lambda f: 0 in f.supp_idxs, "the stereo partner: add 0 to dataset.supp_idxs"),
    "mask": (lambda f: f.mask_name is not None, "a predicted mask: set net.depth.mask_name and net.depth.num_ch_mask"),
    "explainability": (
        lambda f: f.mask_name == "explainability",
        "an explainability mask: set net.depth.mask_name: explainability and net.depth.num_ch_mask",
    ),
    "virtual_stereo": (
        lambda f: f.virtual_stereo and 0 in f.supp_idxs,
        "a virtual stereo view: set net.depth.use_virtual_stereo: true and add 0 to dataset.supp_idxs",
    ),
    "hints": (lambda f: f.use_hints, "depth hints: set dataset.use_hints: true"),
    "pseudo": (lambda f: f.use_pseudo, "the disparity of a teacher: set dataset.use_pseudo: true"),
    "speed": (
        lambda f: f.use_speed and any(f.supp_idxs),
        "how far the camera moves: set dataset.use_speed: true, with supports in time, e.g. dataset.supp_idxs: [-1, 1]",
    ),
    "views": (lambda f: f.views, "several views of each item: set dataset.train.views"),
    "automask": (
        lambda f: f.automask and "img_recon" in f.losses,
        "the mask of img_recon: set loss.img_recon.use_automask: true",
    ),
    "autoencoder": (lambda f: "autoencoder" in f.networks, "the network net.autoencoder: add it to net"),
    "features": (
        lambda f: f.encodes or "autoencoder" in f.networks,
        "features: use a depth network with a method `encode`, or add net.autoencoder",
    ),
    "img_recon": (
        lambda f: "img_recon" in f.losses,
        "the loss img_recon, whose photometric error it uses: add loss.img_recon",
    ),
}
LEARNED_FROM_VIDEO = "a camera is learned from supports in time"
# Keys of a batch that losses read, and the setting that adds them.
KEYS = {
    "target": "every data set has it",
    "supports": "set dataset.supp_idxs",
    "K": "every data set has it",
    "T_stereo": "dataset.supp_idxs has 0, so use a data set with stereo pairs",
    "depth_hints": "set dataset.use_hints: true",
    "pseudo": "set dataset.use_pseudo: true",
    "travelled": "set dataset.use_speed: true",
}


def unmet(
    networks: nn.ModuleDict, losses: Collection[str], needed_by: Mapping[str, str], supp_idxs: Sequence[int]
) -> list[str]:
    """List the needs of losses that networks and supports do not meet. needed_by: {need: a loss that has it}."""
    if "depth" not in networks:
        return [f"networks must hold 'depth', got {sorted(networks)}"]
    if len(set(supp_idxs)) != len(supp_idxs):
        return [f"supp_idxs name a support twice: {supp_idxs}"]
    if "pose" in networks and getattr(networks["pose"], "learn_K", False) and not any(supp_idxs):
        return [f"net.pose.learn_K: {LEARNED_FROM_VIDEO}, and supp_idxs are {tuple(supp_idxs)}"]
    depth: Any = networks["depth"]
    virtual_stereo = getattr(depth, "use_virtual_stereo", False)
    facts = Facts(
        networks=tuple(networks),
        losses=losses,
        supp_idxs=supp_idxs,
        mask_name=getattr(depth, "mask_name", None),
        virtual_stereo=virtual_stereo,
        encodes=hasattr(depth, "encode"),
    )  # hints, pseudo-labels, speed and views are checked in the batch, the automask when it is used
    have = f"networks: {', '.join(networks)}; supp_idxs: {tuple(supp_idxs)}"
    problems = []
    for need, key in needed_by.items():
        offered, how = NEEDS.get(need, (None, ""))
        if offered is None:
            problems.append(f"loss {key!r} needs {need!r}, which is unknown. {did_you_mean(need, NEEDS)}")
        elif not offered(facts):
            problems.append(f"loss {key!r} needs {how} ({have})")
    if losses and virtual_stereo and 0 not in supp_idxs:
        problems.append(f"net.depth.use_virtual_stereo: add 0 to dataset.supp_idxs, which are {tuple(supp_idxs)}")
    return problems


def batch_keys(needed_by: Collection[str], supp_idxs: Sequence[int], reads_K: bool = True) -> list[str]:
    """List the keys of a batch that losses with these needs read; not K where the networks predict it."""
    keys = ["target"]
    if "supports" in needed_by:
        keys += ["supports", "K"] if reads_K else ["supports"]
    if 0 in supp_idxs and {"supports", "stereo", "virtual_stereo"} & set(needed_by):
        keys.append("T_stereo")
    own = {"hints": "depth_hints", "pseudo": "pseudo", "speed": "travelled"}
    return keys + [key for need, key in own.items() if need in needed_by]


def require(batch: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise ValueError naming the missing keys of the batch, how to get them, and the keys it has."""
    missing = [f"the batch has no {key!r}: {KEYS[key]}" for key in keys if key not in batch]
    if missing:
        raise ValueError("\n".join([*missing, f"keys of the batch: {', '.join(sorted(batch))}"]))
    if "K" in keys and batch["K"].shape[-2:] != (3, 3):
        raise ValueError(f"the intrinsics K of the batch must be (b, 3, 3), not {tuple(batch['K'].shape)}")
