"""Smoothness of the disparity."""

import pytest
import torch

from tests.losses.scenes import random_scene
from trainer.losses import LOSSES
from trainer.losses._differences import absolute_differences, blur
from trainer.losses.smoothness import relative_to_mean


def smooth(**kwargs):
    return LOSSES.create("disp_smooth", **kwargs)


@pytest.mark.parametrize("laplacian", [False, True])
def test_a_flat_disparity_is_smooth(laplacian):
    scene = random_scene(disp={0: torch.full((2, 1, 8, 16), 0.3)})
    assert smooth(use_laplacian=laplacian)(scene)[0] == 0


def test_one_step_in_a_row():
    disp = torch.tensor([1.0, 1.0, 3.0, 3.0]).view(1, 1, 1, 4)  # mean 2: the step is 1, seen in one pixel of four
    scene = random_scene(b=1, size=(1, 4), disp={0: disp})
    assert smooth()(scene)[0].item() == pytest.approx(1 / 4)


def test_a_step_of_the_image_excuses_a_step_of_the_disparity():
    disp = torch.tensor([1.0, 1.0, 3.0, 3.0]).view(1, 1, 1, 4)
    image = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 3, 1, 4)
    scene = random_scene(b=1, size=(1, 4), disp={0: disp}, target=image)
    assert smooth(use_edges=True)(scene)[0].item() == pytest.approx(0.25 * 2.718281828**-1)


def test_the_size_of_the_disparity_does_not_matter_but_teaches():
    disp = torch.rand(1, 1, 4, 4).double()
    assert torch.allclose(relative_to_mean(7 * disp), relative_to_mean(disp))
    assert torch.autograd.gradcheck(relative_to_mean, (disp.requires_grad_(),))


def test_zero_disparity_has_finite_gradients():
    disp = {0: torch.zeros(2, 1, 8, 16, requires_grad=True)}
    smooth(use_edges=True, use_laplacian=True, use_blur=True)(random_scene(disp=disp))[0].backward()
    assert disp[0].grad.isfinite().all()


def test_the_last_column_and_row_have_no_difference():
    gx, gy = absolute_differences(torch.arange(6.0).view(1, 1, 2, 3))
    assert gx[0, 0].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert gy[0, 0].tolist() == [[3, 3, 3], [0, 0, 0]]


def test_blur_spreads_a_point_as_a_gaussian():
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 1
    row = torch.tensor([0.274069, 0.451863, 0.274069])
    assert torch.allclose(blur(point)[0, 0, 1:4, 1:4], row[:, None] * row, atol=1e-6)


def test_pictures_show_the_length_of_the_gradient_without_edge_weights():
    disp = torch.tensor([[1.0, 4.0], [5.0, 2.0]]).view(1, 1, 2, 2)  # mean 3
    _, pictures = smooth(use_edges=True)(random_scene(b=1, size=(2, 2), disp={0: disp}))
    drawn = {tag: picture() for tag, picture in pictures.items()}
    assert set(drawn) == {"grad/disp", "grad/image"}
    assert drawn["grad/disp"][0, 0, 0, 0].item() == pytest.approx(5 / 3)  # sqrt(3**2 + 4**2) / 3
    assert drawn["grad/image"].shape == (1, 1, 2, 2)
    assert not any(picture.requires_grad for picture in drawn.values())
