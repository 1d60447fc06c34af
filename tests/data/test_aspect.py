"""Batches of random shape: sizes fit the networks, K follows crop and resize, everything in a batch is treated."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Config, ConfigError, load_config
from trainer.data.aspect import RATIOS, AspectRatios, reshaped, size_of
from trainer.data.loaders import collate
from trainer.data.synthetic import Synthetic
from trainer.geometry import ViewSynthesis
from trainer.predict.predictor import input_size
from trainer.runtime.errors import UserError
from trainer.training.loop import Loop
from trainer.training.validation import overview
from trainer.types import StepOutput

LOADED = [(1280, 720), (1242, 376), (1920, 1080)]
AREA = 640 * 384


def batch_of(width: int, height: int, **more: Tensor) -> dict[str, Tensor]:
    """Two images whose red is x and whose green is y, in pixels."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    image = torch.stack([x, y, x * 0]).expand(2, 3, height, width)
    K = torch.tensor([[50.0, 0, 60], [0, 40, 20], [0, 0, 1]]).expand(2, 3, 3)
    return {"target": image, "supports": image[:, None].expand(2, 2, 3, height, width), "K": K, **more}


@pytest.mark.parametrize("size", LOADED)
def test_sizes_are_multiples_of_32_near_the_reference_area(size: tuple[int, int]) -> None:
    aspect, rng = AspectRatios(), np.random.default_rng(0)
    crops = [aspect.draw(rng, size) for _ in range(300)]
    assert 0.6 < np.mean([crop is not None for crop in crops]) < 0.8
    shapes = set()
    for crop in filter(None, crops):
        assert any(int(0.5 * side) <= length < side for side, length in zip(size, crop, strict=True))
        assert all(0 < length <= side for side, length in zip(size, crop, strict=True))
        width, height = aspect.fitted(crop, 0.8)
        assert width % 32 == height % 32 == 0
        assert min(width, height) >= 64
        assert 0.55 * AREA <= width * height <= 0.8 * AREA
        assert abs(math.log(width / height * crop[1] / crop[0])) < 0.25  # the shape of the crop, to 32 pixels
        shapes.add((width, height))
    assert len(shapes) > 10
    width, height = aspect.fitted(size)
    assert 0.8 * AREA <= width * height <= AREA


def test_an_extreme_shape_keeps_64_pixels() -> None:
    assert AspectRatios(ref_size=(64, 64)).fitted((3000, 10)) == (64, 64)
    assert AspectRatios(ref_size=(96, 64)).fitted((100, 400), 0.8) == (64, 64)


def test_a_ratio_that_does_not_fit_takes_the_largest_crop() -> None:
    aspect = AspectRatios(prob=1, min=0.99, max=0.99)
    crops = {aspect.draw(np.random.default_rng(i), (100, 100)) for i in range(200)}
    for width, height in filter(None, crops):
        assert max(width, height) in (99, 100)
        assert min(abs(width / height / ratio - 1) for ratio in RATIOS) < 0.05


def test_the_draw_is_a_function_of_the_position() -> None:
    batch = batch_of(160, 96)
    aspect = AspectRatios(ref_size=(192, 128))

    def shapes(seed: int) -> list[tuple[int, int]]:
        return [size_of(aspect(batch, seed, 0, step, 0)) for step in range(12)]

    first = shapes(1)
    torch.manual_seed(5)
    assert shapes(1) == first != shapes(2)
    assert len(set(first)) > 3


def test_all_processes_draw_alike_and_a_continued_run_goes_on() -> None:
    def shape(rank: int, step: int, number: int) -> tuple[int, int]:
        loop: Any = SimpleNamespace(
            accelerator=SimpleNamespace(device="cpu", process_index=rank),
            settings=SimpleNamespace(seed=3, aspect=AspectRatios(ref_size=(192, 128))),
            state=SimpleNamespace(position=SimpleNamespace(step=step)),
        )
        loop.shaped = lambda *args: Loop.shaped(loop, *args)
        return size_of(Loop.move(loop, batch_of(160, 96), number))

    steps = [(step, number) for step in range(4) for number in range(2)]
    assert [shape(0, *step) for step in steps] == [shape(1, *step) for step in steps]
    assert len({shape(0, *step) for step in steps}) > 2


def test_a_crop_is_exact_and_K_moves_with_it() -> None:
    batch = batch_of(128, 96)
    cropped = reshaped(batch, (65, 40), (65, 40))
    assert cropped["target"][0, :2, 0, 0].tolist() == [31, 28]  # (128 - 65) // 2, (96 - 40) // 2
    assert torch.equal(cropped["target"], batch["target"][..., 28:68, 31:96])
    assert cropped["K"][0].tolist() == [[50, 0, 60 - 31], [0, 40, 20 - 28], [0, 0, 1]]
    halved = reshaped(batch, (64, 48), (32, 96))
    assert halved["supports"].shape == (2, 2, 3, 96, 32)
    assert halved["K"][1].tolist() == [[25, 0, (60 - 32) / 2], [0, 80, (20 - 24) * 2], [0, 0, 1]]
    assert batch["K"][0, 0, 2] == 60
    same = reshaped(batch, (128, 96), (128, 96))
    assert all(same[key] is batch[key] for key in batch)


def test_everything_in_a_batch_is_treated() -> None:
    depth = torch.arange(64.0 * 48).view(1, 1, 48, 64).expand(2, 1, 48, 64)  # half the resolution of the images
    pseudo = torch.full((2, 1, 96, 128), 2.0)
    pseudo[..., :60] = 0
    K_depth = torch.tensor([[25.0, 0, 32], [0, 20, 24], [0, 0, 1]]).expand(2, 3, 3)
    rest = {"Ts_true": torch.eye(4).expand(2, 2, 4, 4), "index": torch.tensor([3, 4])}
    batch = batch_of(128, 96, depth=depth, edges=depth, pseudo=pseudo, K_depth=K_depth, **rest)
    batch["target_aug"], batch["supports_aug"] = batch["target"], batch["supports"]
    out = reshaped(batch, (64, 48), (128, 96))
    assert out["target_aug"].shape == (2, 3, 96, 128)
    assert torch.equal(out["supports_aug"], out["supports"])
    assert torch.equal(out["depth"], depth[..., 12:36, 16:48])  # the same field of view, as it was measured
    assert torch.equal(out["edges"], out["depth"])
    assert out["K_depth"][0].tolist() == [[25, 0, 16], [0, 20, 12], [0, 0, 1]]
    assert set(out["pseudo"].unique().tolist()) == {0, 2}  # no mean of something and nothing
    assert float((out["pseudo"] == 0).float().mean()) == pytest.approx((60 - 32) / 64, abs=0.01)
    assert all(out[key] is value for key, value in rest.items())
    alone = reshaped({**batch, "supports": batch["supports"][:, :0]}, (64, 48), (128, 96))
    assert alone["supports"].shape == (2, 0, 3, 96, 128)


@pytest.mark.parametrize("key", ["depth_hints", "normals"])
def test_what_cannot_be_resized_is_refused(key: str) -> None:
    batch = batch_of(128, 96, **{key: torch.ones(2, 1, 96, 128)})
    with pytest.raises(UserError, match=f"aspect_ratio cannot resize '{key}'"):
        AspectRatios()(batch, 0)


def warped_error(batch: dict[str, Tensor], K: Tensor) -> float:
    """Mean difference of the target and its support, warped by true depth and motion."""
    height, width = batch["target"].shape[-2:]
    depth = F.interpolate(batch["depth"], (height, width), mode="nearest-exact")
    view = ViewSynthesis(K, (height, width)).view(batch["supports"][:, 0], depth, batch["Ts_true"][:, 0])
    return float((view.image - batch["target"]).abs().mean(1, keepdim=True)[view.valid & (depth > 0)].mean())


def test_the_true_motion_still_explains_the_supports_whatever_the_principal_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Measured: 0.0054 as loaded, 0.0050 cropped and resized; 0.026 with cx and cy scaled by the share of the crop."""
    dataset = Synthetic(scene="corridor", supp_idxs=[1], mode="val", sky_depth=True, num_items=8)
    monkeypatch.setattr(Synthetic, "_K", dataset._K + np.array([[0, 0, 45], [0, 0, -14], [0, 0, 0]]))
    batch = collate([dataset[i] for i in range(0, 8, 2)])
    batch = {key: value.float() for key, value in batch.items()}
    crop, size = (120, 50), (160, 96)
    out = reshaped(batch, crop, size)
    assert warped_error(out, out["K"]) < 1.2 * warped_error(batch, batch["K"])
    scaled = batch["K"].clone()
    scaled[:, 0, 2] *= crop[0] / 192 * size[0] / crop[0]
    scaled[:, 1, 2] *= crop[1] / 64 * size[1] / crop[1]
    scaled[:, 0, 0], scaled[:, 1, 1] = out["K"][:, 0, 0], out["K"][:, 1, 1]
    assert warped_error(out, scaled) > 2 * warped_error(out, out["K"])


class Sized(torch.nn.Module):
    """Remembers the sizes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def predict_only(self, batch: dict[str, Tensor]) -> StepOutput:
        self.sizes.append(size_of(batch))
        maps = torch.rand(1, 1, *batch["target"].shape[-2:])
        return StepOutput(maps.sum(), {}, {"disp": {0: maps}, "depth": {0: 1 / maps}})


def test_items_are_shown_whole_at_a_size_for_networks() -> None:
    objective, dataset = Sized(), Synthetic(size=(160, 90), supp_idxs=None, num_items=4)
    loader = SimpleNamespace(dataset=dataset, batch_sampler=SimpleNamespace(num_items=4))
    accelerator = SimpleNamespace(device="cpu", process_index=0, autocast=nullcontext)
    aspect = AspectRatios(ref_size=(192, 128))
    rows = overview(objective, loader, accelerator, 0, 0.1, 100, prepare=aspect.whole)
    assert len(rows) == 4
    assert set(objective.sizes) == {(192, 96)}


def settings(*overrides: str) -> Config:
    return load_config("default", overrides=["trainer.aspect_ratio=true", *overrides])


def test_images_are_loaded_at_any_size_to_be_cropped_and_predicted_at_one() -> None:
    cfg = settings("dataset.train.size=[1241,376]")
    assert cfg.warnings == ()
    assert input_size(cfg) == (640, 384)
    odd = settings("trainer.benchmark=true", "trainer.compile={dynamic: false}")
    assert [warning.partition(":")[0] for warning in odd.warnings] == ["trainer.benchmark", "trainer.compile.dynamic"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("dataset.val.size=[1241,376]", "a size that is loaded for trainer.aspect_ratio belongs below train"),
        ("trainer.aspect_ratio={min: 0.8, max: 0.6}", "trainer.aspect_ratio.min: 0.8 is above max, 0.6"),
        ("dataset.train.use_hints=true", "trainer.aspect_ratio: depth hints cannot be cropped and resized"),
        ("trainer.aspect_ratio.ref_size=[384]", "trainer.aspect_ratio.ref_size: expected"),
        ("trainer.aspect_ratio.ref_size=[640,360]", "must be multiples of 32; got [640, 360]"),
        ("trainer.aspect_ratio.prob=2", "trainer.aspect_ratio.prob: expected a number"),
    ],
)
def test_settings_that_make_no_sense_are_named(change: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings(change)
    assert told in str(error.value)
