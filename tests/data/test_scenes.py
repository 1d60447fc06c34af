"""Items of one drive, clip or scene are known as such by their names."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.data.clips import frames
from trainer.data import DATASETS
from trainer.data.base import DepthDataset

NAMES = {
    ("kitti", "2011_09_26/2011_09_26_drive_0001_sync/image_02/0000000005"): "2011_09_26/2011_09_26_drive_0001_sync",
    ("kitti", "train.txt:7"): None,  # a bad line
    ("kitti_odom", "09/000005"): "09",
    ("folder", "holiday/beach/000005"): "holiday/beach",
    ("syns_patches", "03/images/17"): "03",
    ("synthetic", "synthetic/test/scene 3/frame 1/left"): "synthetic/test/scene 3",
}


@pytest.mark.parametrize(("type_name", "name"), NAMES)
def test_scenes_by_name(type_name: str, name: str) -> None:
    assert cast("type[DepthDataset]", DATASETS.get(type_name)).scene_in(name) == NAMES[type_name, name]


def test_scenes_of_made_drives() -> None:
    dataset: Any = DATASETS.create("synthetic", mode="test", num_items=4, items_per_scene=2, size=(32, 16))
    assert [dataset.scene_of(i) for i in range(4)] == [f"synthetic/test/scene {i}" for i in (0, 0, 1, 1)]


def test_scenes_of_a_mixture_name_their_data_set(tmp_path) -> None:
    for name in "ab":
        frames(tmp_path / name, range(4))
    clips = {name: {"type": "folder", "path": str(tmp_path / name), "val_every": 0} for name in "ab"}
    dataset: Any = DATASETS.create("mixed", datasets=clips, size=(20, 10))
    scenes = {dataset.scene_of(i) for i in range(len(dataset))}
    assert len(scenes) == 2
    assert {scene.partition(": ")[0] for scene in scenes} == {"a", "b"}
