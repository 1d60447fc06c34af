"""Files of SlowTV (Kick Back & Relax, arXiv:2307.10713) in the words of this trainer.

What means the same is translated, key by key; what does not is an error that names our word for it. Places stay with
their values, so that every later mistake is reported at the line of the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from trainer.config.fields import Report, show
from trainer.config.sections import MODES
from trainer.data.options import CommonOptions
from trainer.runtime.yaml_text import KeyPath, Layer

SHARED = frozenset(CommonOptions.__annotations__) - {"supp_idxs", "size", "mode"}  # set for all data sets together
# Types there -> ours, and the size (width, height) of their pictures.
TYPES: dict[str, tuple[str, tuple[int, int] | None]] = {
    "kitti": ("kitti", (1242, 376)),
    "kitti_lmdb": ("kitti_lmdb", (1242, 376)),
    "syns_patches": ("syns_patches", (1242, 376)),
    "slow_tv": ("folder", (1280, 720)),
    "slow_tv_lmdb": ("folder", (1280, 720)),
    "mannequin": ("folder", (1920, 1080)),
    "mannequin_lmdb": ("folder", (1920, 1080)),
    "ddad": ("rgbd", (1936, 1216)),
    "diode": ("rgbd", (1024, 768)),
    "nyud": ("rgbd", (640, 480)),
    "sintel": ("rgbd", None),
    "tum": ("rgbd", None),
    "mapfree": ("rgbd", None),
}
EXAMPLES = {
    "folder": "{type: folder, path: <folder of clips, or a film>}; `monodepth prepare video` makes such a folder",
    "rgbd": "{type: rgbd, root: <scenes with images/, depth/, K.txt>}",
}
REACH = {"slow_tv": [1, 5], "mannequin": [1, 5]}  # what `randomize_supp` draws from; 1 elsewhere, and in cars
WORDS = ("image", "support", "depth", "depth_velo", "depth_hint", "K")  # of `datum`
# Keys of `trainer` that are left out: value that means what this trainer does, and what to use for another.
LEFT_OUT = {
    "always_fwd_pose": (True, "the pose network is always given frames in the order of time; remove it, or set true"),
    "auto_scale_lr": (False, "rates are not scaled with the batch; set optimizer.lr to what is meant"),
}
ASPECT = {"aspect_ratio_aug_prob": "prob", "aspect_ratio_min": "min", "aspect_ratio_max": "max"}


def translate(layer: Layer, report: Report, known: Collection[str]) -> Layer:
    """Return a merged configuration in our words: the same one where it is in them already.

    known: our types of data sets. Problems and warnings go to `report`, whose layer is the untranslated one.
    """
    work = _Translation(layer, report, known)
    work.sections()
    work.trainer()
    work.scheduler()
    work.dataset()
    return Layer(work.data, work.places, layer.removed, layer.outdated, layer.label)


def one_dataset(section: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a `dataset` section of a checkpoint into our form: one data set, [width, height], supports of training."""
    several = {key: value for key, value in section.items() if isinstance(value, Mapping) and key not in MODES}
    result = dict(section)
    if several and "type" not in section:
        name = next((key for key in several if key.startswith("kitti")), next(iter(several)))
        result = {"type": name, **several[name]}
    if "shape" in result:
        result["size"] = list(result.pop("shape"))[::-1]
    train = section.get("train")
    if isinstance(train, Mapping) and "supp_idxs" in train:
        result["supp_idxs"] = train["supp_idxs"]
    return result


class _Translation:
    def __init__(self, layer: Layer, report: Report, known: Collection[str]):
        self.layer, self.report, self.known, self.wrong = layer, report, known, report.wrong
        self.data, self.places = dict(layer.data), dict(layer.places)

    def put(self, path: KeyPath, value: Any, origin: KeyPath) -> None:
        """Set a key, at the place of the one that it comes from."""
        node = self.data
        for i, key in enumerate(path[:-1]):
            below = node.get(key)
            node[key] = node = dict(below) if isinstance(below, Mapping) else {}
            self.places.setdefault(path[: i + 1], self.layer.place(origin))
        node[path[-1]] = value
        self.places[path] = self.layer.place(origin)

    def warn(self, path: KeyPath, text: str) -> None:
        self.report.dropped[path] = f"{self.layer.place(path)}: {'.'.join(path)} {text}"

    def section(self, name: str) -> dict[str, Any]:
        found = self.data.get(name)
        return dict(found) if isinstance(found, Mapping) else {}

    def sections(self) -> None:
        """`nets` is `net`."""
        if "nets" in self.data and "net" not in self.data:
            self.data["net"] = self.data.pop("nets")
            self.places |= {("net", *path[1:]): place for path, place in self.places.items() if path[0] == "nets"}

    def trainer(self) -> None:
        trainer = self.section("trainer")
        aspect = {key: trainer.pop(key) for key in (*ASPECT, "aspect_ratio_ref_shape") if key in trainer}
        for key, (same, instead) in LEFT_OUT.items():
            if trainer.pop(key, same) != same:
                self.wrong(("trainer", key), instead)
        if trainer.pop("matmul", None) not in (None, "highest"):
            self.warn(("trainer", "matmul"), "is left out: float32 is full here; trainer.precision: bf16 is faster")
        logger = trainer.pop("logger", None)
        if isinstance(self.data.get("trainer"), Mapping):
            self.data["trainer"] = trainer
        if logger is not None:
            self.put(("trainer", "trackers"), logger, ("trainer", "logger"))
        if not aspect.get("aspect_ratio_aug_prob"):
            return
        for key, ours in ASPECT.items():
            if aspect.get(key) is not None:
                self.put(("trainer", "aspect_ratio", ours), aspect[key], ("trainer", key))
        shape, origin = aspect.get("aspect_ratio_ref_shape"), ("trainer", "aspect_ratio_ref_shape")
        if shape is None:
            self.wrong(origin, "missing; it is [height, width], and trainer.aspect_ratio.ref_size here, reversed")
        else:
            self.put(("trainer", "aspect_ratio", "ref_size"), _reversed(shape), origin)

    def scheduler(self) -> None:
        """`{steplr: {...}}` is `{type: steplr, ...}`, and `linear` beside another its warm-up."""
        section = {name: keys for name, keys in self.section("scheduler").items() if keys is not None}
        if not section or "type" in section or not all(isinstance(keys, Mapping) for keys in section.values()):
            return
        self.data["scheduler"] = {}
        rise = section.pop("linear") if len(section) > 1 and "linear" in section else None
        name, keys = next(iter(section.items()))
        if len(section) > 1 or (rise and rise.get("end_factor", 1) != 1):
            here = f"one schedule is followed here, with a warm-up to its rate: {{type: {name}, ..., warmup: <epochs>}}"
            self.wrong(("scheduler",), f"is a chain of schedules; {here}")
        elif rise is not None:
            for ours, key, default in (("warmup", "total_iters", 5), ("warmup_factor", "start_factor", 1 / 3)):
                self.put(("scheduler", ours), rise.get(key, default), ("scheduler", "linear", key))
        self.put(("scheduler", "type"), name, ("scheduler", name))
        for key, value in keys.items():
            self.put(("scheduler", key), value, ("scheduler", name, key))

    def dataset(self) -> None:
        """`{<type>: {...}, ...}` is one data set, or `mixed` with batches of one data set each."""
        section = self.section("dataset")
        names = [name for name, keys in section.items() if name in (*TYPES, *self.known) and isinstance(keys, Mapping)]
        if "type" in section or not names:
            return
        parts = {name: _Part(name, section[name], self) for name in names}
        lengths = {name: part.length for name, part in parts.items() if part.length}
        gone = {*names, *(key for key in TYPES if section.get(key) is None)}
        self.data["dataset"] = {key: value for key, value in section.items() if key not in gone}
        single = len(names) == 1 and not lengths
        if not single:
            self.put(("dataset", "type"), "mixed", ("dataset", names[0]))
            self.put(("dataset", "one_per_batch"), True, ("dataset", names[0]))
            self.lengths(parts, lengths)
            sizes = [part.own.get(path) for part in parts.values() for path in (("val", "size"), ("size",))]
            if found := next(filter(None, sizes), None):
                self.put(("dataset", "size"), *found)  # of predictions; every data set has its own
        for name, part in parts.items():
            base = ("dataset",) if single else ("dataset", "datasets", name)
            self.put((*base, "type"), part.type, ("dataset", name))
            for path, (value, origin) in part.own.items():
                self.put((*base, *path), value, origin)
        self.shared(parts.values())

    def lengths(self, parts: Mapping[str, _Part], lengths: Mapping[str, int]) -> None:
        """`max_len` items of each in an epoch are a length and weights."""
        for name in parts.keys() - lengths.keys() if lengths else ():
            fix = "give it to all data sets, or to none: shares of an epoch are dataset.length and weights here"
            self.wrong(("dataset", name), f"has no max_len; {fix}")
        if not lengths:
            self.warn(("dataset",), "has no max_len: data sets have equal shares of an epoch; change that with weight")
        elif lengths.keys() == parts.keys():
            first = parts[next(iter(lengths))]
            self.put(("dataset", "length"), sum(lengths.values()), first.length_from)
            for name, length in lengths.items():
                self.put(("dataset", "datasets", name, "weight"), float(length), parts[name].length_from)

    def shared(self, parts: Iterable[_Part]) -> None:
        """Set what is common to all data sets once, and `supp_idxs` where they differ from those of the first."""
        seen: dict[KeyPath, tuple[Any, KeyPath]] = {}
        for part in parts:
            for path, (value, origin) in part.shared.items():
                before = seen.setdefault(path, (value, origin))[0]
                if path[-1] in ("use_depth", "use_hints"):
                    seen[path] = (before or value, origin)
                elif path[-1] == "supp_idxs" and before != value:
                    self.put(("dataset", "datasets", part.name, *path), value, origin)
                elif before != value:
                    self.wrong(origin, f"{show(value)} must be the same for all data sets; another: {show(before)}")
        for path, (value, origin) in seen.items():
            self.put(("dataset", *path), value, origin)


class _Part:
    """One data set: `own` and `shared` map our keys, below a mode or not, to a value and where it comes from."""

    def __init__(self, name: str, section: Mapping[str, Any], work: _Translation):
        self.name, self.work = name, work
        origin: KeyPath = ("dataset", name)
        self.own: dict[KeyPath, tuple[Any, KeyPath]] = {}
        self.shared: dict[KeyPath, tuple[Any, KeyPath]] = {}
        self.length, self.length_from = 0, origin
        self.type = section["type"] if isinstance(section.get("type"), str) else name
        ours = TYPES.get(self.type, (self.type, None))[0]
        if self.type not in work.known and self.type in TYPES:
            work.wrong(("dataset", name), f"there is no such data set here; add to its keys {EXAMPLES[ours]}")
            self.type = ours
        modes = {mode: section[mode] for mode in MODES if isinstance(section.get(mode), Mapping)}
        common = {key: value for key, value in section.items() if key not in ("type", *MODES)}
        self.driving = common.get("split") == "driving"
        self.random = bool(({**common, **modes.get("train", {})}).get("randomize"))
        for level, keys in (((), common), *(((mode,), keys) for mode, keys in modes.items())):
            for key, value in keys.items():
                self.take(level, key, value, ("dataset", name, *level, key))

    def take(self, level: KeyPath, key: str, value: Any, origin: KeyPath) -> None:
        rule = getattr(self, f"take_{key}", None)
        if rule is not None:
            rule(level, value, origin)
        elif key in SHARED or key == "supp_idxs":
            self.share(level, key, value, origin)
        elif value is not None and key not in ("mode", "randomize"):  # which walks through all items replace
            self.keep(level, key, value, origin)

    def keep(self, level: KeyPath, key: str, value: Any, origin: KeyPath) -> None:
        path = (*level, key)
        self.own[path] = (value, origin)

    def share(self, level: KeyPath, key: str, value: Any, origin: KeyPath) -> None:
        path = (*level, key)
        self.shared[path] = (value, origin)

    def take_shape(self, level: KeyPath, value: Any, origin: KeyPath) -> None:
        """Height and width; null = those of the pictures."""
        native = TYPES.get(self.name, ("", None))[1]
        if value is None and native is None:
            self.work.wrong(origin, "null, the size of the pictures, is not known here; use size: [width, height]")
            return
        self.keep(level, "size", size := list(native or ()) if value is None else _reversed(value), origin)
        if level == ("val",):  # evaluations take pictures as validation does, not as they are loaded to be cropped
            self.own.setdefault(("test", "size"), (size, origin))

    def take_datum(self, level: KeyPath, value: Any, origin: KeyPath) -> None:
        """What is loaded: images, K, and the rest by our switches."""
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else [value]
        if other := [word for word in words if word not in WORDS]:
            have = "use_depth, use_hints, use_benchmark and supp_idxs say what is loaded"
            self.work.wrong(origin, f"{show(other[0])} is none of {', '.join(WORDS)}; here {have}")
        words = [word for word in words if word in WORDS]
        self.share(level, "use_depth", bool({"depth", "depth_velo"} & {*words}), origin)
        self.share(level, "use_hints", "depth_hint" in words, origin)
        if self.type.startswith("kitti") and {"depth", "depth_velo"} & {*words}:
            self.keep(level, "use_benchmark", "depth" in words, origin)
        if "support" not in words:
            self.share(level, "supp_idxs", None, origin)

    def take_augmentations(self, level: KeyPath, value: Any, origin: KeyPath) -> None:
        """Probabilities, which are constants here; `auto` and `cutout` did nothing."""
        given = value if isinstance(value, Mapping) else {"flip": 0.5, "photo": 0.5}
        if any(given.get(key, 0) != 0.5 for key in ("flip", "photo")):
            fixed = "dataset.use_aug: true mirrors with 0.5 and changes colours with 0.5"
            self.work.wrong(origin, f"probabilities are not chosen here: {fixed}; set flip and photo to 0.5")

    def take_max_len(self, level: KeyPath, value: Any, origin: KeyPath) -> None:
        """Items of an epoch; not in validation, which sees every item."""
        if value is None:
            return
        if level not in ((), ("train",)):
            self.work.warn(origin, "is left out: trainer.limit_val_batches limits a validation, of all data sets alike")
        elif type(value) is not int or value < 1:
            self.work.wrong(origin, f"expected a whole number >= 1, got {show(value)}; dataset.length is ours")
        else:
            self.length, self.length_from = value, origin
            if not self.random:
                self.work.warn(origin, "is a share of an epoch here, drawn from all items in turn, not the first ones")

    def take_randomize_supp(self, level: KeyPath, value: Any, origin: KeyPath) -> None:
        reach = REACH.get(self.name.removesuffix("_lmdb"))
        path = (*level, "supp_range")
        if value and reach and not self.driving:
            self.own.setdefault(path, (reach, origin))

    def take_split(self, level: KeyPath, value: Any, origin: KeyPath) -> None:
        """A list of frames, which only KITTI and SYNS-Patches have by name here."""
        if value is not None and self.type in ("folder", "rgbd"):
            cars = "; cars also want supp_range: [1, 1]" if value == "driving" else ""
            self.work.wrong(origin, f"frames of {self.type} are named in a file; use split_file, or remove it{cars}")
        elif value is not None:
            self.keep(level, "split", value, origin)


def _reversed(shape: Any) -> Any:
    """[height, width] -> [width, height]; anything else stays, and is reported as a size."""
    return list(shape)[::-1] if isinstance(shape, Sequence) and not isinstance(shape, str) else shape
