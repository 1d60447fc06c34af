"""Several views of an item in one step: each has its camera, all share the motion, and depths agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.fakes import FakeDepth, make_batch, make_losses, make_objective
from tests.losses.scenes import SIZE
from trainer.data.synthetic import Synthetic
from trainer.geometry import depth_to_disp
from trainer.losses import LOSSES
from trainer.objective.views import network_input, permuted, scene_parts, view_names

VIEWS = {"high": [1.3, 2.0], "low": [0.7, 0.9], "crop": [1.3, 2.0], "permute": [0.2, 0.8]}
RANGE = {"min_depth": 0.5, "max_depth": 500.0}  # metres, as `Ts_true`


def with_views(batch, high=(2.0, 3, 1), low=0.75, crop=(1.5, 4, 2), cut=(5, 3)):
    """Add random pictures as views of a batch, each at a place of its own; a view that is None is left out."""
    b, batch = len(batch["target"]), dict(batch)
    low = None if low is None else (low, 0, 0)
    for name, view in {"high": high, "low": low, "crop": crop}.items():
        if view is not None:
            zoom, x, y = view
            batch[f"view_{name}_target"] = torch.rand_like(batch["target"])
            batch[f"view_{name}_supports"] = torch.rand_like(batch["supports"])
            batch[f"view_{name}_A"] = torch.tensor([[zoom, 0, -x], [0, zoom, -y], [0, 0, 1.0]]).repeat(b, 1, 1)
    if crop is not None:
        batch["view_crop_depth_factor"] = torch.full((b,), crop[0])
    if cut is not None:
        batch["view_permute_cut"] = torch.tensor([cut]).repeat(b, 1)
    return batch


def with_consistency(**kwargs):
    return make_losses(use_min=True, use_automask=True) | {
        "view_consistency": LOSSES.create("view_consistency", **kwargs)
    }


class TrueDepth(FakeDepth):
    """Answers with disparities that are handed to it, one call after another."""

    def __init__(self, *answers):
        super().__init__(scales=(0,))
        self.answers = list(answers)

    def forward(self, images):
        return {"disp": {0: self.answers.pop(0) + 0 * self.head.weight.sum()}}


@pytest.fixture(scope="module")
def drive():
    """A batch of a drive with true motion, its depth in metres as disparity, and that of each view."""
    options = {"num_items": 8, "supp_idxs": (-1, 1), "sky_depth": True, "clutter": 0.0, "right_targets": False}
    dataset = Synthetic(size=(128, 64), views=VIEWS, **options)
    items = [dataset[i] for i in (1, 6)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    disp = {"": depth_to_disp(batch["depth"], **RANGE)}
    for name in ("high", "low", "crop"):
        maps = []
        for i, item in zip((1, 6), items, strict=True):
            A = item[f"view_{name}_A"]
            w, h = round(float(A[0, 0]) * 128), round(float(A[1, 1]) * 64)
            x, y = (-A[:2, 2]).int().tolist()
            zoomed = Synthetic(size=(w, h), **options)[i]["depth"]
            columns, rows = torch.arange(128) + x, torch.arange(64) + y
            columns, rows = columns - (columns >= w) * (128 - w), rows - (rows >= h) * (64 - h)
            maps.append(zoomed[:, rows][:, :, columns] / (A[0, 0] if name == "crop" else 1))
        disp[name] = depth_to_disp(torch.stack(maps), **RANGE)
    return batch, disp


def scenes(batch, disp):
    """The plain scene and those of the views, with true depth and true motion."""
    cut = batch["view_permute_cut"]
    answers = {**disp, "permute": permuted(disp[""], cut)}
    objective = make_objective(depth=TrueDepth(), **RANGE)
    predictions = {"disp": {0: disp[""]}, "Ts": batch["Ts_true"]}
    plain = objective._scene(batch, predictions)
    plain.others = {
        name: objective._scene(*scene_parts(batch, predictions, name, {"disp": {0: answers[name]}}))
        for name in view_names(batch, {})
    }
    return plain


def photometric(scene):
    """The mean error of the better support, where the view shows the picture (the rest of `low` are repetitions)."""
    errors = torch.stack([(scene.warp(0, i) - scene.target).abs().mean(1) for i in range(2)]).amin(0)
    if scene.A is None:
        return errors.mean()
    w, h = ((scene.A[:, axis, axis] * side).round() for axis, side in enumerate((128, 64)))
    real = (torch.arange(128) < w[:, None])[:, None, :] & (torch.arange(64) < h[:, None])[:, :, None]
    return errors[real].mean()


def test_with_its_own_camera_every_view_is_explained_as_well_as_the_plain_one(drive):
    """And with the camera of the plain view it is not."""
    batch, disp = drive
    plain = scenes(batch, disp)
    assert list(plain.others) == ["crop", "high", "low", "permute"]
    best = photometric(plain)
    for name, scene in plain.others.items():
        assert photometric(scene) < 1.4 * best, name  # 0.97, 1.05 and 1.29 times as much
        if name != "permute":
            wrong = scenes(batch, disp).others[name]
            wrong.K = batch["K"]
            assert photometric(wrong) > 1.3 * photometric(scene), name


def test_true_disparities_of_all_views_are_consistent(drive):
    batch, disp = drive
    plain = scenes(batch, disp)
    for loss_name, other in (("ssim", "low"), ("silog", "high")):
        loss = LOSSES.create("view_consistency", loss_name=loss_name)
        consistent = loss(plain)[0]
        shifted = scenes(batch, disp | {other: disp[other].roll(8, -1)})
        assert 0 <= consistent < 0.1 * loss(shifted)[0]


def test_a_permuted_input_is_put_back_bit_by_bit():
    """A network that looks at blocks of 2 x 2 pixels alone says the same of the permuted picture."""

    class Pointwise(FakeDepth):
        def __init__(self):
            super().__init__(scales=(0, 1))
            self.head = nn.Conv2d(3, 5, 1)

    objective = make_objective(depth=Pointwise(), losses=with_consistency(loss_name="silog"))
    batch = with_views(make_batch(), high=None, low=None, crop=None, cut=(5, 3))
    out = objective(batch)
    assert out.losses["view_consistency"] == 0
    assert out.losses["permute_img_recon"] == out.losses["img_recon"]
    assert out.losses["permute_disp_smooth"] == out.losses["disp_smooth"]
    seen = objective.networks["depth"].seen  # columns 6 .. 15, 0 .. 5: 5 is moved to a multiple of the largest stride
    rows = torch.cat([batch["target"][:, :, 4:], batch["target"][:, :, :4]], 2)
    assert torch.equal(seen, torch.cat([rows[..., 6:], rows[..., :6]], 3))


def test_permuting_by_hand():
    x = torch.arange(12).view(1, 1, 3, 4)
    cut = torch.tensor([[1, 2]])
    assert permuted(x, cut)[0, 0].tolist() == [[9, 10, 11, 8], [1, 2, 3, 0], [5, 6, 7, 4]]
    assert torch.equal(permuted(permuted(x, cut), -cut), x)


def test_which_pictures_the_network_sees_and_the_motion_of_the_plain_view():
    batch = with_views(make_batch()) | {
        "target_aug": torch.rand(2, 3, *SIZE),
        "view_crop_target_aug": torch.rand(2, 3, *SIZE),
    }
    assert torch.equal(network_input(batch, "high", [0]), batch["view_high_target"])
    assert torch.equal(network_input(batch, "low", [0]), batch["view_low_target"])
    assert torch.equal(network_input(batch, "crop", [0]), batch["view_crop_target_aug"])
    assert torch.equal(network_input(batch, "permute", [0]), permuted(batch["target_aug"], batch["view_permute_cut"]))
    objective = make_objective(losses=with_consistency())
    objective(batch)
    assert len(objective.networks["pose"].calls) == 1


def test_a_loss_is_the_mean_over_the_views():
    objective = make_objective(losses=with_consistency(use_automask=True))
    batch = with_views(make_batch())
    plain = objective.eval()(batch).losses
    out = objective.train()(batch)
    for key in ("img_recon", "disp_smooth"):
        values = [
            plain[key].detach(),
            *(out.losses[f"{name}_{key}"].detach() for name in ("high", "low", "crop", "permute")),
        ]
        assert torch.allclose(out.losses[key], torch.stack(values).mean())
        assert len({float(value) for value in values}) == 5
    total = out.losses["img_recon"] + 0.1 * out.losses["disp_smooth"] + out.losses["view_consistency"]
    assert torch.allclose(out.loss, total)
    out.loss.backward()
    assert objective.networks["depth"].head.weight.grad.isfinite().all()


def test_without_views_and_in_evaluation_a_step_is_what_it_was():
    batch = make_batch()
    plain = make_objective()(batch)
    objective = make_objective(losses=with_consistency() | make_losses())
    seen = objective.eval()(with_views(batch))
    assert seen.losses.keys() == plain.losses.keys()
    assert all(torch.equal(seen.losses[key], value) for key, value in plain.losses.items())
    assert torch.equal(seen.loss, plain.loss)
    with pytest.raises(
        ValueError, match=r"'view_consistency' needs several views of each item: set dataset.train.views"
    ):
        objective.train()(batch)


def test_the_mask_is_known_whatever_the_order_of_the_losses():
    losses = dict(reversed(with_consistency(use_automask=True).items()))
    objective = make_objective(losses=losses)
    assert list(objective.losses)[-1] == "view_consistency"
    assert objective(with_views(make_batch())).losses["view_consistency"] > 0


def test_a_view_with_a_camera_that_is_not_finite_makes_the_step_nan():
    batch = with_views(make_batch())
    batch["view_high_A"][0, 0, 0] = torch.nan
    assert make_objective(losses=with_consistency())(batch).loss.isnan()


def test_learned_intrinsics_serve_the_views():
    batch = with_views(make_batch())
    predictions = {"disp": {0: torch.rand(2, 1, *SIZE)}, "K": 2 * batch["K"]}
    _, high, apart = scene_parts(batch, predictions, "high", {"disp": predictions["disp"]})
    assert torch.allclose(high["K"], batch["view_high_A"] @ (2 * batch["K"]))
    assert apart["A"] is batch["view_high_A"]


def test_a_mask_of_the_network_is_put_back_like_the_disparity():
    batch = with_views(make_batch())
    mask = {0: F.pad(torch.ones(2, 2, 1, 1), (0, 15, 0, 7))}  # 1 at the first pixel
    _, back, _ = scene_parts(batch, {}, "permute", {"disp": {0: torch.rand(2, 1, *SIZE)}, "mask": mask})
    assert back["mask"][0][0, 0].nonzero().tolist() == [[3, 5]]
