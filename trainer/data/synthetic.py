"""Drives through ray-cast streets and corridors, rendered on the fly: exact depth and motion, from no files.

Everything that self-supervision assumes holds here unless an option breaks it: surfaces look the same from
everywhere, nothing but the camera moves, and texture is coarser than the pixel grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from models_zoo.registry import did_you_mean
from trainer.data import DATASETS
from trainer.data.base import DepthDataset
from trainer.data.clips.intrinsics import KITTI_FOCAL, average_intrinsics, field_of_view
from trainer.data.files.frames import LEFT, RIGHT, Frames
from trainer.data.options import CommonOptions
from trainer.data.raw_item import RawItem, stereo_motion
from trainer.data.world.drive import PAD
from trainer.data.world.labels import Teacher
from trainer.data.world.layouts import SceneKind, check_drive_options, draw_scene
from trainer.data.world.scenes import Scene
from trainer.runtime.errors import UserError
from trainer.types import METRES_PER_UNIT, STEREO_BASELINE_UNITS

_MODE_SEEDS: dict[str, int] = {"train": 0, "val": 1, "test": 2}


@DATASETS.register("synthetic")
class Synthetic(DepthDataset):
    """Rendered drives through random streets and corridors, with exact depth and motion; needs no files.

    An item is a frame of a drive: `items_per_scene` successive items come from one scene. Scenes of different
    modes or `scene_seed` have nothing in common. Depth has the size of the images, and is 0 where sky or the
    far background is seen. `Ts_true` holds the true motions, the stereo one included. The depth hints of `use_hints`
    are the true depth where the point falls inside the image of the stereo partner, 0 elsewhere. The pseudo-labels of
    `use_pseudo` are the true disparity under an affine map of their own, unless `pseudo_root` names files.

    Args:
        num_items: length of the data set.
        items_per_scene: frames of a drive.
        scene_seed: of all scenes, >= 0; `seed` is that of the augmentation.
        scene: `road`, `corridor` or `mixed`. Corridors are walked through at 0.4 of the pace.
        motion: mean metres per frame; a drive keeps one pace, 0.5 to 1.5 times this.
        rotation: largest angle the camera turns away from the street, degrees.
        moving_objects: cars and people per scene that move by themselves.
        clutter: how many cars, poles, people and obstacles stand around, 0..2; 1 = a busy street.
        standing: share of drives whose camera stands still, 0..1; true = all.
        focal: focal length in image widths and heights.
        sky_depth: give the distance of the background wall, 90 m and more, where sky is seen.
        right_targets: every second target is seen by the right camera, its stereo support being the left one.
        pseudo_wrong: share of the house fronts, 0..1, the reddest, that pseudo-labels put much too far; `planted` tells
            where.
        use_foreground: give masks of what stands about, cars, people, poles and trees, for metrics on their outlines.
    """

    source: ClassVar[str] = "made for this project"
    licence = "none needed: the scenes are computed"
    defaults: ClassVar[CommonOptions] = {"size": (192, 64)}
    makes_pseudo = True
    measures_speed = True

    def __init__(
        self,
        num_items: int = 800,
        items_per_scene: int = 8,
        scene_seed: int = 0,
        scene: SceneKind = "road",
        motion: float = 0.8,
        rotation: float = 1.0,
        moving_objects: int = 0,
        clutter: float = 1.0,
        standing: bool | float = False,
        focal: tuple[float, float] = KITTI_FOCAL,
        sky_depth: bool = False,
        right_targets: bool = True,
        pseudo_wrong: float = 0.0,
        use_foreground: bool = False,
        **common: Unpack[CommonOptions],
    ):
        super().__init__(**self.defaults | common)
        if scene not in get_args(SceneKind):
            raise UserError(f"dataset.scene: {scene!r} is no kind of scene. {did_you_mean(scene, get_args(SceneKind))}")
        counts = {"num_items": (num_items, 1), "items_per_scene": (items_per_scene, 1), "scene_seed": (scene_seed, 0)}
        for key, (value, least) in counts.items():
            if value < least:
                raise UserError(f"dataset.{key} must be at least {least}, got {value}")
        if not 0.3 <= min(focal) <= max(focal) <= 20:
            raise UserError(f"dataset.focal must be between 0.3 and 20 image widths and heights, got {list(focal)}")
        if not 0 <= pseudo_wrong <= 1:
            raise UserError(f"dataset.pseudo_wrong must be between 0 and 1, got {pseudo_wrong:g}")
        self._drive: dict[str, Any] = {
            "motion": motion, "rotation": rotation, "moving_objects": moving_objects, "standing": standing,
            "clutter": clutter,
        }  # fmt: skip
        check_drive_options("dataset.{}".format, self._drive)
        if far := [offset for offset in self.supp_idxs if abs(offset) > PAD]:
            raise UserError(f"dataset.supp_idxs: {far} are too far away: scenes are built for -{PAD} to {PAD}")
        self.num_items = num_items
        self.items_per_scene = items_per_scene
        self.scene_seed = scene_seed
        self.scene = scene
        self.sky_depth = sky_depth
        self.right_targets = right_targets
        self.teacher = Teacher((scene_seed, _MODE_SEEDS[self.mode]), pseudo_wrong)
        self.focal = focal
        self.use_foreground = use_foreground

    @classmethod
    def field_of_view(cls, arguments: Mapping[str, Any]) -> float | None:
        return field_of_view(arguments.get("focal", KITTI_FOCAL)[0])

    def __len__(self) -> int:
        return self.num_items

    def describe(self, index: int) -> str:
        """`synthetic/<mode>/scene <number>/frame <number>/<left|right>`"""
        i_scene, frame = divmod(index, self.items_per_scene)
        camera = "right" if self._is_right(index) else "left"
        return f"synthetic/{self.mode}/scene {i_scene}/frame {frame}/{camera}"

    def place(self, index: int) -> tuple[str, int]:
        """Return the scene with its camera, and the frame: with `right_targets` the next item is of another camera."""
        i_scene, frame = divmod(index, self.items_per_scene)
        return f"synthetic/{self.mode}/scene {i_scene}/{'right' if self._is_right(index) else 'left'}", frame

    def frames(self, indices: Sequence[int] | None = None) -> Frames:
        """Return the items by their scenes and the frames in them: scenes of other options have nothing in common.

        `items_per_scene` is none of these: a longer drive through a scene keeps its path and the street around its
        start, though what stands further away is drawn anew.
        """
        numbers_of_drive = [
            (key, float(value)) for key, value in sorted(self._drive.items())
        ]  # 1, 1.0 and true are one
        world = repr((self.scene_seed, self.scene, *map(float, self.focal), numbers_of_drive))
        name = f"synthetic_{self.mode}_{hashlib.sha256(world.encode()).hexdigest()[:12]}"
        numbers = np.arange(self.num_items) if indices is None else np.asarray(indices)
        numbers = numbers[np.argsort(numbers // self.items_per_scene, kind="stable")]
        scenes, starts = np.unique(numbers // self.items_per_scene, return_index=True)
        sightings = []
        for i_scene, items in zip(scenes.tolist(), np.split(numbers, starts[1:]), strict=True):
            is_right = (items % 2 == 1) & self.right_targets
            for role, seen in ((LEFT, items[~is_right]), (RIGHT, items[is_right])):
                sightings.append((f"{name}/scene {i_scene}", seen % self.items_per_scene, role))
        return Frames.of(sightings)

    @classmethod
    def scene_in(cls, name: str) -> str | None:
        return name.rpartition("/frame ")[0] or None

    @property
    def _K(self) -> NDArray[Any]:
        return average_intrinsics(self.size, self.focal)  # views are rendered at sizes of their own

    def load(self, index: int) -> RawItem:
        i_scene, frame = divmod(index, self.items_per_scene)
        right = self._is_right(index)
        with self.stage("Image"):
            scene = self._scene(i_scene)
            view = scene.view(frame, right, self._K, self.size)
            target, depth, background = scene.render(frame, view)
        with self.stage("Support"):
            supports, motions = [], []
            for offset in self.supp_idxs:
                other = scene.view(frame + offset, right if offset else not right, self._K, self.size)
                supports.append(scene.render(frame + offset, other)[0])
                motions.append(np.linalg.inv(other.T_world) @ view.T_world)
        hints = self._hints(depth, background, right) if self.use_hints else None
        pseudo = None
        if self.use_pseudo and self.pseudo_root is None:
            pseudo = self.teacher.label(index, depth, self.teacher.mistaken(scene, frame, view))
        if not self.sky_depth:
            depth[background] = 0
        return RawItem(
            target=target,
            supports=supports,
            K=self._K,
            T_stereo=stereo_motion(right) if 0 in self.supp_idxs else None,
            depth=depth if self.use_depth else None,
            Ts_true=np.array(motions).reshape(-1, 4, 4),
            hints=hints,
            pseudo=pseudo,
            foreground=scene.things(frame, view) if self.use_foreground else None,
        )

    def planted(self, index: int) -> NDArray[np.bool_]:
        """Return where (h w) the pseudo-label of an item that is not mirrored is wrong by `pseudo_wrong`."""
        i_scene, frame = divmod(index, self.items_per_scene)
        scene = self._scene(i_scene)
        return self.teacher.mistaken(scene, frame, scene.view(frame, self._is_right(index), self._K, self.size))

    def _hints(self, depth: NDArray[Any], background: NDArray[Any], right: bool) -> NDArray[Any]:
        """Depth (h w) of perfect stereo matching, in units of the 0.1 baseline; 0 outside the partner's image."""
        hints = np.where(background, 0, depth / METRES_PER_UNIT)
        # In pixels; what the left camera sees stands further left in the right image.
        shift = self._K[0, 0] * STEREO_BASELINE_UNITS / np.maximum(hints, 1e-6)
        matched = np.arange(depth.shape[1]) + (shift if right else -shift)
        return np.where((matched >= 0) & (matched <= depth.shape[1] - 1), hints, 0)

    def _is_right(self, index: int) -> bool:
        return self.right_targets and index % 2 == 1

    def _scene(self, i_scene: int) -> Scene:
        seed = (self.scene_seed, _MODE_SEEDS[self.mode], i_scene)
        return draw_scene(seed, self.scene, self.items_per_scene, **self._drive)
