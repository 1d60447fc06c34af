"""Checks across sections: one rule each, reported where it can be fixed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from models_zoo.registry import Registry, did_you_mean
from trainer.config.fields import Report, show
from trainer.config.optimizers import rehearse
from trainer.config.resolve import LOSS_EXTRA, Resolved, SizeRule
from trainer.config.sections import MODES, TrainerSection
from trainer.losses.needs import LEARNED_FROM_VIDEO, NEEDS, Facts
from trainer.runtime.errors import UserError

_USUAL = SizeRule()


def offsets(supp_idxs: Any) -> tuple[int, ...]:
    """Normalise `dataset.supp_idxs` (an int, a list or null) to frame offsets."""
    return () if supp_idxs is None else (supp_idxs,) if isinstance(supp_idxs, int) else tuple(supp_idxs)


def crosscheck(config: Resolved, losses: Registry, report: Report, training: bool = True) -> None:
    """Report sections that do not fit together; add merely odd settings to `config.warnings`.

    Without `training`, what only training needs is left alone: losses, optimizer, schedule, validation, trackers.
    """
    checks = _Crosschecks(config, losses, report)
    checks.for_any_use()
    if training:
        checks.for_training()


class _Crosschecks:
    def __init__(self, config: Resolved, losses: Registry, report: Report):
        self.config, self.losses, self.report, self.trainer = config, losses, report, config.trainer
        self.warn = config.warnings.append

    def for_any_use(self) -> None:
        if not self.has("net.depth"):
            self.wrong("net.depth", "missing; a depth network is what is trained")
        self.repetitions()
        self.overridden()
        self.sizes()
        self.depth_range()
        self.evaluation()

    def for_training(self) -> None:
        self.presence()
        facts = self.facts()
        if facts:
            self.motion(facts, list(facts.supp_idxs))
            self.masks(facts)
            self.saturation(facts)
            needs = {n: set(_needs_of(self.losses.get(n), kw)) for n, kw in self.config.loss.items()}
            self.unmet(facts, needs)
            self.untrained(facts, set().union(*needs.values()))
            self.validated(set().union(*needs.values()))
            self.views(facts, set().union(*needs.values()))
        self.aspect_ratio()
        self.parts()
        self.memory()
        self.workers()
        self.monitors()
        self.weights()
        self.unvalidated()
        self.unmeasured()
        self.averages()
        self.anomalies()
        self.trackers()
        self.schedule()

    def wrong(self, key: str, text: str) -> None:
        self.report.wrong(tuple(key.split(".")), text)

    def has(self, key: str) -> bool:
        """Return whether the user gave the key a value, valid or not."""
        node = self.report.layer.data
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node is not None

    def place(self, section: str, mode: str, key: str) -> str:
        """Return the place of a key: below the mode if given there, else among the common keys."""
        own = f"{section}.{mode}.{key}"
        return own if self.has(own) else f"{section}.{key}"

    def facts(self) -> Facts | None:
        """Return what the configuration offers to losses; None when the dataset is wrong, to avoid follow-ups."""
        kwargs = self.config.datasets.get("train", ("", {}))[1]
        refused = "supp_idxs" not in kwargs and self.has(self.place("dataset", "train", "supp_idxs"))
        if "train" not in self.config.datasets or refused:
            return None
        depth = self.config.net.get("depth", {})
        return Facts(
            networks=tuple(self.config.net),
            losses=tuple(self.config.loss),
            supp_idxs=offsets(kwargs.get("supp_idxs")),
            mask_name=depth.get("mask_name"),
            virtual_stereo=bool(depth.get("use_virtual_stereo")),
            use_hints=bool(kwargs.get("use_hints")),
            use_pseudo=bool(kwargs.get("use_pseudo")),
            use_speed=bool(kwargs.get("use_speed")),
            views=bool(_views_of(kwargs)),
            automask=bool(self.config.loss.get("img_recon", {}).get("use_automask")),
        )

    def presence(self) -> None:
        """A wrong entry counts as present, because it has been reported."""
        losses = self.report.layer.data.get("loss") or {}
        if isinstance(losses, dict) and not any(value is not None for value in losses.values()):
            self.wrong("loss", "missing; at least one loss is needed, e.g. img_recon")

    def repetitions(self) -> None:
        for mode, (_, kwargs) in self.config.datasets.items():
            frames = list(offsets(kwargs.get("supp_idxs")))
            if len(set(frames)) < len(frames):
                key = self.place("dataset", mode, "supp_idxs")
                self.wrong(key, f"{frames} names a frame twice; remove the repetition")

    def overridden(self) -> None:
        """Keys from the command line that have no effect, because the modes have their own."""
        places = self.report.layer.places
        for section, key in [path for path, place in places.items() if len(path) == 2 and place.startswith("--set")]:
            own = [mode for mode in MODES if (section, mode, key) in places]
            winning = [f"{section}.{mode}.{key}" for mode in own if not places[section, mode, key].startswith("--set")]
            if winning:
                rule = f"{', '.join(winning)} ({places[tuple(winning[0].split('.'))]}) win"
                self.warn(f"{section}.{key} of --set: {rule}. Set them by name: --set {winning[0]}=...")

    def motion(self, facts: Facts, supp_idxs: list[int]) -> None:
        """Supports in time need a pose network, the stereo partner does not."""
        key = "dataset.supp_idxs"
        if any(supp_idxs) and not self.has("net.pose"):
            lack = "has frames in time, whose motion net.pose must predict; add net.pose or use [0]"
            self.wrong(key, f"{supp_idxs} {lack}")
        if facts.virtual_stereo and supp_idxs and 0 not in supp_idxs:
            lack = f"predicts the view of the stereo partner, which is not among {key} {supp_idxs}"
            self.wrong("net.depth.use_virtual_stereo", f"{lack}; add 0 to them, or set it to false")
        if "pose" in facts.networks and not any(supp_idxs):
            self.warn(f"net.pose is never used: {key} {supp_idxs} has no frame in time")
            if self.config.net["pose"].get("learn_K"):
                self.wrong("net.pose.learn_K", f"{LEARNED_FROM_VIDEO}; {key} are {supp_idxs}, so set it to false")

    def masks(self, facts: Facts) -> None:
        mask, channels = facts.mask_name, self.config.net.get("depth", {}).get("num_ch_mask")
        frames = list(facts.supp_idxs)
        if mask and channels and frames and channels != len(frames):
            rule = f"a mask has one channel per support frame: expected {len(frames)} for dataset.supp_idxs {frames}"
            self.wrong("net.depth.num_ch_mask", f"{rule}, got {channels}")
        if "depth" not in self.config.net or (mask is None and self.has("net.depth.mask_name")):
            return
        for name, kwargs in self.config.loss.items():
            wanted = kwargs.get("mask_name")
            if wanted and wanted != mask:
                self.wrong(
                    f"loss.{name}.mask_name", f"{wanted!r} must equal net.depth.mask_name, which is {show(mask)}"
                )

    def unmet(self, facts: Facts, needs_of: dict[str, set[str]]) -> None:
        facts = replace(facts, networks=(*facts.networks, "pose"))  # `motion` reports when it is missing
        for name, needs in needs_of.items():
            for need in sorted(needs):
                if need not in NEEDS:
                    hint = did_you_mean(need, NEEDS)
                    self.wrong(f"loss.{name}", f"needs {need!r}, which no configuration offers. {hint}")
                elif need != "mask" or not self.config.loss[name].get("mask_name"):  # that is reported at its key
                    offered, how = NEEDS[need]
                    if not offered(facts):
                        self.wrong(f"loss.{name}", f"needs {how}; or remove the loss with `{name}: ~`")

    def untrained(self, facts: Facts, needed: set[str]) -> None:
        depth = self.config.net.get("depth", {})
        if depth.get("adapter") and not depth.get("pretrained") and not self.trainer.get("load_ckpt"):
            self.warn("net.depth.adapter: the frozen weights are random numbers; set pretrained or trainer.load_ckpt")
        if facts.mask_name and not needed & {"mask", "explainability"}:
            self.warn("net.depth.mask_name: no loss uses the mask, so it is never trained")
        if "autoencoder" in facts.networks and "autoencoder" not in needed:
            self.warn("net.autoencoder: no loss trains it (autoenc_recon, feat_peaky, feat_smooth do)")
        if "pose" in facts.networks and any(facts.supp_idxs) and "supports" not in needed:
            self.warn("net.pose: no loss compares with the supports, so it is never trained")

    def validated(self, needed: set[str]) -> None:
        """Labels need a loss. Validation computes the same losses, unless its items have no supports."""
        if self.config.datasets["train"][1].get("use_pseudo") and "pseudo" not in needed:
            self.warn("dataset.use_pseudo: no loss reads the labels; add loss.disp_ssi, or set it to false")
        if self.config.datasets["train"][1].get("use_speed") and "speed" not in needed:
            self.warn("dataset.use_speed: no loss reads it; add loss.speed, or set it to false")
        train, val = (self.config.datasets.get(mode, ("", {}))[1] for mode in ("train", "val"))
        if not self.trainer.get("limit_val_batches", 1) or not offsets(val.get("supp_idxs")):
            return
        for need, key in (("hints", "use_hints"), ("pseudo", "use_pseudo"), ("speed", "use_speed")):
            if need in needed and train.get(key) and not val.get(key):
                place, fix = self.place("dataset", "train", key), f"set dataset.{key}: true for all modes"
                self.wrong(place, f"true, but not in validation, which needs it too; {fix}")

    def views(self, facts: Facts, needed: set[str]) -> None:
        """Views cost as much as more items, so something must look at them; other modes have none."""
        for mode in ("val", "test"):
            if self.has(f"dataset.{mode}.views"):
                self.wrong(f"dataset.{mode}.views", "only training has views; move the key to dataset.train")
        if facts.views and "views" not in needed:
            fix = "add loss.view_consistency, or remove the key"
            self.wrong(self.place("dataset", "train", "views"), f"no loss compares the views; {fix}")

    def given_sizes(self) -> Iterator[tuple[str, str, list[int]]]:
        """Yield mode, key and [width, height] of images: of a dataset, and of the parts of a mixed one."""
        for mode, (_, kwargs) in self.config.datasets.items():
            found = {self.place("dataset", mode, "size"): kwargs.get("size")}
            parts = kwargs.get("datasets")
            for name, part in parts.items() if isinstance(parts, dict) else ():
                for path, keys in ((f"{name}.{mode}", (part or {}).get(mode)), (name, part)):
                    if isinstance(keys, dict) and "size" in keys:
                        found[f"dataset.datasets.{path}.size"] = keys["size"]
                        break
            for key, size in found.items():
                if isinstance(size, (list, tuple)) and len(size) == 2 and all(type(side) is int for side in size):
                    yield mode, key, list(size)

    def sizes(self) -> None:
        """Sides are multiples of the deepest stride, unless a decoder of tokens is all there is."""
        sizes = SizeRule.of(self.config.net)
        any_size = self.trainer.get("aspect_ratio") is not None  # in training, where batches are resized
        for mode, key, size in self.given_sizes():
            width, height = size
            near = sizes.nearest(size)
            if height > width:
                self.wrong(key, f"{size} is taller than wide; the order is [width, height]. Did you mean {near}?")
            elif mode == "train" and any_size and _USUAL.least <= height <= width <= _USUAL.most:
                continue
            elif not sizes.allows(size):
                rule = f"multiples of {sizes.step}, " * (sizes.step > 1) + f"at least {sizes.least}"
                rule += f" and at most {sizes.most:,}" if max(size) > sizes.most else ""
                of_train = "; a size that is loaded for trainer.aspect_ratio belongs below train" if any_size else ""
                self.wrong(key, f"[width, height] must be {rule}; got {size}. Nearest: {near}{of_train}")

    def aspect_ratio(self) -> None:
        if self.trainer.get("aspect_ratio") is None:
            return
        aspect, compile = (dict(self.trainer.get(key) or {}) for key in ("aspect_ratio", "compile"))
        if aspect.get("min", 0) > aspect.get("max", 1):
            self.wrong("trainer.aspect_ratio.min", f"{aspect['min']:g} is above max, {aspect['max']:g}")
        if any(side % _USUAL.step for side in aspect.get("ref_size", ())):
            text = f"the size of predictions, must be multiples of {_USUAL.step}; got {list(aspect['ref_size'])}"
            self.wrong("trainer.aspect_ratio.ref_size", text)
        if self.config.datasets.get("train", ("", {}))[1].get("use_hints"):
            self.wrong(
                "trainer.aspect_ratio",
                "depth hints cannot be cropped and resized; set it to null, or dataset.use_hints: false",
            )
        if _views_of(self.config.datasets.get("train", ("", {}))[1]):
            self.wrong(
                "trainer.aspect_ratio",
                "further views of an item do not follow; set it to null, or dataset.train.views: null",
            )
        if self.trainer.get("benchmark"):
            self.warn("trainer.benchmark: cuDNN times its algorithms again for every size of trainer.aspect_ratio")
        if compile.get("dynamic") is False:
            self.warn("trainer.compile.dynamic: false compiles for every size of trainer.aspect_ratio; true is quicker")

    def parts(self) -> None:
        """Batches are cut in equal parts: all must be full, and a part may have no shape of its own."""
        if not self.trainer.get("micro_batch_size"):
            return
        key = "trainer.micro_batch_size"
        if self.config.loader_kwargs("train").get("drop_last") is False:
            self.wrong(key, "needs full batches; remove it, or set loader.train.drop_last: true")
        if self.trainer.get("aspect_ratio") is not None:
            self.wrong(key, "each part would get a shape of its own; remove it, or set trainer.aspect_ratio: null")

    def memory(self) -> None:
        """One batch of images must fit, before anything is built that would be killed for want of memory."""
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for mode, _, size in self.given_sizes():
            frames = 1 + len(offsets(self.config.datasets[mode][1].get("supp_idxs")))
            frames *= 1 + (len(_views_of(self.config.datasets[mode][1])) if mode == "train" else 0)
            items = self.config.loader_kwargs(mode).get("batch_size", 1)
            if mode == "test" or max(size) > _USUAL.most:
                continue
            needed = items * frames * 3 * size[0] * size[1] * 4
            if needed > have * _machines():
                whole = f"a batch of {items:,} items with {frames} frames of {size[0]} x {size[1]} pixels"
                lack = f"{whole} takes {needed / 1e9:,.0f} GB, and this machine has {have / 1e9:,.0f}"
                key = self.place("loader", mode, "batch_size")
                self.wrong(key, f"{lack}; use a smaller batch_size or dataset.size")

    def depth_range(self) -> None:
        near, far = self.trainer.get("min_depth"), self.trainer.get("max_depth")
        if self.config.net.get("depth", {}).get("activation") == "relu":
            usual = {key: TrainerSection.model_fields[key].default for key in ("min_depth", "max_depth")}
            for key in (key for key, value in usual.items() if self.trainer.get(key, value) != value):
                self.warn(f"trainer.{key} has no effect: with net.depth.activation: relu depth is 1 / disparity")
            return
        if near is None:
            return
        if near <= 0:
            self.wrong("trainer.min_depth", f"expected a number > 0, got {near:g}")
        elif far is not None and far <= near:
            self.wrong("trainer.max_depth", f"expected a number > min_depth ({near:g}), or null; got {far:g}")

    def saturation(self, facts: Facts) -> None:
        near = self.trainer.get("min_depth")
        if self.config.net.get("depth", {}).get("activation") == "relu":
            return
        if near is not None and near >= 1 and 0 not in facts.supp_idxs:
            self.warn(
                f"trainer.min_depth {near:g} without stereo: depth is in units of the network's choice, so the"
                " disparity may saturate and the depth become a constant; 0.1 is usual"
            )

    def workers(self) -> None:
        """A key for workers needs some: those of its mode, or of any mode of the training if it is a common key."""
        loaders = {mode: self.config.loader_kwargs(mode) for mode in ("train", "val")}
        for mode, kwargs in loaders.items():
            for key in ("persistent_workers", "prefetch_factor", "timeout"):
                place = self.place("loader", mode, key)
                users = [kwargs] if place == f"loader.{mode}.{key}" else loaders.values()
                if kwargs.get(key) and all(user.get("num_workers") == 0 for user in users):
                    fix = "set loader.num_workers to 1 or more, or remove it"
                    self.wrong(place, f"{show(kwargs[key])} needs workers; {fix}")

    def monitors(self) -> None:
        """A monitored number must be computed; otherwise the run would fail after the first epoch."""
        from trainer.metrics.validation import monitor_problem

        validates = self.trainer.get("limit_val_batches", 0) > 0
        with_depth = self.config.datasets.get("val", ("", {}))[1].get("use_depth", True)
        validated = [n for n, kw in self.config.loss.items() if "views" not in _needs_of(self.losses.get(n), kw)]
        watched = {"trainer.monitor": self.trainer.get("monitor")}
        if self.config.scheduler.get("type") == "plateau":
            watched["scheduler.monitor"] = self.config.scheduler.get("monitor")
            if self.trainer and not validates:
                self.wrong("scheduler.type", "plateau needs validation; set trainer.limit_val_batches above 0")
        for key, name in watched.items():
            if name is not None:
                problem = monitor_problem(name, validated, has_depth=with_depth or not validates)
                if problem is not None:
                    self.wrong(key, problem)

    def weights(self) -> None:
        """A weight that changes must do so in time, and changes the total that a monitor may watch."""
        epochs, changing = self.trainer.get("max_epochs"), []
        for name, kwargs in self.config.loss.items():
            later = [int(epoch) for epoch in kwargs["weight"] if epoch != "0"] if _by_epoch(kwargs) else []
            for epoch in later:
                if epochs is not None and epoch >= epochs:
                    lack = f"epoch {epoch}, counted from 0, is never reached with trainer.max_epochs: {epochs}"
                    self.warn(f"loss.{name}.weight: {lack}")
            changing += [name] if later else []
        if changing and self.trainer.get("monitor") == "loss":
            self.warn(
                f"trainer.monitor: loss: the total changes with loss.{changing[0]}.weight, so epochs cannot be compared"
                " by it; choose another, such as AbsRel or loss_img_recon"
            )

    def unvalidated(self) -> None:
        if self.trainer.get("limit_val_batches", 1):
            return
        average = "is used in validation and for `best` alone, and nothing is validated"
        fix = "set trainer.limit_val_batches above 0, or {}: ~"
        for key, what in (
            ("early_stopping", "waits for a number of the validation, and nothing is validated"),
            ("swa", average),
        ):
            if self.trainer.get(key):
                self.wrong(f"trainer.{key}", f"{what}; {fix.format(key)}")
        if self.trainer.get("ema"):  # pages set it
            self.warn(f"trainer.ema {average}; {fix.format('ema')}")

    def unmeasured(self) -> None:
        """A learned camera is measured on the supports of the validation."""
        offered = offsets(self.config.datasets.get("val", ("", {}))[1].get("supp_idxs", (1,)))
        validates = self.trainer.get("limit_val_batches", 1)
        if self.config.net.get("pose", {}).get("learn_K") and not (validates and any(offered)):
            lack = "the supports of the validation are not in time" if validates else "nothing is validated"
            self.warn(f"net.pose.learn_K: {lack}, so the learned camera is not measured, nor kept in checkpoints")

    def averages(self) -> None:
        swa, epochs = self.trainer.get("swa"), self.trainer.get("max_epochs")
        if not swa or epochs is None or "start" not in swa:
            return
        start, key = swa["start"], "trainer.swa.start"
        if start >= 1 and start != int(start):
            self.wrong(key, f"expected a share of the epochs below 1, or a whole number of them; got {start:g}")
        elif start >= epochs:
            self.wrong(key, f"{start:g} is never reached with trainer.max_epochs: {epochs}; set it lower")
        elif start == 0 and self.trainer.get("ema"):
            self.warn("trainer.ema is never used: the mean of trainer.swa takes over in the first epoch")

    def anomalies(self) -> None:
        if self.trainer.get("detect_anomaly") and self.trainer.get("nonfinite") == "skip":
            ends = "ends the run at the first NaN in a gradient, which trainer.nonfinite: skip would skip"
            self.wrong("trainer.detect_anomaly", f"{ends}; unset one of them")

    def trackers(self) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for name in self.trainer.get("trackers", ()):
            if name not in LOGGER_TYPE_TO_CLASS:
                self.wrong("trainer.trackers", f"{name!r} is not a tracker. {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")

    def schedule(self) -> None:
        """Optimizer and schedule must work up to the last epoch; those that are wrong or not for here are left out."""
        optimizer, epochs = self.config.optimizer, self.trainer.get("max_epochs")
        reported = any(f" {section}" in line for line in self.report.lines for section in ("optimizer", "scheduler"))
        if epochs is None or reported or any(line.startswith("optimizer.type") for line in self.config.warnings):
            return
        scheduler = {key: value for key, value in self.config.scheduler.items() if key != "monitor"}
        if scheduler.get("by") == "step" and self.trainer.get("max_minutes"):
            self.warn("trainer.max_minutes may end the run before scheduler.by: step, laid out over max_epochs, does")
        if (found := rehearse(optimizer, scheduler, epochs)) is not None:
            self.wrong(*found)

    def evaluation(self) -> None:
        """Metric sets, alignments and the crop must exist, and some depth must be scored."""
        given = self.config.evaluation
        for key, kind in (("metrics", "metric set"), ("alignment", "alignment"), ("crop", "crop")):
            names = given.get(key)
            if names == []:
                self.wrong(f"evaluation.{key}", f"names no {kind}; name one, or remove the key")
            for name in [names] if isinstance(names, str) else names or ():
                self.choice(kind, name, f"evaluation.{key}")
        near, far = given.get("min_depth"), given.get("max_depth")
        if near and far and near >= far:
            place = self.report.layer.place(("evaluation", "min_depth"))
            self.wrong("evaluation.max_depth", f"{far:g} must be above min_depth {near:g} ({place})")

    def choice(self, kind: str, name: str, key: str) -> None:
        from trainer.metrics.protocol import choose

        try:
            choose(kind, name)
        except UserError as error:
            self.wrong(key, str(error))


def _views_of(kwargs: dict[str, Any]) -> list[str]:
    """List the views that the arguments of a data set ask for."""
    return [name for name, ratio in (kwargs.get("views") or {}).items() if ratio is not None]


def _machines() -> int:
    """Number of machines that share a batch."""
    local, world = (os.environ.get(name, "1") for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return max(1, int(world) // max(1, int(local))) if local.isdecimal() and world.isdecimal() else 1


def _by_epoch(kwargs: dict[str, Any]) -> bool:
    return isinstance(kwargs.get("weight"), dict)


def _needs_of(loss: Any, kwargs: dict[str, Any]) -> Iterable[str]:
    """Return what a loss needs with these arguments, by its class method `needs_with` or its attribute `needs`."""
    if hasattr(loss, "needs_with"):
        return loss.needs_with({key: value for key, value in kwargs.items() if key not in LOSS_EXTRA})
    return getattr(loss, "needs", ())
