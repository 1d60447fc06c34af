"""The distance of two maps: l1, log_l1, berhu."""

from typing import get_args

import pytest
import torch

from tests.losses import reference
from trainer.losses._regression import ERRORS, RegressionName, criterion

NAMES = sorted(ERRORS)


def pair(shape=(3, 1, 4, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    p, t = (torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return p, t, torch.rand(*shape, generator=generator) > 0.4


def test_every_name_that_a_config_may_use_is_there():
    assert set(get_args(RegressionName)) == set(ERRORS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_the_formula_pixel_by_pixel(name, masked):
    p, t, valid = pair()
    valid = valid if masked else None
    expected = reference.regression(name, p.numpy(), t.numpy(), None if valid is None else valid.numpy())
    assert criterion(name)(p, t, valid).item() == pytest.approx(expected, rel=1e-9)
    single = criterion(name)(p.float(), t.float(), valid)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    """Differences 0, 1, 4, 10: berHu's threshold is 2, beyond which d becomes (d * d + 4) / 4."""
    p, t = torch.tensor([1.0, 2.0, 0.0, 10.0]).double(), torch.tensor([1.0, 1.0, 4.0, 0.0]).double()
    assert criterion("l1")(p, t).item() == pytest.approx(15 / 4)
    assert criterion("log_l1")(p, t).item() == pytest.approx(
        torch.tensor([1.0, 2.0, 5.0, 11.0]).log().mean().item()
    )
    assert criterion("berhu")(p, t).item() == pytest.approx((0 + 1 + 20 / 4 + 104 / 4) / 4)


@pytest.mark.parametrize("name", NAMES)
def test_equal_maps_have_neither_distance_nor_gradient(name):
    p = torch.rand(2, 1, 3, 4).requires_grad_()
    loss = criterion(name)(p, p.detach().clone())
    loss.backward()
    assert loss == 0
    assert (p.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_valid_pixels_the_distance_is_0_and_teaches_nothing(name):
    p = torch.rand(2, 1, 3, 4).requires_grad_()
    loss = criterion(name)(p, torch.rand(2, 1, 3, 4), torch.zeros(2, 1, 3, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert (p.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_count_has_no_say(name):
    p, t, valid = pair()
    wild = torch.where(valid, t, torch.tensor([1e30, torch.nan, torch.inf, -5.0, 0.0]).double())
    p1, p2 = p.clone().requires_grad_(), p.clone().requires_grad_()
    a, b = criterion(name)(p1, t, valid), criterion(name)(p2, wild, valid)
    (a + b).backward()
    assert torch.equal(a, b)
    assert torch.equal(p1.grad, p2.grad)
    assert (p1.grad[~valid] == 0).all()


@pytest.mark.parametrize("name", ["l1", "log_l1"])
def test_both_sides_learn_exactly(name):
    p, t, valid = pair()
    inputs = (p.requires_grad_(), t.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, t: criterion(name)(p, t, valid), inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_berhu_learns_exactly_with_its_threshold_held(masked):
    """Finite differences everywhere but at the largest difference, which moves the threshold: there d / c = 5."""
    p, t, valid = pair((1, 1, 4, 5))
    valid = valid if masked else torch.ones_like(valid)
    p.requires_grad_()
    (grad,) = torch.autograd.grad(criterion("berhu")(p, t, valid), p)
    largest = torch.where(valid, (p - t).detach().abs(), 0.0).argmax().item()
    c = 0.2 * (p - t).detach().abs().flatten()[largest].item()
    for i in range(p.numel()):
        high, low = p.detach().clone(), p.detach().clone()
        high.view(-1)[i] += 1e-6
        low.view(-1)[i] -= 1e-6
        up, down = (
            reference.regression("berhu", x.numpy(), t.numpy(), valid.numpy(), c) for x in (high, low)
        )
        assert grad.flatten()[i].item() == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-9)
    assert abs(grad.flatten()[largest].item()) == pytest.approx(5 / valid.sum().item())


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'berhu'"):
        criterion("berHu")
