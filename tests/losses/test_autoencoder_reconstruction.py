"""Autoencoder reconstruction: an image against what the autoencoder makes of it."""

import pytest
import torch

from tests.losses.scenes import SIZE, random_autoencoder, random_scene
from trainer.losses import LOSSES
from trainer.losses._photometric import ERRORS


def autoenc_recon(**kwargs):
    return LOSSES.create("autoenc_recon", **kwargs)


def autoencoder_scene(b=2, extras=None, **changes):
    extras = random_autoencoder(b) if extras is None else extras
    return random_scene(b, dtype=torch.float64, extras=extras, **changes)


def test_a_perfect_copy_costs_nothing():
    scene = autoencoder_scene()
    extras = {"autoenc_imgs": {0: scene.target}, "supp_autoenc_imgs": {0: scene.supports}}
    assert autoenc_recon()(autoencoder_scene(extras=extras))[0].item() == pytest.approx(0, abs=1e-9)


def test_all_images_count_the_same():
    """A target off by 0.3 and two supports off by 0: a third of 0.3."""
    scene = autoencoder_scene()
    extras = {"autoenc_imgs": {0: scene.target + 0.3}, "supp_autoenc_imgs": {0: scene.supports}}
    assert autoenc_recon(loss_name="l1")(autoencoder_scene(extras=extras))[0].item() == pytest.approx(0.1)


def test_the_target_alone_is_enough():
    scene = random_scene(dtype=torch.float64)
    alone = random_scene(
        dtype=torch.float64, supports=None, supp_idxs=(), extras={"autoenc_imgs": {0: scene.target + 0.3}}
    )
    assert autoenc_recon(loss_name="l1")(alone)[0].item() == pytest.approx(0.3)


def test_asks_for_the_images_without_altered_colours():
    scene = autoencoder_scene()
    value = autoenc_recon()(scene)[0]
    assert not torch.equal(autoenc_recon()(autoencoder_scene(target=scene.target * 0.5))[0], value)


def test_half_precision_images_are_widened():
    image = torch.rand(2, 3, *SIZE, dtype=torch.bfloat16)
    scene = random_scene(extras={"autoenc_imgs": {0: image}})
    value = autoenc_recon(loss_name="l1")(scene)[0]
    assert value.dtype == torch.float32
    assert value == ERRORS["l1"](scene.target)(image.float()).mean()


@pytest.mark.parametrize(
    ("kwargs", "opening"),
    [({"use_automask": True}, "use_automask must be"), ({"mask_name": "uncertainty"}, "mask_name must be")],
)
def test_what_only_warped_images_have_is_refused(kwargs, opening):
    with pytest.raises(ValueError, match=opening):
        autoenc_recon(**kwargs)
    problems = LOSSES.get("autoenc_recon").validate_config(kwargs)
    assert len(problems) == 1
    assert problems[0].startswith(opening)


def test_the_other_options_are_accepted_and_change_nothing():
    plain = autoenc_recon()(autoencoder_scene())[0]
    assert torch.equal(autoenc_recon(use_min=True, automask_noise=1.0)(autoencoder_scene())[0], plain)
    assert LOSSES.get("autoenc_recon").validate_config({"use_min": True, "loss_name": "l1"}) == []


def test_without_an_autoencoder_says_what_to_add():
    with pytest.raises(ValueError, match=r"add net\.autoencoder"):
        autoenc_recon()(random_scene())
    assert autoenc_recon().needs == {"autoencoder"}
    assert not autoenc_recon().on_twin
