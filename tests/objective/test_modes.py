"""The objective under autocast, without gradient, in another layout; and its pictures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.fakes import FakeAutoencoder, FakeDepth, FakePose, make_batch, make_losses, make_objective
from tests.losses.scenes import SIZE
from trainer.objective import Objective


@pytest.mark.parametrize("training", [True, False])
def test_train_eval_and_no_grad_agree(training):
    objective, batch = make_objective().train(training), make_batch()
    loss = objective(batch).loss
    assert loss.requires_grad
    with torch.no_grad():
        assert torch.equal(objective(batch).loss, loss)
    with torch.inference_mode():
        assert torch.equal(objective(batch).loss, loss)


def test_every_parameter_learns():
    objective = make_objective((-1, 1, 0), depth=FakeDepth(use_virtual_stereo=True, n_mask=0))
    objective(make_batch(2, (-1, 1, 0))).loss.backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_from_disparity_on_everything_is_float32_under_autocast():
    seen = []

    class Spy(nn.Module):
        needs, on_twin = frozenset({"supports"}), True

        def forward(self, scene):
            seen.extend([scene.target, *scene.disp.values(), scene.Ts, scene.depth(1), scene.warp(1, 0)])
            seen.append(scene.target[0, 0] @ scene.target[0, 0].T)  # autocast would make this bfloat16
            return scene.warp(0, 0).mean(), {}

    objective = make_objective(
        (-1, 0), losses={**make_losses(), "spy": Spy()}, depth=FakeDepth(use_virtual_stereo=True)
    )
    batch = make_batch(2, (-1, 0))
    with torch.autocast("cpu", torch.bfloat16):
        out = objective(batch)
    assert objective.networks["depth"](batch["target"])["disp"][0].dtype == torch.float32
    assert out.predictions["depth_feats"][0].dtype == torch.bfloat16  # the networks themselves did run in 16 bit
    assert {tensor.dtype for tensor in seen} == {torch.float32}
    assert {value.dtype for value in (out.loss, *out.losses.values())} == {torch.float32}


def test_autocast_changes_nothing_but_the_networks():
    class Constant(FakeDepth):
        def forward(self, images):
            gain = self.head.bias[0]
            return {"disp": {s: torch.full((2, 1, 8 >> s, 16 >> s), 0.1) + gain.abs() for s in self.scales}}

    objective, batch = make_objective(depth=Constant()), make_batch()
    plain = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        cast = objective(batch)
        cast.loss.backward()
    assert torch.equal(plain.loss, cast.loss)
    gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
    objective.zero_grad()
    plain.loss.backward()
    assert all(
        torch.equal(a, p.grad)
        for a, p in zip(gradients, (q for q in objective.parameters() if q.grad is not None), strict=True)
    )


def test_channels_last_reorders_the_images_of_the_networks_and_nothing_else():
    batch = make_batch()
    ordinary, swapped = make_objective(), make_objective()
    swapped.use_channels_last()
    out = swapped(batch)
    assert swapped.networks["depth"].seen.is_contiguous(memory_format=torch.channels_last)
    assert swapped.networks["pose"].calls[0].is_contiguous(memory_format=torch.channels_last)
    assert out.predictions["disp"][0].is_contiguous()
    assert out.loss.item() == pytest.approx(ordinary(batch).loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("wanted", "device", "capability", "is_last"),
    [
        ("auto", "cpu", "AVX2", False),
        ("auto", "cpu", "AVX512", True),
        ("auto", "cuda", "AVX2", True),
        (True, "cpu", "AVX2", True),
        (False, "cuda", "AVX512", False),
    ],
)
def test_the_layout_is_that_which_is_fast_on_the_device(monkeypatch, wanted, device, capability, is_last):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    objective = make_objective()
    objective.use_channels_last(wanted, device)
    assert objective.channels_last is is_last


def test_autoencoder_sees_target_and_supports():
    networks = {"depth": FakeDepth(), "pose": FakePose(), "autoencoder": FakeAutoencoder()}
    out = Objective(networks, make_losses(), supp_idxs=(-1, 1))(make_batch())
    assert torch.equal(out.predictions["supp_autoenc_imgs"][0], make_batch()["supports"])
    assert out.predictions["supp_autoenc_feats"][1].shape == (2, 2, 3, *SIZE)
    assert {"imgs/autoenc_0", "feats/autoenc_0", "feats/autoenc_1"} <= set(out.images)


def test_the_state_is_that_of_the_networks_alone():
    objective = make_objective(losses=make_losses(use_automask=True))
    assert {key.split(".")[0] for key in objective.state_dict()} == {"networks"}
    assert "networks.depth.head.weight" in objective.state_dict()


def test_pictures_carry_the_tags_of_the_tracker():
    supp_idxs = (-1, 0)
    losses = make_losses(use_automask=True)
    objective = make_objective(supp_idxs, losses=losses, depth=FakeDepth(use_virtual_stereo=True))
    batch = make_batch(2, supp_idxs)
    batch |= {"target_aug": batch["target"], "supports_aug": batch["supports"], "depth": torch.rand(2, 1, 30, 50)}
    images = objective(batch).images
    assert set(images) == {
        "imgs/target", "imgs/supp_-1", "imgs/supp_0", "depth/truth",
        "imgs_aug/target", "imgs_aug/supp_-1", "imgs_aug/supp_0",
        "disp/target_0", "disp/target_1", "disp/stereo_0", "disp/stereo_1", "feats/target_0",
        "imgs_warp/supp_-1", "imgs_warp/supp_0", "imgs_warp/stereo_supp_0",
        "masks/automask", "masks/stereo_automask",
        "grad/disp", "grad/image", "grad/stereo_disp", "grad/stereo_image",
    }  # fmt: skip
    assert all(image.ndim == 4 and len(image) == 2 for image in images.values())
    assert not any(image.requires_grad for image in images.values())
    assert torch.equal(images["imgs/supp_0"], batch["supports"][:, 1])


def test_pictures_are_drawn_when_they_are_read_and_once():
    drawn = []

    class Painter(nn.Module):
        needs, on_twin = frozenset(), False

        def forward(self, scene):
            return scene.disp[0].mean(), {"masks/mine": lambda: drawn.append(1) or scene.target}

    out = make_objective(losses={"disp_smooth": Painter()})(make_batch())
    assert not drawn
    assert out.images is out.images
    assert len(drawn) == 1
