"""Toy registries, so that the tests of configuration do not depend on the installed entries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from models_zoo.registry import Registry
from trainer.config.resolve import Registries


class ToyRegistry(Registry):
    """A registry without a package: it holds what this file registers."""

    def _discover(self) -> None:
        pass


TOYS = Registries(ToyRegistry("network", ""), ToyRegistry("loss", ""), ToyRegistry("dataset", ""))


@TOYS.networks.register("depth")
class ToyDepth:
    def __init__(
        self,
        dec_name: str = "mono",
        out_scales: int | list[int] = (0, 1),
        mask_name: Literal["explainability", "uncertainty"] | None = None,
        num_ch_mask: int | None = None,
        use_virtual_stereo: bool = False,
    ): ...

    @classmethod
    def validate_config(cls, kwargs: dict[str, Any]) -> list[str]:
        problems = [] if kwargs["dec_name"] == "mono" else [f"dec_name {kwargs['dec_name']!r} is not a decoder"]
        kwargs.clear()  # must not change the configuration
        return problems


@TOYS.networks.register("pose")
class ToyPose:
    def __init__(self, pretrained: bool = False, learn_K: bool = False): ...


@TOYS.networks.register("autoencoder")
class ToyAutoencoder:
    def __init__(self, pretrained: bool = True): ...


@TOYS.losses.register("img_recon", "feat_recon")
class ToyRecon:
    """Compare images.

    Args:
        loss_name: how images
            are compared.
    """

    needs = frozenset({"supports"})

    def __init__(
        self, loss_name: Literal["ssim", "l1"] = "ssim", use_min: bool = False, mask_name: str | None = None
    ): ...


@TOYS.losses.register("disp_smooth")
class ToySmooth:
    needs: frozenset[str] = frozenset()

    def __init__(self, use_edges: bool = False): ...


def _needy(name: str, *needs: str) -> None:
    TOYS.losses.register(name)(type(name, (), {"needs": frozenset(needs)}))


_needy("stereo_const", "virtual_stereo")
_needy("disp_mask", "mask")
_needy("depth_regr", "hints")
_needy("feat_peaky", "autoencoder")
_needy("impossible", "telepathy")


class ToyData:
    def __init__(
        self,
        split: str,
        mode: Literal["train", "val", "test"] = "train",
        size: tuple[int, int] = (640, 192),
        supp_idxs: int | Sequence[int] | None = (-1, 1),
        use_depth: bool = True,
        use_hints: bool = False,
        use_aug: bool = False,
        as_torch: bool = True,
        log_time: bool = True,
        root: Path | None = None,
        seed: int = 0,
    ): ...


TOYS.datasets.register("kitti", "kitti_lmdb")(ToyData)


@TOYS.datasets.register("rendered")
class ToyRendered:
    def __init__(self, num_items: int = 8, mode: str = "train", supp_idxs: Sequence[int] = (0,), seed: int = 0): ...


DEFAULT = """\
net:
  depth: {dec_name: mono, out_scales: [0, 1, 2, 3]}
  pose: {pretrained: True}
loss:
  img_recon: {weight: 1}
  disp_smooth: {weight: 0.001, use_edges: True}
dataset:
  type: kitti
  split: eigen_zhou
  size: [640, 192]
  supp_idxs: [-1, 1]
  train: {mode: train, use_aug: True, use_depth: False}
  val: {mode: val}
loader: {batch_size: 8, num_workers: 4, train: {shuffle: True}}
optimizer: {type: adam, lr: 0.0001}
scheduler: {type: steplr, step_size: 15, gamma: 0.1}
trainer: {max_epochs: 30}
"""
