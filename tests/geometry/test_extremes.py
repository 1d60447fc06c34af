"""Numbers that no camera, motion or depth has: nothing crashes, and a loss over broken geometry is never finite."""

from __future__ import annotations

import itertools
import math

import torch

from tests.fakes import FakeDepth, make_batch, make_losses, make_objective
from tests.world import fork
from trainer.geometry import (
    ViewSynthesis,
    axis_angle_to_matrix,
    depth_to_disp,
    disp_to_depth,
    flip_intrinsics,
    inverse_depth,
    inverse_intrinsics,
    invert_pose,
    pose_matrix,
    project,
    scale_intrinsics,
)
from trainer.losses import LOSSES

NAN, INF = float("nan"), float("inf")
EXTREMES = (NAN, INF, -INF, 0.0, 1e38, -3e30, 1e-40, -1.0)  # denormal numbers among them
PLACES = ("depth", "K fx", "K cx", "K last", "R", "t", "T mirrored", "image")


def broken(place: str, value: float) -> tuple[torch.Tensor, ...]:
    """Image, depth, K and T of a small view, with `value` at one place of the second of two items."""
    generator = torch.Generator().manual_seed(0)
    image, depth = torch.rand(2, 3, 6, 9, generator=generator), 1 + torch.rand(2, 1, 6, 9, generator=generator)
    K = torch.tensor([[5.0, 0.0, 4.0], [0.0, 5.0, 2.5], [0.0, 0.0, 1.0]]).repeat(2, 1, 1)
    T = torch.eye(4).repeat(2, 1, 1)
    T[:, 0, 3] = 0.1
    if place == "T mirrored":
        T[1, 0, 0] = -1  # determinant -1
    row, column = {"K fx": (0, 0), "K cx": (0, 2), "K last": (2, 2), "R": (0, 1), "t": (2, 3)}.get(place, (1, 3))
    {"depth": depth[:, 0], "image": image[:, 0]}.get(place, K if place.startswith("K") else T)[1, row, column] = value
    return image, depth, K, T


def synthesise(place: str, value: float) -> None:
    """Warp and view forwards and backwards: what is not finite is reported, the rest takes colours of the image."""
    image, depth, K, T = (x.requires_grad_() for x in broken(place, value))
    synthesis = ViewSynthesis(K, (6, 9))
    P = synthesis.projection(T)
    points, _ = project(depth, P)
    view, warped = synthesis.view(image, depth, T), synthesis.warp(image, depth, P)
    is_finite = all(bool(torch.isfinite(x).all()) for x in (K, P, points))
    assert synthesis.fault().isnan() == (not is_finite), (place, value)
    assert not synthesis.fault().requires_grad
    if place != "image":
        assert ((warped >= 0) & (warped <= 1)).all(), (place, value)
    (view.image.sum() + warped.sum()).backward()


def transform(value: float, shape: tuple[int, ...] = (2, 3, 3)) -> None:
    """Every other function of the room, forwards and backwards."""
    K = torch.full(shape, value).requires_grad_()
    one, T = torch.full((2, 3), value).requires_grad_(), torch.full((2, 4, 4), value).requires_grad_()
    results = [
        *(inverse_intrinsics(K), flip_intrinsics(K, 9), scale_intrinsics(K, (9, 6), (18, 12))),
        *(axis_angle_to_matrix(one), pose_matrix(one, one), invert_pose(T)),
        *(disp_to_depth(one), disp_to_depth(one, 0.1, None), depth_to_disp(one), inverse_depth(one)),
    ]
    torch.cat([result.flatten() for result in results]).sum().backward()


def descend(place: str, value: float) -> None:
    """A step with supports from two sides: its loss is NaN where geometry is, though the automask would hide it."""
    losses = {**make_losses(use_min=True, use_automask=True), "stereo_const": LOSSES.create("stereo_const")}
    objective = make_objective((-1, 0), losses=losses, depth=FakeDepth(use_virtual_stereo=True, scales=(0,)))
    batch = make_batch(supp_idxs=(-1, 0))
    batch["K"] = batch["K"].clone()
    named = {"K": batch["K"][1, 0], "T_stereo": batch["T_stereo"][1, 0], "gain": objective.networks["pose"].gain[None]}
    with torch.no_grad():
        named[place][0] = value
    output = objective(batch)
    if not math.isfinite(value) or (place == "K" and value == 0):
        assert all(number.isnan() for number in (output.loss, *output.losses.values())), (place, value)
    output.loss.backward()


def all_of_them() -> None:
    torch.manual_seed(0)
    for place, value in itertools.product(PLACES, EXTREMES):
        synthesise(place, value)
    for value in EXTREMES:
        transform(value)
    for place, value in itertools.product(("K", "T_stereo", "gain"), (NAN, 0.0, 1e38)):
        descend(place, value)


def test_no_number_crashes_the_geometry() -> None:
    """In a process of its own: a NaN at the wrong place once read arbitrary memory, which nothing can catch."""
    done = fork("-c", f"from {__name__} import all_of_them; all_of_them()")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_relu_disparity_of_0_is_warped_like_infinity_and_has_no_gradient() -> None:
    """A camera that turns sees the infinitely far at the same place, however far it moves."""
    _, _, K, _ = broken("", 0.0)
    disp = (
        torch.tensor([0.0, 1e-8, 1e-6, 1e-3]).repeat_interleave(2).view(1, 1, 2, 4).repeat(2, 1, 3, 2).requires_grad_()
    )
    Ts = [pose_matrix(torch.tensor([[0.0, 0.1, 0.0]] * 2), torch.tensor([[t, 0.0, 0.2]] * 2)) for t in (0.0, 5.0)]
    synthesis = ViewSynthesis(K, (6, 8))
    grids = [project(disp_to_depth(disp, 1.0, None), synthesis.projection(T))[0] for T in Ts]
    still = disp[:, 0].detach() < 1e-7
    assert torch.allclose(grids[0][still], grids[1][still], atol=1e-5)
    assert not torch.allclose(grids[0][~still], grids[1][~still], atol=1e-5)
    grids[1].square().sum().backward()
    assert disp.grad is not None
    assert (disp.grad[:, 0][still] == 0).all()
    assert disp.grad.isfinite().all()
