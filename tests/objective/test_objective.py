"""The objective: networks, scene and losses give the values they should."""

from __future__ import annotations

import pytest
import torch

from tests.fakes import FakeDepth, FakePose, make_batch, make_losses, make_objective
from tests.losses.scenes import SIZE
from trainer.geometry import invert_pose, pose_matrix
from trainer.geometry.scene import Scene
from trainer.losses import LOSSES
from trainer.objective import Objective


def test_weights_by_epoch_hold_from_their_epoch_on():
    losses = {name: LOSSES.create(name) for name in ("disp_smooth", "disp_occ")}
    objective = Objective({"depth": FakeDepth()}, losses, {"disp_smooth": {0: 0.9, 15: 0.95}, "disp_occ": 2.0})
    seen = []
    for epoch in (0, 14, 15, 99, 3):  # a run that goes on may begin anywhere
        objective.set_epoch(epoch)
        assert objective.weights["disp_occ"] == 2.0
        seen.append(objective.weights["disp_smooth"])
    assert seen == [0.9, 0.9, 0.95, 0.95, 0.9]
    with pytest.raises(ValueError, match="weights of 'disp_smooth' begin with epoch 1, not 0"):
        Objective({"depth": FakeDepth()}, losses, {"disp_smooth": {1: 0.9}})


def test_the_loss_is_the_weighted_sum_of_unweighted_values():
    supp_idxs = (-1, 0)
    objective = make_objective(supp_idxs, depth=FakeDepth(use_virtual_stereo=True))
    losses = objective(make_batch(2, supp_idxs)).losses
    assert set(losses) == {"img_recon", "stereo_img_recon", "disp_smooth", "stereo_disp_smooth"}
    total = objective(make_batch(2, supp_idxs)).loss.item()
    expected = losses["img_recon"] + losses["stereo_img_recon"]
    expected += 0.1 * (losses["disp_smooth"] + losses["stereo_disp_smooth"])
    assert total == pytest.approx(expected.item())


def test_the_stereo_terms_are_those_of_the_twin():
    objective = make_objective((0,), pose=False, depth=FakeDepth(use_virtual_stereo=True))
    batch = make_batch(2, (0,))
    out = objective(batch)
    both = objective.networks["depth"](batch["target"])["disp_stereo"]
    chosen = {s: torch.stack([m[0, :1], m[1, 1:]]) for s, m in both.items()}  # T_stereo -0.1, then +0.1
    twin = Scene(
        batch["supports"][:, 0], batch["target"][:, None], batch["K"],
        invert_pose(batch["T_stereo"])[:, None], chosen, supp_idxs=(0,),
    )  # fmt: skip
    for key, loss in objective.losses.items():
        assert torch.equal(out.losses[f"stereo_{key}"], loss(twin)[0])
    assert all(torch.equal(out.predictions["disp_stereo"][s], chosen[s]) for s in (0, 1))


@pytest.mark.parametrize("supp_idxs", [(-1, 1), (1, -1), (0, -1, 1), (-1, 0, 1), (-1, 1, 0), (-2, 0, 3), (0,)])
def test_every_support_gets_its_own_motion_whatever_the_order(supp_idxs):
    objective, batch = make_objective(supp_idxs), make_batch(2, supp_idxs)
    Ts = objective.predict(batch)["Ts"]
    assert Ts.shape == (2, len(supp_idxs), 4, 4)
    for i, offset in enumerate(supp_idxs):
        if offset == 0:
            assert torch.equal(Ts[:, i], batch["T_stereo"])
            continue
        pair = [batch["target"], batch["supports"][:, i]]
        out = objective.networks["pose"](torch.cat(pair if offset > 0 else pair[::-1], 1))
        motion = pose_matrix(out["R"][:, 0], out["t"][:, 0])
        assert torch.allclose(Ts[:, i], motion if offset > 0 else invert_pose(motion), atol=1e-7)


def test_all_pairs_go_through_the_pose_network_at_once_pair_by_pair():
    supp_idxs = (-1, 0, 2)
    objective, batch = make_objective(supp_idxs), make_batch(2, supp_idxs)
    predictions = objective.predict(batch)
    (pairs,) = objective.networks["pose"].calls
    assert torch.equal(pairs[:2], torch.cat([batch["supports"][:, 0], batch["target"]], 1))
    assert torch.equal(pairs[2:], torch.cat([batch["target"], batch["supports"][:, 2]], 1))
    assert predictions["R"].shape == predictions["t"].shape == (2, 2, 3)


def test_a_pose_network_is_not_asked_about_stereo_alone():
    objective = make_objective((0,))
    objective(make_batch(2, (0,)))
    assert not objective.networks["pose"].calls


def test_networks_see_augmented_images_and_losses_the_clean_ones():
    objective, batch = make_objective(), make_batch()
    plain = objective(batch)
    batch |= {"target_aug": batch["target"] ** 2, "supports_aug": batch["supports"] ** 2}
    augmented = objective(batch)
    assert objective.networks["depth"].seen is batch["target_aug"]
    assert torch.equal(objective.networks["pose"].calls[-1][2:, :3], batch["target_aug"])
    assert torch.equal(augmented.images["imgs/target"], plain.images["imgs/target"])
    assert not torch.equal(augmented.predictions["disp"][0], plain.predictions["disp"][0])


def test_depth_follows_the_bounds():
    depth = make_objective(min_depth=2.0, max_depth=3.0)(make_batch()).predictions["depth"][0]
    assert depth.shape == (2, 1, *SIZE)
    assert 2 <= depth.min() <= depth.max() <= 3


def test_prediction_alone_needs_no_supports():
    objective = make_objective()
    images = torch.rand(2, 3, *SIZE)
    predictions = objective.predict({"target": images})
    assert "Ts" not in predictions
    disp = objective.predict_disp(images)
    assert list(disp) == [0, 1]
    assert torch.equal(disp[0], predictions["disp"][0])
    assert torch.allclose(objective.predict_depth(images), 1 / (disp[0] * (10 - 0.01) + 0.01))


def test_smoothness_alone_needs_no_supports():
    objective = make_objective((), pose=False, losses={"disp_smooth": LOSSES.create("disp_smooth")})
    assert objective(make_batch(2, ())).loss > 0


def test_masks_reach_the_loss():
    depth = FakeDepth(mask_name="explainability")
    objective = make_objective(losses=make_losses(mask_name="explainability"), depth=depth)
    out = objective(make_batch())
    out.loss.backward()
    assert out.predictions["mask"][1].shape == (2, 2, 4, 8)
    assert (depth.head.weight.grad[3:] != 0).any()
    assert {"masks/mask_0_0", "masks/mask_0_1"} <= set(out.images)


def test_the_virtual_view_of_a_masked_network_is_unmasked():
    masked = FakeDepth(mask_name="explainability", use_virtual_stereo=True)
    plain = FakeDepth(use_virtual_stereo=True)
    plain.load_state_dict(masked.state_dict())
    batch = make_batch(2, (-1, 0))
    with_mask = make_objective((-1, 0), losses=make_losses(mask_name="explainability"), depth=masked)(batch).losses
    without = make_objective((-1, 0), depth=plain)(batch).losses
    assert torch.equal(with_mask["stereo_img_recon"], without["stereo_img_recon"])
    assert with_mask["img_recon"] < without["img_recon"]


@pytest.mark.parametrize("kind", ["uint8", "ndarray"])
def test_depth_is_predicted_of_float_tensors_alone(kind):
    """Bytes would be taken for floats of 0 to 255, 255 times too bright."""
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(TypeError, match=rf"float tensor \(b, 3, h, w\) of RGB in \[0, 1\], not .*{kind}.*/ 255"):
        make_objective().predict_depth(images if kind == "uint8" else images.numpy())


def test_depth_has_no_graph_and_disparity_has():
    objective, images = make_objective(), make_batch(2)["target"]
    assert not objective.predict_depth(images).requires_grad
    assert objective.predict_disp(images)[0].requires_grad


class LearningPose(FakePose):
    """Focal length = brightness of the first image + 0.1, in widths and, twice as much, in heights."""

    learn_K = True

    def forward(self, pairs):
        focal = (self.gain + pairs[:, :3].mean((1, 2, 3)))[:, None] * torch.tensor([1.0, 2.0])
        return {**super().forward(pairs), "focal": focal, "centre": torch.full_like(focal, 0.5)}


def learning(supp_idxs):
    given = make_objective(supp_idxs)
    return Objective(
        {"depth": given.networks["depth"], "pose": LearningPose()}, make_losses(), {"disp_smooth": 0.1}, supp_idxs
    )


@pytest.mark.parametrize("supp_idxs", [(-1, 1), (1, -1), (0, -1, 1), (2, 0)])
def test_the_camera_of_the_first_pair_serves_all_supports_and_losses(supp_idxs):
    objective, batch = learning(supp_idxs), make_batch(2, supp_idxs)
    first = next(i for i, offset in enumerate(supp_idxs) if offset)
    earlier = batch["supports"][:, first] if supp_idxs[first] < 0 else batch["target"]
    fx = (0.1 + earlier.mean((1, 2, 3))) * SIZE[1]
    out = objective(batch)
    K = out.predictions["K"]
    assert torch.allclose(K[:, 0, 0], fx)
    assert torch.allclose(K[:, 1, 1], 2 * fx * SIZE[0] / SIZE[1])
    assert K[0, :2, 2].tolist() == [SIZE[1] / 2, SIZE[0] / 2]
    assert out.predictions["focal"].shape == (2, sum(map(bool, supp_idxs)), 2)
    fixed = make_objective(supp_idxs, depth=objective.networks["depth"], losses=make_losses())
    assert torch.equal(out.loss, fixed({**batch, "K": K}).loss)
    assert not torch.equal(out.loss, fixed(batch).loss)
    del batch["K"]
    assert torch.equal(objective(batch).loss, out.loss)
    out.loss.backward()
    assert objective.networks["pose"].gain.grad != 0


def test_one_learned_focal_length_keeps_centre_and_pixels_of_the_data():
    class OneLength(LearningPose):
        learn_K = "focal"

        def forward(self, pairs):
            out = super().forward(pairs)
            return {"R": out["R"], "t": out["t"], "focal": out["focal"][:, :1]}

    supp_idxs = (-1, 1)
    given, batch = make_objective(supp_idxs), make_batch(2, supp_idxs)
    batch["K"] = torch.tensor([[[30.0, 0, 20], [0, 45, 10], [0, 0, 1]], [[50.0, 0, 30], [0, 25, 12], [0, 0, 1]]])
    objective = Objective(
        {"depth": given.networks["depth"], "pose": OneLength()}, make_losses(), {"disp_smooth": 0.1}, supp_idxs
    )
    fx = (0.1 + batch["supports"][:, 0].mean((1, 2, 3))) * SIZE[1]
    out = objective(batch)
    K = out.predictions["K"]
    assert torch.allclose(K[:, 0, 0], fx)
    assert torch.allclose(K[:, 1, 1], fx * torch.tensor([1.5, 0.5]))
    assert torch.allclose(K[:, :2, 2], batch["K"][:, :2, 2])
    assert out.predictions["focal"].shape == out.predictions["centre"].shape == (2, 2, 2)
    del batch["K"]
    with pytest.raises(ValueError, match="the batch has no 'K'"):
        objective(batch)


def test_a_camera_is_not_learned_from_stereo_alone():
    with pytest.raises(ValueError, match=r"net.pose.learn_K: a camera is learned from supports in time"):
        learning((0,))
