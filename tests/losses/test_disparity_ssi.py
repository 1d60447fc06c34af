"""Distillation: disparity against a teacher's, up to scale and shift."""

from typing import get_args

import pytest
import torch

from tests.losses.scenes import SIZE, intrinsics, plane_scene, random_scene
from trainer.geometry import depth_to_disp
from trainer.losses import LOSSES
from trainer.losses.disparity_ssi import Form, gradient_matching, normalised

FORMS = get_args(Form)


def disp_ssi(**kwargs):
    loss = LOSSES.create("disp_ssi", **kwargs)
    if loss.trust:
        loss.photometric = LOSSES.create("img_recon", loss_name="l1")
    return loss


def taught(disp, pseudo, **changes):
    """A scene of one scale."""
    return random_scene(len(disp), dtype=torch.float64, disp={0: disp}, pseudo=pseudo, **changes)


def maps(b=2, seed=0):
    return torch.rand(b, 1, *SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
def test_scale_and_shift_of_either_map_cost_nothing(form):
    loss, disp = disp_ssi(form=form, gradient=0.0 if form == "mse" else 0.5), maps()
    assert loss(taught(disp, 40 * disp + 7))[0].item() == pytest.approx(0, abs=1e-4)
    other = maps(seed=1)
    value = loss(taught(disp, 1 + other))[0].item()
    assert value > 0.03
    assert loss(taught(0.3 * disp + 0.2, 1 + other))[0].item() == pytest.approx(value, rel=1e-4)
    by_target = 25 if form == "mse" else 1  # the square of the teacher's units
    assert loss(taught(disp, 5 + 5 * other))[0].item() == pytest.approx(by_target * value, rel=1e-4)


def test_five_values_by_hand():
    """0 1 2 3 9: median 2, deviations 2 1 0 1 7, mean 2.2; of 0 1 2 4 8: 2, mean 11 / 5."""
    row = torch.full((1, 1, *SIZE), -1.0, dtype=torch.float64)
    disp, pseudo = row + 1, row.clone()
    disp[0, 0, 0, :5] = torch.tensor([0.0, 1, 2, 3, 9])
    pseudo[0, 0, 0, :5] = torch.tensor([0.0, 1, 2, 4, 8]) + 0.5  # elsewhere below 0: none
    scene = taught(disp, pseudo)
    assert disp_ssi()(scene)[0].item() == pytest.approx(2 / 2.2 / 5, rel=1e-5)  # differences 0 0 0 1 1
    assert disp_ssi(form="mae")(scene)[0].item() == pytest.approx(1 / 2.2 / 5)
    assert disp_ssi(form="trimmed")(scene)[0].item() == pytest.approx(0.5 / 2.2 / 5)  # without the larger of two
    steps = disp_ssi(form="mae", gradient=1.0)(scene)[0] - disp_ssi(form="mae")(scene)[0]
    # Differences 0 0 0 -1 1; every 2nd: 0 0 1; every 4th: 0 1; every 8th: one pixel.
    assert steps.item() == pytest.approx((3 / 5 + 1 / 3 + 1 / 2) / 2.2)


def test_of_an_even_number_the_lower_middle_value_is_the_median():
    x, valid = torch.tensor([[[[4.0, 1.0, 3.0, 2.0, 100.0]]]]), torch.tensor([[[[True, True, True, True, False]]]])
    assert normalised(x, valid).flatten().tolist()[:4] == [2.0, -1.0, 1.0, 0.0]


def test_half_of_the_pixels_and_a_gap_are_not_a_step():
    valid = torch.ones(1, 1, 1, 9, dtype=torch.bool)
    valid[..., 4] = False
    difference = torch.arange(9.0).view(1, 1, 1, 9)
    difference[..., 4] = 1e6
    # Steps of 1, 2, 4, 8 beside the gap: 6 of 8 pixels, 2 of 4, 0 of 2, 1 of 2.
    expected = 6 / 8 + 2 * 2 / 4 + 0 / 2 + 8 / 2
    assert gradient_matching(difference, valid).item() == pytest.approx(expected)


@pytest.mark.parametrize("trust", [None, "photometric"])
@pytest.mark.parametrize("form", FORMS)
def test_pictures_without_a_teacher_count_0_and_teach_nothing(form, trust):
    disp = maps(3).requires_grad_()
    pseudo = maps(3, seed=1) + 1
    loss = disp_ssi(form=form, gradient=0.5, trust=trust)
    both = loss(taught(disp[:2], pseudo[:2]))[0]
    pseudo[2] = torch.tensor([0.0, torch.nan, torch.inf, -1.0]).repeat(SIZE[0], SIZE[1] // 4)
    scene = random_scene(3, dtype=torch.float64, disp={0: disp}, pseudo=pseudo)
    if trust is None:
        assert loss(scene)[0].item() == pytest.approx(both.item() * 2 / 3)
    loss(scene)[0].backward()
    assert (disp.grad[2] == 0).all()
    assert disp.grad.isfinite().all()
    assert disp.grad[:2].abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_disparity_is_harmless(form):
    """As of a ReLU that is 0 everywhere."""
    disp = torch.zeros(1, 1, *SIZE).requires_grad_()
    value = disp_ssi(form=form, gradient=0.5)(random_scene(1, disp={0: disp}, pseudo=1 + maps(1).float()))[0]
    value.backward()
    assert value.isfinite()
    assert disp.grad.isfinite().all()


def test_all_scales_count_alike_at_full_resolution():
    pseudo = 1 + maps(seed=1)
    disps = {s: torch.rand(2, 1, SIZE[0] >> s, SIZE[1] >> s, dtype=torch.float64) for s in (0, 2)}
    upsampled = torch.nn.functional.interpolate(disps[2], SIZE, mode="bilinear", align_corners=False)
    values = [disp_ssi()(taught(disp, pseudo))[0] for disp in (disps[0], upsampled)]
    assert disp_ssi()(taught(disps[0], pseudo, scales=(0,)))[0].item() == pytest.approx(values[0].item())
    both = random_scene(dtype=torch.float64, disp=disps, pseudo=pseudo)
    assert disp_ssi()(both)[0].item() == pytest.approx(sum(values).item() / 2)


WIDTH = 64
NEAR = slice(40, WIDTH)  # columns of a plane that moves by 6 pixels; the others move by 2
BLOCK = slice(10, 14)  # of which one map says that they are as near


def street(prediction, teacher):
    """Two planes before a camera that moves sideways, with the pixels of motion that both maps tell, (width,) each."""
    coarse = torch.rand(1, 3, 1, WIDTH // 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.nn.functional.interpolate(coarse, (SIZE[0], WIDTH), mode="bilinear", align_corners=True)
    support, columns = target.clone(), torch.arange(WIDTH)
    for column, pixels in zip(columns.tolist(), moved().tolist(), strict=True):  # the nearer plane comes last
        if column + int(pixels) < WIDTH:
            support[..., column + int(pixels)] = target[..., column]
    depth = 0.6 * WIDTH * 0.1 / prediction  # focal length times motion
    T = torch.eye(4).double()[None, None].clone()
    T[..., 0, 3] = 0.1
    disp = depth_to_disp(depth).expand(1, 1, SIZE[0], WIDTH)
    size = (SIZE[0], WIDTH)
    return plane_scene(
        target=target, supports=support[:, None], disp={0: disp}, Ts=T, K=intrinsics(1, size, torch.float64),
        pseudo=(3 + 7 * teacher).expand(1, 1, *size),
    )  # fmt: skip


def moved(*wrong):
    pixels = torch.full((WIDTH,), 2.0, dtype=torch.float64)
    for part in (NEAR, *wrong):
        pixels[part] = 6.0
    return pixels


def test_a_teacher_is_believed_where_it_explains_the_picture_and_not_where_it_is_wrong():
    loss = disp_ssi(trust="photometric")
    right = (..., [*range(3, 8), *range(17, 34)])  # windows of what moves by 2 pixels, away from the edges
    _, pictures = loss(street(moved(), teacher=moved(BLOCK)))
    assert pictures["masks/trust"][right].all()
    assert not pictures["masks/trust"][..., BLOCK].any()
    wrong = street(moved(BLOCK), teacher=moved())
    value, pictures = loss(wrong)
    assert pictures["masks/trust"][right].all()
    assert pictures["masks/trust"][..., BLOCK].all()
    assert value > 0.03


def test_an_error_that_the_student_has_learned_is_noticed_by_a_rival_depth():
    _, pictures = disp_ssi(trust="photometric")(street(moved(BLOCK), teacher=moved(BLOCK)))
    assert not pictures["masks/trust"][..., 11:13].any()
    assert pictures["masks/trust"][..., 17:34].all()


def test_what_the_unwarped_support_explains_is_no_evidence_against_the_teacher():
    """As of a car ahead: the pictures say that it is infinitely far."""
    scene = street(moved(), teacher=moved(BLOCK))
    scene.supports = scene.target[:, None]
    scene.disp = {0: scene.disp[0] * torch.linspace(0, 1e-9, WIDTH)}
    assert disp_ssi(trust="photometric")(scene)[1]["masks/trust"].all()


def test_needs_the_photometric_error_only_with_trust():
    kind = LOSSES.get("disp_ssi")
    assert disp_ssi().needs == kind.needs_with({}) == {"pseudo"}
    wanted = {"pseudo", "supports", "img_recon"}
    assert disp_ssi(trust="photometric").needs == kind.needs_with({"trust": "photometric"}) == wanted
    with pytest.raises(ValueError, match=r"add loss\.img_recon"):
        LOSSES.create("disp_ssi", trust="photometric")(taught(maps(), maps(seed=1)))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"trimed.*Did you mean 'trimmed'"):
        disp_ssi(form="trimed")
    with pytest.raises(ValueError, match="gradient must not be negative, got -1"):
        disp_ssi(gradient=-1)
    with pytest.raises(ValueError, match="trust must be photometric or null, got 'all'"):
        disp_ssi(trust="all")
    with pytest.raises(ValueError, match=r"dataset\.use_pseudo: true"):
        disp_ssi()(random_scene())
