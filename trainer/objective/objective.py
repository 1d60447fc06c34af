"""The objective: networks -> predictions -> scene -> weighted losses, as one `nn.Module` with one forward.

The networks run under whatever autocast is active; from disparity on everything is at least float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models_zoo.registry import did_you_mean
from trainer.geometry import Runner, disp_to_depth, in_image_sides, invert_pose, pinhole, pose_matrix
from trainer.geometry.precision import full_precision, full_precision_maps
from trainer.geometry.scene import Pictures, Scene
from trainer.losses.needs import batch_keys, require, unmet
from trainer.objective import views as of_views
from trainer.objective.pictures import StepPictures, detached
from trainer.types import Batch, StepOutput


class Objective(nn.Module):
    """Compute the loss of a batch. The state dict holds `networks.*` alone.

    Args:
        networks: "depth", and if needed "pose" and "autoencoder" (`models_zoo`).
        losses: by name, in order of evaluation (`trainer.losses`); those that compare views come last.
        weights: factor of each loss, 1 by default; or factors by epoch, {0: 0.9, 15: 0.95}, see `set_epoch`.
        supp_idxs: frame offset of each support in a batch, 0 = the other camera of the stereo pair.
        min_depth: depth at disparity 1, in units of the 0.1 baseline.
        max_depth: depth at disparity 0, in the same units; None = no bound.
        legacy_sampling: see `trainer.geometry.ViewSynthesis`.

    Raises ValueError when networks and supports do not meet the needs of a loss, or a weight has no loss.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module] | nn.ModuleDict,
        losses: Mapping[str, nn.Module],
        weights: Mapping[str, float | Mapping[int, float]] | None = None,
        supp_idxs: Sequence[int] = (),
        min_depth: float = 0.1,
        max_depth: float | None = 100.0,
        legacy_sampling: bool = False,
    ):
        super().__init__()
        self.networks = nn.ModuleDict(dict(networks.items()))
        self.losses = nn.ModuleDict(dict(sorted(losses.items(), key=lambda item: "views" in item[1].needs)))  # type: ignore[operator]
        by_epoch = {**dict.fromkeys(losses, 1.0), **(weights or {})}
        self.changing = {key: dict(weight) for key, weight in by_epoch.items() if isinstance(weight, Mapping)}
        self.weights: dict[str, float] = {k: w for k, w in by_epoch.items() if not isinstance(w, Mapping)}
        self.supp_idxs = tuple(supp_idxs)
        self.min_depth, self.max_depth, self.legacy_sampling = min_depth, max_depth, legacy_sampling
        self.channels_last = False
        self.fused: Runner | None = None  # see `Scene`
        self.fixed: tuple[str, ...] = ()  # modules under `networks` that never enter training mode
        self.set_epoch(0)
        self._needed_by: dict[str, str] = {}  # need -> the first loss that has it
        for key, loss in losses.items():
            needs: frozenset[str] = loss.needs  # type: ignore[assignment]
            for need in needs:
                self._needed_by.setdefault(need, key)
        for key in self.weights:
            if key not in losses:
                raise ValueError(f"weight for {key!r}, which is not a loss here. {did_you_mean(key, self.losses)}")
        if problems := unmet(self.networks, self.losses.keys(), self._needed_by, self.supp_idxs):
            raise ValueError("\n".join(problems))
        for loss in losses.values():
            if "img_recon" in loss.needs:  # type: ignore[operator]
                loss.photometric = losses["img_recon"]

    @property
    def reads_K(self) -> bool:
        """Whether the K of the batch counts, because the pose network does not predict all of the camera."""
        return "pose" not in self.networks or getattr(self.networks["pose"], "learn_K", False) is not True

    def train(self, mode: bool = True) -> Objective:
        """Enter training or evaluation mode, except for the modules in `fixed`, which stay in evaluation mode."""
        super().train(mode)
        for path in self.fixed:
            self.networks.get_submodule(path).eval()
        return self

    def set_epoch(self, epoch: int) -> None:
        """Use the weights of losses that hold in an epoch, counted from 0. Raises ValueError when one has none yet."""
        for key, by_epoch in self.changing.items():
            begun = [start for start in by_epoch if start <= epoch]
            if not begun:
                raise ValueError(f"the weights of {key!r} begin with epoch {min(by_epoch, default='none')}, not 0")
            self.weights[key] = by_epoch[max(begun)]

    def use_channels_last(self, wanted: bool | str = True, device_type: str = "cpu") -> None:
        """Store weights and images of the networks channels last: often faster, with other rounding.

        With `wanted="auto"` only where it is known to be faster: on a CPU without AVX-512 the gradients of convolutions
        take 1.4 times as long in this layout.
        """
        if wanted == "auto":
            wanted = device_type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()
        if not wanted:
            return
        self.channels_last = True
        for network in self.networks.values():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: Batch) -> StepOutput:
        """Predict, compare, weigh. Raises ValueError naming missing keys of the batch.

        Only `loss` and `losses` have a graph: with one, a prediction that no loss uses would make
        DistributedDataParallel wait for its parameters. `predict` keeps the graph. All are NaN when a camera, motion or
        point of view synthesis was not finite, whatever colour it took.

        Further views of the items (`view_*` in the batch) count in training only.
        """
        require(batch, batch_keys(self._needed_by, self.supp_idxs, self.reads_K))
        names = of_views.view_names(batch, self._needed_by) if self.training else []
        predictions = self.predict(batch)
        seen = {name: self._predict_view(batch, name, predictions["disp"]) for name in names}
        with torch.autocast(batch["target"].device.type, enabled=False):
            scene = self._scene(batch, predictions)
            scene.others = {
                name: self._scene(*of_views.scene_parts(batch, predictions, name, seen[name])) for name in seen
            }
            loss, losses, pictures = self._compare(scene)
            predictions["depth"] = {0: scene.depth(0)}
        predictions = {key: detached(value) for key, value in predictions.items()}
        drawn = StepPictures(batch, predictions, pictures, self.supp_idxs)
        return StepOutput(loss, losses, predictions, drawn)

    def predict_only(self, batch: Batch) -> StepOutput:
        """Predict depth without comparing anything, for items without supports: `loss` is NaN, `losses` empty."""
        target = batch.get("target_aug", batch["target"])
        predictions: dict[str, Any] = {"disp": self.predict_disp(target)}
        predictions["depth"] = {0: disp_to_depth(predictions["disp"][0], self.min_depth, self.max_depth)}
        drawn = StepPictures(batch, predictions, {}, self.supp_idxs)
        return StepOutput(target.new_full((), torch.nan), {}, predictions, drawn)

    def predict(self, batch: Batch) -> dict[str, Any]:
        """Run only the networks. Returns `trainer.types.Predictions` without `depth`.

        `Ts` requires supports, `disp_stereo` requires `T_stereo`, `R` and `t` a pose network, `autoenc_*` and
        `supp_autoenc_*` an autoencoder, and `supp_depth_feats` a loss that compares features.
        """
        target = self._network_input(batch.get("target_aug", batch["target"]))
        predictions = self._predict_depth_net(target, batch.get("T_stereo"))
        supports = batch.get("supports_aug", batch.get("supports"))
        if supports is not None:
            for key in ("supports", "supports_aug"):
                count = batch[key].shape[1] if key in batch else len(self.supp_idxs)
                if count != len(self.supp_idxs):
                    raise ValueError(f"the batch has {count} {key}, but supp_idxs are {self.supp_idxs}")
            predictions |= self._predict_motion(target, supports, batch)
        if "autoencoder" in self.networks:
            predictions |= self._predict_autoencoder(target, supports)
        elif "features" in self._needed_by and supports is not None:
            predictions["supp_depth_feats"] = self._encode_supports(supports)
        return predictions

    def predict_disp(self, images: Tensor) -> dict[int, Tensor]:
        """Predict sigmoid disparity {s: (b 1 h/2^s w/2^s)}, float32, of RGB images (b 3 h w) in [0, 1]."""
        return full_precision_maps(self.networks["depth"](self._network_input(images))["disp"])

    @torch.no_grad()
    def predict_depth(self, images: Tensor) -> Tensor:
        """Predict depth (b 1 h w) of RGB images (b 3 h w), without gradients; `predict_disp` keeps them.

        images: float in [0, 1], on the device of the networks; h and w multiples of 32, at least 64, and best the size
            that was trained with (`dataset.size`). From a PIL image:
            torch.from_numpy(np.asarray(image.convert("RGB"))).permute(2, 0, 1)[None] / 255

        Depth is float32 between min_depth and max_depth, in units in which the stereo baseline is 0.1: KITTI's 0.54 m
        make it 5.4 times as many metres, as do the losses `speed` and `camera_height`. A network trained on video alone
        knows depth up to an unknown factor. A calibration in a checkpoint is for `DepthPredictor` to use.

        Raises TypeError for anything but a tensor of floats, ValueError for another shape or size.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point():
            given = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(
                f"predict_depth takes a float tensor (b, 3, h, w) of RGB in [0, 1], not {given}. From bytes: images"
                ' / 255; from PIL: torch.from_numpy(np.asarray(image.convert("RGB"))).permute(2, 0, 1)[None] / 255'
            )
        return disp_to_depth(self.predict_disp(images)[0], self.min_depth, self.max_depth)

    def _predict_view(self, batch: Batch, name: str, scales: Iterable[int]) -> dict[str, Any]:
        """Run the depth network on a view alone, so that BatchNorm sees one view at a time."""
        return self._predict_depth_net(self._network_input(of_views.network_input(batch, name, scales)), None)

    def _network_input(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _predict_depth_net(self, target: Tensor, T_stereo: Tensor | None) -> dict[str, Any]:
        out = dict(self.networks["depth"](target))
        predictions = out | {
            key: full_precision_maps(out[key]) for key in ("disp", "disp_stereo", "mask") if key in out
        }
        if "disp_stereo" in out:
            both_views = predictions.pop("disp_stereo")
            if T_stereo is not None:  # the other camera is on the right, channel 0, or on the left, channel 1
                is_right = T_stereo[:, 0, 3].view(-1, 1, 1, 1) <= 0
                predictions["disp_stereo"] = {
                    s: torch.where(is_right, maps[:, :1], maps[:, 1:2]) for s, maps in both_views.items()
                }
        return predictions

    def _predict_motion(self, target: Tensor, supports: Tensor, batch: Batch) -> dict[str, Any]:
        """Predict the motion target -> support of every support; that of stereo is given.

        The pose network takes the earlier image first, so motions to offsets below zero are inverted. All pairs make
        one batch, pair-major, so BatchNorm sees them together.
        """
        T_stereo = batch.get("T_stereo")
        moving = [i for i, offset in enumerate(self.supp_idxs) if offset != 0]
        if (moving and "pose" not in self.networks) or (0 in self.supp_idxs and T_stereo is None):
            return {}
        Ts: dict[int, Tensor] = {}
        if T_stereo is not None and 0 in self.supp_idxs:
            Ts[self.supp_idxs.index(0)] = T_stereo
        raw: dict[str, Tensor] = {}
        if moving:
            first = torch.cat([supports[:, i] if self.supp_idxs[i] < 0 else target for i in moving])
            second = torch.cat([target if self.supp_idxs[i] < 0 else supports[:, i] for i in moving])
            out = self.networks["pose"](self._network_input(torch.cat([first, second], 1)))
            # The network predicts two motions; the second is a legacy of Monodepth2 and never used.
            raw = {key: full_precision(out[key][:, 0]).unflatten(0, (len(moving), -1)) for key in ("R", "t")}
            for motion, i in zip(pose_matrix(raw["R"], raw["t"]), moving, strict=True):
                Ts[i] = invert_pose(motion) if self.supp_idxs[i] < 0 else motion
            cameras = {key: full_precision(out[key]) for key in ("focal", "centre") if key in out}
            raw |= {key: value.unflatten(0, (len(moving), -1)) for key, value in cameras.items()}
            raw = {key: value.transpose(0, 1) for key, value in raw.items()}
            if cameras:  # one camera for all supports: that of the first pair, arXiv:2307.10713
                size = target.shape[-1], target.shape[-2]
                if "centre" not in raw:  # one focal length is learned
                    given, centre = (side[:, None] for side in in_image_sides(full_precision(batch["K"]), size))
                    raw["focal"] = raw["focal"] * given / given[..., :1]
                    raw["centre"] = centre.expand_as(raw["focal"])
                raw["K"] = pinhole(raw["focal"][:, 0], raw["centre"][:, 0], size)
        return raw | {"Ts": torch.stack([Ts[i] for i in range(len(self.supp_idxs))], 1)}

    def _predict_autoencoder(self, target: Tensor, supports: Tensor | None) -> dict[str, Any]:
        autoencoder = self.networks["autoencoder"]
        out = dict(autoencoder(target))
        if supports is not None:
            b_n = supports.shape[:2]
            of_supports = autoencoder(self._network_input(supports.flatten(0, 1)))
            images, feats = of_supports["autoenc_imgs"], of_supports["autoenc_feats"]
            out["supp_autoenc_imgs"] = {s: image.unflatten(0, b_n) for s, image in images.items()}
            out["supp_autoenc_feats"] = [feat.unflatten(0, b_n) for feat in feats]
        return out

    def _encode_supports(self, supports: Tensor) -> list[Tensor]:
        """Return features (b n c h w) of the depth encoder for supports (b n 3 h w), as constants."""
        # After the forward pass with gradients: autocast would cache 16-bit weights without them.
        depth: Any = self.networks["depth"]
        with torch.no_grad(), _without_running_statistics(depth):
            feats = depth.encode(self._network_input(supports.flatten(0, 1)))
        return [feat.unflatten(0, supports.shape[:2]) for feat in feats]

    def _scene(self, batch: Batch, predictions: Mapping[str, Any], apart: Mapping[str, Any] | None = None) -> Scene:
        named = ("disp", "mask", "disp_stereo", "Ts", "R", "t", "K", "focal", "centre")
        return Scene(
            target=batch["target"],
            supports=batch.get("supports"),
            K=predictions.get("K", batch.get("K")),
            Ts=predictions.get("Ts"),
            disp=predictions["disp"],
            mask=predictions.get("mask"),
            supp_idxs=self.supp_idxs,
            min_depth=self.min_depth,
            max_depth=self.max_depth,
            legacy_sampling=self.legacy_sampling,
            disp_stereo=predictions.get("disp_stereo"),
            T_stereo=batch.get("T_stereo"),
            depth_hints=batch.get("depth_hints"),
            pseudo=batch.get("pseudo"),
            travelled=batch.get("travelled"),
            fused=self.fused,
            extras={key: value for key, value in predictions.items() if key not in named},
            **(apart or {}),
        )

    def _compare(self, scene: Scene) -> tuple[Tensor, dict[str, Tensor], Pictures]:
        total = scene.target.new_zeros(())
        values: dict[str, Tensor] = {}
        pictures: Pictures = {}
        for key, loss in self.losses.items():
            if "views" in loss.needs and not self.training:  # type: ignore[operator]
                continue
            values[key], drawn = loss(scene)
            if scene.others and getattr(loss, "on_views", False):
                of_others = {f"{name}_{key}": loss(other)[0] for name, other in scene.others.items()}
                values[key] = torch.stack([values[key], *of_others.values()]).mean()
                values |= of_others
            total = total + self.weights[key] * values[key]
            pictures |= drawn
            twin = scene.stereo_twin() if loss.on_twin else None
            if twin is not None:
                values[f"stereo_{key}"], drawn = loss(twin)
                total = total + self.weights[key] * values[f"stereo_{key}"]
                pictures |= {tag.replace("/", "/stereo_", 1): picture for tag, picture in drawn.items()}
        fault = scene.fault()
        return total + fault, {key: value + fault for key, value in values.items()}, pictures


@contextmanager
def _without_running_statistics(network: nn.Module) -> Iterator[None]:
    """Keep BatchNorm in training from updating its running statistics; it still uses those of the batch."""
    tracking: list[Any] = [m for m in network.modules() if getattr(m, "track_running_stats", False) and m.training]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
