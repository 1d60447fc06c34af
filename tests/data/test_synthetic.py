"""Synthetic drives: pictures that true depth and motion explain, options that do what they say, pure items."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data import DATASETS
from trainer.data.base import RawItem
from trainer.data.clips.intrinsics import average_intrinsics
from trainer.data.files.frames import LEFT, compare
from trainer.data.synthetic import Synthetic
from trainer.data.world.drive import Drive
from trainer.data.world.scenes import Scene, Stage
from trainer.data.world.shading import Light, Material, Sky
from trainer.geometry import ViewSynthesis
from trainer.runtime.errors import UserError
from trainer.types import METRES_PER_UNIT, STEREO_BASELINE_M

SIZE = (192, 64)
K = average_intrinsics(SIZE)
FX = K[0, 0]
FAR = 90.0


def _errors(item: RawItem, i_support: int, support_depth: NDArray[Any]) -> tuple[float, float]:
    """Mean difference to a support over pixels that both see: moved by true depth and motion, and not moved."""

    def planes(image: Any) -> Tensor:
        return torch.tensor(np.asarray(image, np.float32)).reshape(*SIZE[::-1], -1).permute(2, 0, 1)[None]

    def error(image: Tensor) -> float:
        return float((image - planes(item.target)).abs().mean(1, keepdim=True)[visible].mean())

    support = planes(item.supports[i_support])
    synthesis = ViewSynthesis(torch.tensor(K, dtype=torch.float32)[None], SIZE[::-1])
    T = torch.tensor(item.Ts_true[i_support], dtype=torch.float32)[None]
    view = synthesis.view(torch.cat([support, planes(1 / support_depth)], 1), planes(item.depth), T)
    visible = view.valid & (planes(item.depth) > 0) & ((view.z * view.image[:, 3:] - 1).abs() < 0.03)
    return error(view.image[:, :3]), error(support)


@pytest.mark.parametrize("kind", ["road", "corridor"])
def test_true_depth_and_motion_explain_the_supports(kind: Any) -> None:
    """Measured on the road, supports -1, 0, 1: 1.8, 0.9, 1.4 of 255; unmoved 13.0, 17.2, 12.7.

    Without the band limit of the textures it would be 3.6, 2.0, 3.4.
    """
    dataset = Synthetic(scene=kind, supp_idxs=(-1, 0, 1), mode="val", sky_depth=True)
    moved, still = np.zeros(3), np.zeros(3)
    indices = range(0, 800, 57)  # left and right targets
    for index in indices:
        item = dataset.load(index)
        i_scene, frame = divmod(index, 8)
        for i, offset in enumerate(dataset.supp_idxs):
            right = (index % 2 == 1) != (offset == 0)
            view = dataset._scene(i_scene).view(frame + offset, right, K, SIZE)
            support_depth = dataset._scene(i_scene).render(frame + offset, view)[1]
            errors = _errors(item, i, support_depth)
            moved[i] += errors[0] / len(indices)
            still[i] += errors[1] / len(indices)
    assert (moved < 2.4).all()
    assert (moved < 0.25 * still).all()


class TestItems:
    def test_an_item_is_a_function_of_seed_and_index(self) -> None:
        make = lambda: Synthetic(scene="mixed", supp_idxs=(-1, 0), moving_objects=1)  # noqa: E731
        forwards, backwards = make(), pickle.loads(pickle.dumps(make()))
        indices = [0, 3, 9, 700]
        first = {i: forwards.load(i) for i in indices}
        for i in reversed(indices):
            again = backwards.load(i)
            np.testing.assert_array_equal(first[i].target, again.target)
            np.testing.assert_array_equal(np.stack(first[i].supports), np.stack(again.supports))
            np.testing.assert_array_equal(first[i].depth, again.depth)
            np.testing.assert_array_equal(first[i].Ts_true, again.Ts_true)

    def test_the_target_does_not_depend_on_its_supports(self) -> None:
        a, b = Synthetic(supp_idxs=None).load(5), Synthetic(supp_idxs=(-5, 3, 0)).load(5)
        np.testing.assert_array_equal(a.target, b.target)
        assert Synthetic(mode="val").describe(13) == "synthetic/val/scene 1/frame 5/right"
        assert not {"T_stereo", "depth"} & Synthetic(supp_idxs=1, use_depth=False)[0].keys()

    def test_modes_and_scene_seeds_share_no_scene(self) -> None:
        targets = [Synthetic(mode=mode, supp_idxs=None).load(0).target for mode in ("train", "val", "test")]
        targets.append(Synthetic(scene_seed=1, supp_idxs=None).load(0).target)
        for i, one in enumerate(targets):
            for other in targets[:i]:
                assert np.abs(one.astype(int) - other).mean() > 10

    def test_tensors_have_the_shapes_of_a_batch(self) -> None:
        dataset = DATASETS.create("synthetic", num_items=3, supp_idxs=[-1, 0, 1], use_aug=True, log_time=True)
        item = dataset[2]
        shapes = {key: tuple(value.shape) for key, value in item.items()}
        assert shapes == {
            "target": (3, 64, 192), "supports": (3, 3, 64, 192), "target_aug": (3, 64, 192),
            "supports_aug": (3, 3, 64, 192), "K": (3, 3), "T_stereo": (4, 4), "depth": (1, 64, 192),
            "Ts_true": (3, 4, 4), "index": (), "load_ms": (6,),
        }  # fmt: skip
        assert len(dataset) == 3
        assert dataset.check() == []

    def test_intrinsics_follow_size_and_focal(self) -> None:
        np.testing.assert_allclose(Synthetic().load(0).K, [[111.36, 0, 96], [0, 122.88, 32], [0, 0, 1]])
        wide = Synthetic(size=(128, 48), focal=(0.5, 1.5)).load(0)
        np.testing.assert_allclose(wide.K, [[64, 0, 64], [0, 72, 24], [0, 0, 1]])
        assert wide.depth.shape == (48, 128)


class TestStereo:
    @pytest.mark.parametrize(("index", "sign"), [(0, -1), (1, 1)])
    def test_signs_are_those_of_kitti(self, index: int, sign: int) -> None:
        """A left target has its partner 0.54 m to the right: points move to the left by that."""
        item = Synthetic(supp_idxs=0).load(index)
        assert item.T_stereo[0, 3] == sign * 0.1
        expected = np.eye(4)
        expected[0, 3] = sign * STEREO_BASELINE_M
        np.testing.assert_allclose(item.Ts_true[0], expected, atol=1e-9)
        np.testing.assert_allclose(item.T_stereo[0, 3] * METRES_PER_UNIT, item.Ts_true[0, 0, 3])

    def test_the_partner_of_the_left_image_is_the_right_image(self) -> None:
        left, right = Synthetic(supp_idxs=0, right_targets=False), Synthetic(supp_idxs=0)
        np.testing.assert_array_equal(left.load(1).supports[0], right.load(1).target)
        np.testing.assert_array_equal(left.load(1).target, right.load(1).supports[0])
        assert left.describe(1).endswith("left")


class TestMotion:
    def test_the_camera_drives_forward_at_the_given_pace(self) -> None:
        dataset = Synthetic(motion=0.8, rotation=0.0, right_targets=False, supp_idxs=1, size=(12, 4))
        steps = []
        for index in range(0, 800, 16):
            motions = dataset.load(index).Ts_true
            steps.append(-motions[0, 2, 3])  # the world comes nearer
        assert min(steps) >= 0.4
        assert max(steps) <= 1.2
        assert np.mean(steps) == pytest.approx(0.8, abs=0.1)

    def test_rotation_stays_within_its_limit(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            drive = Drive.draw(rng, 1.65, 0.8, rotation=2.0)
            forward = np.stack([drive.pose(frame)[:3, 2] for frame in range(60)])
            yaw = np.rad2deg(np.arctan2(forward[:, 0], forward[:, 2]))
            assert np.abs(yaw).max() <= 2.0
            assert np.ptp(yaw) > 0.5

    @pytest.mark.parametrize("kind", ["road", "corridor"])
    def test_clutter_is_how_much_stands_around(self, kind: Any) -> None:
        def boxes(clutter: float) -> int:
            dataset = Synthetic(scene=kind, clutter=clutter)
            return sum(len(dataset._scene(i).velocity) for i in range(12))

        assert boxes(0) < boxes(0.5) < boxes(1)

    def test_a_standing_camera_sees_the_same_picture_again(self) -> None:
        item = Synthetic(standing=True, supp_idxs=(-1, 1, 0)).load(4)
        np.testing.assert_array_equal(item.supports[0], item.target)
        np.testing.assert_array_equal(item.supports[1], item.target)
        assert (item.supports[2] != item.target).any()
        np.testing.assert_allclose(item.Ts_true[0], np.eye(4), atol=1e-12)

    def test_standing_is_the_share_of_such_drives(self) -> None:
        dataset = Synthetic(standing=0.3)
        share = np.mean([dataset._scene(i).drive.speed == 0 for i in range(60)])
        assert share == pytest.approx(0.3, abs=0.15)

    @pytest.mark.parametrize("kind", ["road", "corridor"])
    def test_moving_objects_change_a_part_of_a_still_view(self, kind: Any) -> None:
        dataset = Synthetic(scene=kind, standing=True, moving_objects=3, supp_idxs=1, num_items=80)
        changed = [(item.supports[0] != item.target).any(-1).mean() for item in map(dataset.load, range(3, 80, 8))]
        assert np.mean(np.array(changed) > 0) > 0.7
        assert np.median(changed) < 0.3

    def test_a_moving_box_carries_depth_and_texture_with_it(self) -> None:
        """10 m away and 0.5 m a frame to the right: fx / 20 pixels."""
        grey = (0.4, 0.4, 0.4)
        stage = Stage(Material(grey), Sky(grey, grey, grey, 2.0, 0.1, 0.0), Light((0.0, -1.0, 0.0), 0.6), FAR)
        shift = 8
        pace = shift * 10.0 / FX
        stage.add(Material(grey), -1.0, 11.0, (2.0, 4.0, 2.0), velocity=(pace, 0.0))
        still = Drive.draw(np.random.default_rng(0), 1.65, 0.0, 1.0)
        scene = Scene.finish(stage, still, seed=3)
        (before, z_before, _), (after, z_after, _) = (
            scene.render(frame, scene.view(frame, False, K, SIZE)) for frame in (0, 1)
        )
        front = np.isclose(z_before, 10.0)
        assert front.sum() > 500
        rows, columns = np.nonzero(front)
        np.testing.assert_allclose(z_after[rows, columns + shift], 10.0, rtol=1e-5)
        difference = np.abs(before[rows, columns].astype(int) - after[rows, columns + shift])
        assert difference.max() <= 2
        assert before[rows, columns].std() > 5


class TestDepthIsWorthLearning:
    def test_sky_has_depth_only_when_asked(self) -> None:
        without, with_sky = Synthetic(supp_idxs=None), Synthetic(supp_idxs=None, sky_depth=True)
        pairs = [(without.load(index).depth, with_sky.load(index).depth) for index in range(0, 48, 8)]
        a, b = (np.stack(maps) for maps in zip(*pairs, strict=True))
        assert (b > 0).all()
        assert (b[a == 0] > 80).all()
        np.testing.assert_array_equal(a[a > 0], b[a > 0])
        assert (a == 0).any((1, 2)).sum() >= 2

    @pytest.mark.parametrize("kind", ["road", "corridor"])
    def test_no_constant_depth_is_near_the_truth(self, kind: Any) -> None:
        dataset = Synthetic(scene=kind, mode="test", supp_idxs=None, size=(48, 16))
        depth = np.concatenate([np.ravel(dataset.load(index).depth) for index in range(0, 800, 13)])
        depth = depth[(depth > 0) & (depth < 80)]
        assert min(np.mean(np.abs(constant - depth) / depth) for constant in np.geomspace(2, 20, 40)) > 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scene": "raod"}, "dataset.scene: 'raod' .* Did you mean 'road'"),
        ({"num_items": 0}, "dataset.num_items must be at least 1, got 0"),
        ({"items_per_scene": 0}, "dataset.items_per_scene must be at least 1"),
        ({"scene_seed": -1}, "dataset.scene_seed must be at least 0"),
        ({"motion": -1.0}, "dataset.motion must be between 0 and 10, got -1"),
        ({"rotation": 30.0}, "dataset.rotation must be between 0 and 20"),
        ({"moving_objects": -1}, "dataset.moving_objects must be between 0 and 100"),
        ({"clutter": 3}, "dataset.clutter must be between 0 and 2, got 3"),
        ({"standing": 1.5}, "dataset.standing must be between 0 and 1, got 1.5"),
        ({"focal": (0.1, 1.9)}, "dataset.focal must be between 0.3 and 20"),
        ({"supp_idxs": (-6, 1)}, r"dataset.supp_idxs: \[-6\] are too far away: .* -5 to 5"),
        ({"size": (64, 192)}, r"dataset.size .* Did you mean \[192, 64\]"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Synthetic(**options)


def test_the_foreground_is_what_stands_about() -> None:
    assert "foreground" not in Synthetic()[0]
    shares = []
    for clutter in (0.0, 2.0):
        dataset = Synthetic(scene="corridor", clutter=clutter, use_foreground=True, sky_depth=True, num_items=24)
        items = [dataset[index] for index in range(0, 24, 3)]
        shares.append(float(torch.stack([item["foreground"] for item in items]).mean()))
    assert items[0]["foreground"].shape == items[0]["depth"].shape
    assert shares[0] < 0.02 < shares[1]


def test_the_foreground_by_hand() -> None:
    """A person's box, a house, and a kerb, side by side."""
    material = Material((0.5, 0.5, 0.5))
    dark = (0.1, 0.1, 0.1)
    stage = Stage(material, Sky(dark, dark, dark, 1.0, 0.1, 0.0), Light((0.0, -1.0, 0.0), 0.5), FAR)
    stage.add(material, 0.0, 10.0, (1.0, 1.8, 1.0))
    stage.add(material, -8.0, 20.0, (8.0, 6.0, 10.0))
    stage.add(material, 8.0, 20.0, (0.5, 1.0, 40.0))
    scene = Scene.finish(stage, Drive.draw(np.random.default_rng(0), 1.5, 0.0, 0.0), 0)
    view = scene.view(0, False, K, SIZE)
    marked, depth = scene.things(0, view), scene.render(0, view)[1]
    assert 0.5 < marked[32].sum() / (FX / 9.5) < 1.5
    assert (depth[marked] < 11).all()
    assert (depth[marked] > 9).all()


@pytest.mark.parametrize("index", [0, 1], ids=["left", "right"])
def test_hints_are_the_depth_of_what_the_partner_sees(index: int) -> None:
    item = Synthetic(supp_idxs=[0], use_hints=True, size=SIZE).load(index)
    known = item.hints > 0
    assert 0.5 < known.mean() < 1
    np.testing.assert_allclose(METRES_PER_UNIT * item.hints[known], item.depth[known])
    _, columns = np.nonzero((item.depth > 0) & ~known)  # in the image, but not in that of the partner
    u = columns + FX * item.T_stereo[0, 3] * METRES_PER_UNIT / item.depth[(item.depth > 0) & ~known]
    assert np.logical_or(u < 0, u > SIZE[0] - 1).all()


def test_frames_are_known_by_scene_and_frame_whatever_the_length_of_drives() -> None:
    short, long = (Synthetic(num_items=8, items_per_scene=n, supp_idxs=None) for n in (2, 4))
    found = compare(short.frames(), long.frames())
    assert (found.frames, found.drives, found.exact, found.shared_drives) == (8, 4, 4, 2)
    assert compare(short.frames([4, 5]), long.frames()).exact == 0  # of the third scene
    expected = {("left" in name, int(name.split()[1].split("/")[0]), int(name.split("frame ")[1].split("/")[0]))
                for name in map(long.describe, (7, 0, 2))}  # fmt: skip
    stored = {
        (bool(role & LEFT), int(drive.rpartition(" ")[2]), int(number))
        for drive, (numbers, roles) in long.frames([7, 0, 2]).drives.items()
        for number, role in zip(numbers, roles, strict=True)
    }
    assert stored == expected
    same = Synthetic(num_items=8, items_per_scene=4, focal=[0.58, 1.92], clutter=1, supp_idxs=None)  # type: ignore[arg-type]
    assert same.frames().digest() == long.frames().digest()  # lists and whole numbers, as YAML has them
    other = Synthetic(num_items=8, scene_seed=1, supp_idxs=None)
    assert compare(other.frames(), long.frames()).shared_drives == 0
