"""Photometric errors: l1, l2, structural similarity."""

from typing import get_args

import pytest
import torch

from trainer.losses._photometric import ERRORS, LossName, error_formula, ssim_error


def test_every_name_that_a_config_may_use_is_there():
    assert set(get_args(LossName)) == set(ERRORS)


def error(name, p, t):
    return ERRORS[name](t)(p)


@pytest.mark.parametrize("contrast", [1.0, 0.01, 0.0])
@pytest.mark.parametrize("name", ["l1", "ssim"])
def test_an_image_differs_not_from_itself_to_the_last_bit(name, contrast):
    image = 0.5 + contrast * (torch.rand(2, 3, 64, 96) - 0.5)
    assert not error(name, image, image).any()
    assert not error_formula(image[:, None, :, None], image, name).any()


def test_l1_is_the_mean_of_the_channels():
    p, t = torch.zeros(1, 3, 2, 2), torch.tensor([0.3, 0.6, 0.9]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert torch.allclose(error("l1", p, t), torch.full((1, 1, 2, 2), 0.6))


def test_l2_is_the_length_of_the_difference_and_never_below_the_root_of_epsilon():
    p, t = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    t[0, :, 0, 1] = torch.tensor([0.2, 0.3, 0.6])  # 0.04 + 0.09 + 0.36 = 0.7 ** 2
    assert error("l2", p, t).flatten().tolist() == pytest.approx([torch.finfo(torch.float32).eps ** 0.5, 0.7])


def test_ssim_of_flat_images_compares_their_brightness_alone():
    dark, bright = torch.full((1, 1, 4, 4), 0.2).double(), torch.full((1, 1, 4, 4), 0.6).double()
    ssim = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # no variance: the second factor is 1
    assert torch.allclose(ssim_error(bright, 1.0)(dark), torch.full_like(dark, (1 - ssim) / 2))


def test_a_negative_picture_is_clamped_at_one():
    stripes = torch.tensor([0.0, 1.0] * 4).expand(1, 1, 4, 8).double()
    assert (ssim_error(1 - stripes, 1.0)(stripes) <= 1).all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_weight_mixes_l1_and_structure(weight):
    p, t = torch.rand(1, 3, 4, 5).double(), torch.rand(1, 3, 4, 5).double()
    mixed = ssim_error(t, weight)(p)
    expected = weight * ssim_error(t, 1.0)(p) + (1 - weight) * error("l1", p, t)
    assert torch.allclose(mixed, expected)


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_a_weight_outside_0_to_1_is_named(weight):
    with pytest.raises(ValueError, match=str(weight)):
        ssim_error(torch.rand(1, 3, 4, 5), weight)


@pytest.mark.parametrize("name", ["l1", "l2", "ssim"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_gradients_are_exact(name, channels):
    torch.manual_seed(2)
    p, t = torch.rand(1, channels, 4, 5).double().requires_grad_(), torch.rand(1, channels, 4, 5).double()
    assert torch.autograd.gradcheck(ERRORS[name](t), (p,))


def test_gradient_through_the_border_of_the_smallest_image():
    p, t = torch.rand(1, 1, 2, 2).double().requires_grad_(), torch.rand(1, 1, 2, 2).double()
    assert torch.autograd.gradcheck(ssim_error(t), (p,))


@pytest.mark.parametrize("name", ["l1", "l2", "ssim"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_images_have_finite_gradients(name, value):
    p = torch.full((1, 3, 4, 4), value).requires_grad_()
    error(name, p, torch.zeros(1, 3, 4, 4)).sum().backward()
    assert p.grad.isfinite().all()


def test_the_layout_in_memory_does_not_matter():
    p, t = torch.rand(2, 3, 6, 8).requires_grad_(), torch.rand(2, 3, 6, 8)
    plain = error("ssim", p, t)
    (grad,) = torch.autograd.grad(plain.sum(), p)
    swapped = error(
        "ssim", p.contiguous(memory_format=torch.channels_last), t.contiguous(memory_format=torch.channels_last)
    )
    assert torch.equal(plain, swapped)
    assert torch.equal(grad, torch.autograd.grad(swapped.sum(), p)[0])


@pytest.mark.parametrize("name", ["l1", "l2", "ssim"])
def test_errors_ignore_autocast(name):
    p, t = torch.rand(1, 3, 6, 8), torch.rand(1, 3, 6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        cast = error(name, p, t)
    assert torch.equal(cast, error(name, p, t))


@pytest.mark.parametrize("size", [(6, 7), (24, 50)])
def test_the_size_of_the_pieces_changes_no_bit(size, monkeypatch):
    p, t = torch.rand(4, 3, *size).requires_grad_(), torch.rand(4, 3, *size)
    weights = torch.rand(4, 1, *size)

    def compared():
        compare = ssim_error(t)
        error = compare(p)
        return error.detach(), torch.autograd.grad((error * weights).sum(), p)[0]

    whole = compared()
    alone = [ssim_error(t[i : i + 1])(p[i : i + 1]) for i in range(4)]
    assert torch.equal(whole[0], torch.cat(alone))  # an item does not depend on the others
    for n_maps in (1, 2, 3, 7):  # a channel, two channels, an item, two items at a time
        monkeypatch.setattr("trainer.geometry.synthesis.PIECE", n_maps * 4 * size[0] * size[1])
        assert all(map(torch.equal, compared(), whole))
