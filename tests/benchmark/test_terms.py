"""Every loss term of every published system agrees with a second, independent writing of the training step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.benchmark import reference, systems
from tests.benchmark.observation import observe
from tests.benchmark.systems import merge
from trainer.objective import Objective


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small double-precision convolutions are several times slower when threads wait for busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compare(name: str, changes: dict[str, Any] | None = None, legacy: bool = False, single: bool = False) -> None:
    """Compare terms and gradients in double precision, and terms in single precision if asked."""
    sections = systems.written(name, changes)
    objective = systems.build(name, changes, legacy_sampling=legacy).double()
    losses, supp_idxs = sections["loss"], systems.offsets(sections)
    rules = {"supp_idxs": supp_idxs, "legacy_sampling": legacy, **systems.DEPTHS}
    rules |= {key: value for key, value in sections["trainer"].items() if key in rules}
    batch = systems.make_batch(supp_idxs, hints=bool(sections["dataset"].get("use_hints")))
    if losses.get("depth_regr", {}).get("use_automask"):
        batch["depth_hints"] = without_ties(objective, losses, batch, rules)

    exact = {key: value.double() for key, value in batch.items()}
    out = objective(exact)
    through_encoders = any(name.startswith("feat") for name in losses)
    gradients = gradients_of(out.loss, objective, through_encoders)
    loss, terms = reference.total(objective.networks, losses, exact, **rules)
    assert_same(out.losses | {"total": out.loss}, terms | {"total": loss}, rel=1e-9)
    assert_same(gradients, gradients_of(loss, objective, through_encoders), rel=1e-6)
    if single:
        with torch.no_grad():
            out = objective.float()(batch)
            loss, terms = reference.total(objective.networks, losses, batch, **rules)
        assert_same(out.losses | {"total": out.loss}, terms | {"total": loss}, rel=1e-5)


def without_ties(objective: Objective, losses: Any, batch: dict[str, Tensor], rules: Any) -> Tensor:
    """Remove hints that explain the image just as well as the prediction does.

    Where both warps leave the image they sample the same border: equal errors, and only rounding says which is less.
    """
    exact = {key: value.double() for key, value in batch.items()}
    for _ in range(20):  # removing a hint changes the windows of its neighbours
        gains = reference.gains_by_hint(observe(objective.networks, losses, exact, **rules))
        ties = (torch.stack(gains).abs() < 1e-4).any(dim=0) & (exact["depth_hints"] > 0)
        if not ties.any():
            return exact["depth_hints"].float()
        exact["depth_hints"] = exact["depth_hints"].masked_fill(ties, 0)
    raise AssertionError("ties remain")


def gradients_of(loss: Tensor, objective: Objective, through_encoders: bool) -> dict[str, Tensor]:
    """Gradients by parameter; those of encoders take half the time, and matter where losses look at features."""
    parameters = {
        name: parameter
        for name, parameter in objective.named_parameters()
        if through_encoders or ".encoder." not in name
    }
    values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: value for name, value in zip(parameters, values, strict=True) if value is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rel: float) -> None:
    """Compare tensors by the norm of their difference, relative to the norm; list all that differ."""
    assert set(ours) == set(theirs)
    wrong = []
    for name, value in theirs.items():
        norm, difference = value.norm().item(), (ours[name] - value).norm().item()
        if not difference <= rel * norm:
            wrong.append(f"{name}: {difference / norm:.1e} of {norm:.6g}")
    assert not wrong, "\n".join(wrong)


def test_the_published_systems_are_all_there():
    files = {path.stem for path in systems.FOLDER.glob("*.yaml")} - {systems.DEFAULT.stem}
    assert files == set(systems.NAMES)


# These differ from monodepth2_M or monodepth2_MS in the decoder alone, or in the place of the partner.
ALIKE = ("ddvnet", "hrdepth_M", "hrdepth_MS", "cadepth_MS", "diffnet_MS", "stereo first")


def each(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.long if name in ALIKE else ()) for name in names]


@pytest.mark.parametrize("name", each(systems.NAMES))
def test_terms_and_gradients_of_a_published_system(name):
    compare(name, single=True)


def test_legacy_sampling_of_all_scales():
    compare("monodepth2_MS", {"net": {"depth": {"out_scales": [0, 1, 2, 3]}}}, legacy=True)


UNSURE = {"depth": {"mask_name": "uncertainty", "num_ch_mask": 3}}
VIRTUAL = {"depth": {"use_virtual_stereo": True}}
MASKED = {"img_recon": {"mask_name": "uncertainty"}}
L1 = {"stereo_const": {"loss_name": "l1"}}
# Options of losses alone are compared in tests/losses/test_agreement.py.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one scale, no far end": ("garg", {"net": {"depth": {"out_scales": [0]}}, "trainer": {"max_depth": None}}),
    "behind the camera": ("monodepth2_MS", {"trainer": {"min_depth": 0.05}}),
    "hints under an automask, reconstruction under a mask": ("depth_hints_MS", {"net": UNSURE, "loss": MASKED}),
    "stereo first": ("monodepth2_MS", {"net": VIRTUAL, "dataset": {"supp_idxs": [0, -1, 1]}, "loss": L1}),
    "stereo in the middle": ("monodepth2_MS", {"net": VIRTUAL, "dataset": {"supp_idxs": [-1, 0, 1]}, "loss": L1}),
    "masks and virtual stereo": (
        "monodepth2_MS",
        {"net": merge(VIRTUAL, UNSURE), "loss": {**MASKED, "disp_occ": {"weight": 0.1}}},
    ),
    "blend and virtual stereo": (
        "superdepth",
        {"net": merge(VIRTUAL, {"depth": {"dec_name": "monodepth"}}), "loss": {"stereo_const": {"weight": 2}}},
    ),
}


@pytest.mark.parametrize("variant", each(VARIANTS))
def test_terms_and_gradients_of_what_no_system_uses(variant):
    compare(*VARIANTS[variant])
