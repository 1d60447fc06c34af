"""The distance of two maps: l1, log_l1, berhu."""

from typing import get_args

import pytest
import torch

from trainer.losses._regression import ERRORS, RegressionName, criterion

NAMES = sorted(ERRORS)


def pair(shape=(3, 1, 4, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    p, t = (torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return p, t, torch.rand(*shape, generator=generator) > 0.4


def test_every_name_that_a_config_may_use_is_there():
    assert set(get_args(RegressionName)) == set(ERRORS)


def test_by_hand():
    """Differences 0, 1, 4, 10: berHu's threshold is 2, beyond which d becomes (d * d + 4) / 4."""
    p, t = torch.tensor([1.0, 2.0, 0.0, 10.0]).double(), torch.tensor([1.0, 1.0, 4.0, 0.0]).double()
    assert criterion("l1")(p, t).item() == pytest.approx(15 / 4)
    assert criterion("log_l1")(p, t).item() == pytest.approx(torch.tensor([1.0, 2.0, 5.0, 11.0]).log().mean().item())
    assert criterion("berhu")(p, t).item() == pytest.approx((0 + 1 + 20 / 4 + 104 / 4) / 4)


@pytest.mark.parametrize("name", NAMES)
def test_equal_maps_have_neither_distance_nor_gradient(name):
    p = torch.rand(2, 1, 3, 4).requires_grad_()
    loss = criterion(name)(p, p.detach().clone())
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


def test_an_unknown_name_is_reported_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'berhu'"):
        criterion("berHu")
