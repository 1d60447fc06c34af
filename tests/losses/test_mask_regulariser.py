"""The regulariser of the explainability mask."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.losses.scenes import SIZE, random_scene
from trainer.losses import LOSSES
from trainer.losses.mask_regulariser import cross_entropy_with_ones


def disp_mask():
    return LOSSES.create("disp_mask")


def masked_scene(dtype=torch.float64, **changes):
    mask = {s: 0.05 + 0.9 * torch.rand(2, 2, SIZE[0] >> s, SIZE[1] >> s, dtype=dtype) for s in (0, 1)}
    return random_scene(dtype=dtype, **{"mask": mask, **changes})


def test_by_hand():
    """A mask that explains all costs nothing, one of 1/e costs 1, one of zeros 100."""
    for value, cost in ((1.0, 0.0), (np.exp(-1), 1.0), (0.0, 100.0)):
        mask = {0: torch.full((2, 2, *SIZE), value).double()}
        assert disp_mask()(masked_scene(mask=mask))[0].item() == pytest.approx(cost)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_binary_cross_entropy(dtype):
    mask = torch.cat([torch.rand(50, dtype=dtype), torch.tensor([0.0, 1e-30, 1.0], dtype=dtype)])
    assert torch.allclose(cross_entropy_with_ones(mask), F.binary_cross_entropy(mask, torch.ones_like(mask)))


@pytest.mark.parametrize("logit", [-200.0, -95.0, -50.0, 50.0, 200.0])
def test_a_saturated_mask_has_finite_gradients(logit):
    logits = torch.full((1, 2, *SIZE), logit, requires_grad=True)
    disp_mask()(random_scene(1, mask={0: logits.sigmoid()}))[0].backward()
    assert logits.grad.isfinite().all()


def test_not_a_number_stays_visible():
    assert cross_entropy_with_ones(torch.tensor([0.5, torch.nan])).isnan()


def test_a_scene_without_mask_says_what_to_set():
    assert disp_mask().needs == {"explainability"}
    assert not disp_mask().on_twin
    with pytest.raises(ValueError, match=r"net\.depth\.mask_name: explainability"):
        disp_mask()(random_scene())
