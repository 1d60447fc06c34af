"""The health watch: its numbers can be checked by hand; it warns of a failure once, and not at the start."""

from __future__ import annotations

import math
import re

import pytest
import torch

from tests.fakes import make_batch, make_losses, make_objective
from tests.world import ROOT
from trainer.geometry.depth import disp_to_depth
from trainer.objective.pictures import StepPictures
from trainer.tracking.health import GRACE_STEPS, LOOKS, Health, holes, learned
from trainer.types import StepOutput

HEALTHY = {"disp_variation": 0.5, "depth_near": 0.0, "depth_far": 0.3, "depth_median": 3.0, "depth_spread": 8.0}
HEALTHY |= {"holes": 0.005, "pose_parallax": 1.5, "pose_rotation": 0.1, "automask_removed": 0.4}
SICK = {
    "explodes": {"depth_far": 0.97, "disp_variation": 0.01, "holes": 1.0},
    "has collapsed": {"depth_near": 0.96, "disp_variation": 0.01},
    "disparity is constant": {"disp_variation": 5e-4, "depth_spread": 1.001},
    "at one depth": {"depth_spread": 1.01},
    "holes of infinite depth": {"holes": 0.08},
    "predicts no motion": {"pose_parallax": 0.004, "pose_rotation": 0.003},
    "automask removes": {"automask_removed": 0.97},
}


def test_a_process_that_holds_up_the_others_is_named_once() -> None:
    health = Health()
    for own in ([100.0], [100.0, 149.0, 100.0], [1.0, 9.0, 1.0], [100.0, 100.0]):  # alone; by a half; in a tiny step
        assert [health.judge_processes(own) for _ in range(LOOKS)] == [[]] * LOOKS
    for own in ([90.0, 200.0], [200.0, 90.0]) * LOOKS:  # now one, now the other
        assert health.judge_processes(own) == []
    said = [health.judge_processes([90.0, 100.0, 200.0]) for _ in range(2 * LOOKS)]
    ((text,),) = [found for found in said if found]
    assert said.index([text]) == LOOKS - 1
    assert text.startswith("warning: process 2 holds up the others: a step takes it 200 ms by itself")
    assert "the others 95 ms" in text


def output(disp: torch.Tensor, depth: torch.Tensor, **predictions: torch.Tensor) -> StepOutput:
    loss = torch.zeros((), device=disp.device)
    return StepOutput(loss, {}, {"disp": {0: disp}, "depth": {0: depth}, **predictions})


def flat(value: float) -> torch.Tensor:
    return torch.full((2, 1, 64, 64), value)


def judged(health: Health, values: dict, looks: int = LOOKS, waiting: float = 0.0, step: int = 500) -> list:
    """The warnings of so many equal looks."""
    each = [health.judge(values, waiting, waited=100 * waiting, step=step) for _ in range(looks)]
    return [text for look in each for text in look]


def test_depth_at_its_limits_is_counted() -> None:
    depth = flat(10.0)
    depth[:, :, :32] = 0.12  # within a factor 1.25 of 0.1
    depth[:, :, 48:] = 81.0  # and of 100
    seen = Health(0.1, 100.0).look(output(flat(0.5), depth), {})
    assert seen["depth_near"] == 0.5
    assert seen["depth_far"] == 0.25
    assert seen["depth_median"] == 0.12  # the lower of the two in the middle
    assert float(seen["depth_spread"]) == pytest.approx(81 / 0.12)


def test_without_a_far_limit_far_is_where_a_sigmoid_stops_to_learn() -> None:
    depth = flat(999.0)
    depth[:, :, :16] = 1001.0  # disparity below 1e-4
    assert Health(0.1, math.inf).look(output(flat(0.5), depth), {})["depth_far"] == 0.25


def test_variation_is_that_of_a_picture_not_of_a_batch() -> None:
    disp = torch.stack([torch.full((1, 64, 64), v) for v in (0.1, 0.9)])
    assert float(Health().look(output(disp, 1 / disp), {})["disp_variation"]) < 1e-6
    disp[..., :32] *= 3  # 1 and 3 in equal parts: std 1, mean 2
    assert float(Health().look(output(disp, 1 / disp), {})["disp_variation"]) == pytest.approx(0.5, abs=1e-3)


def test_a_dead_sigmoid_is_constant_and_said_at_the_first_look() -> None:
    disp = flat(1e-9)
    disp[..., :32] *= 3  # three times as much of nothing
    health = Health(0.1, 100.0)
    values = {k: float(v) for k, v in health.look(output(disp, disp_to_depth(disp)), {}).items()}
    assert values["disp_variation"] < 1e-6
    assert judged(health, values, 1, step=GRACE_STEPS - 1) == []
    (text,) = judged(health, values, 1, step=GRACE_STEPS)
    assert "the depth explodes: 100% of the pixels" in text
    assert judged(health, values, LOOKS) == []
    assert judged(Health(), HEALTHY | SICK["disparity is constant"], 1) == []  # no limit: once may be chance


@pytest.mark.parametrize(
    ("error", "constant", "variation", "step", "reason", "ratio"),
    [
        (0.3, 0.4, 0.5, 500, None, 0.75),
        (0.396, 0.4, 0.5, 500, None, 0.99),
        (0.4, 0.4, 0.5, 500, "nothing: AbsRel 0.400 is 1.00 times that of a constant depth (0.400)", 1.0),
        (0.6, 0.4, 0.5, 99, "nothing yet: AbsRel 0.600 is 1.50 times that of a constant depth (0.400)", 1.5),
        (0.3, 0.4, 1e-9, 500, "nothing: the depth is the same everywhere (std / mean of the disparity 1.0e-09)", 0.75),
        (math.nan, math.nan, 1e-9, 99, "nothing yet: the depth is the same everywhere", None),
        (math.nan, math.nan, 0.5, 500, None, None),
        (math.nan, 0.4, 0.5, 500, None, None),  # a prediction that is NaN
        (0.1, 0.0, 0.5, 500, None, None),  # a truth that is one plane
    ],
)
def test_what_was_learned(
    error: float, constant: float, variation: float, step: int, reason: str | None, ratio: float | None
) -> None:
    said, found = learned({"AbsRel": error, "constant_AbsRel": constant, "disp_variation": variation}, step)
    assert said == reason if reason is None or ")" in reason else said and said.startswith(reason)
    assert found == (None if ratio is None else pytest.approx(ratio))
    assert learned({}, step) == (None, None)  # a checkpoint of an earlier version


def ground() -> torch.Tensor:
    """A plain under a sky: depth 1 / (rows below the horizon), the sky at the far limit."""
    depth = flat(100.0)
    depth[:, :, 32:] = 32.0 / torch.arange(1, 33).view(1, 1, 32, 1)
    return depth


def test_a_plain_under_a_sky_has_no_holes_and_a_far_blob_on_it_is_one() -> None:
    depth = ground()
    assert holes(depth, 80.0) == 0
    depth[:, :, 10:20] = 5.0  # what happens above does not count
    depth[:, :, 40:48, 8] = 5.0 * depth[:, :, 40:48, 0]  # thinner than a blob
    depth[:, :, 40:48, 10:20] /= 4  # near things stand on it
    assert holes(depth, 80.0) == 0
    depth[:, :, 40:56, 24:40] = 50.0  # 16 x 16 of 32 x 64
    assert float(holes(depth, 80.0)) == pytest.approx(256 / 2048)
    assert float(holes(flat(90.0), 80.0)) == 1  # at the limit everywhere, although no row differs


def test_motion_is_told_in_pixels() -> None:
    batch = {"K": torch.tensor([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]]).expand(2, 3, 3)}
    t = torch.tensor([0.0, 0.0, 0.2]).expand(2, 3, 3)
    R = torch.tensor([0.0, 0.01, 0.0]).expand(2, 3, 3)
    seen = Health().look(output(flat(0.5), flat(10.0), t=t, R=R), batch)
    assert float(seen["pose_parallax"]) == pytest.approx(100 * 0.2 / 10)
    assert float(seen["pose_rotation"]) == pytest.approx(100 * 0.01)
    assert not {"pose_parallax", "pose_rotation"} & set(Health().look(output(flat(0.5), flat(10.0)), batch))


def test_the_automask_is_seen_without_drawing_pictures() -> None:
    objective = make_objective(losses=make_losses(use_automask=True))
    batch = make_batch()
    out = objective(batch)
    batch["supports"] = batch["target"][:, None].expand_as(batch["supports"]).clone()  # a still camera
    still = objective(batch)
    health = Health()
    assert float(health.look(still, batch)["automask_removed"]) > 0.95
    kept = out.images["masks/automask"].float().mean()
    assert float(health.look(out, batch)["automask_removed"]) == pytest.approx(1 - float(kept))
    assert "images" not in vars(still)  # nobody drew them
    plain = make_objective(losses=make_losses(use_automask=False))(batch)
    assert "automask_removed" not in health.look(plain, batch)


def test_the_share_of_a_trusted_teacher_is_seen_too() -> None:
    of_losses = {"masks/trust": torch.tensor([[[[True, False, True, True]]]])}
    step = output(flat(0.5), flat(2.0))
    step.make_images = StepPictures({}, {}, of_losses, ())
    assert Health().look(step, {})["trusted"] == 0.75


def test_a_look_fetches_nothing_and_changes_nothing() -> None:
    disp = torch.rand(2, 1, 64, 96, device="meta")  # meta tensors have no values: to fetch one is an error
    motion = torch.rand(2, 2, 3, device="meta")
    batch = {"K": torch.rand(2, 3, 3, device="meta")}
    seen = Health().look(output(disp, disp, R=motion, t=motion), batch)
    assert {value.shape for value in seen.values()} == {()}
    disp = torch.rand(2, 1, 64, 96, requires_grad=True)
    before = torch.get_rng_state()
    seen = Health().look(output(disp, disp), batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(value.requires_grad for value in seen.values())


@pytest.mark.parametrize("kind", SICK)
def test_a_failure_is_reported_once_after_some_looks_in_a_row_and_not_at_the_start(kind: str) -> None:
    health, values = Health(), HEALTHY | SICK[kind]
    assert judged(health, values, 10, step=GRACE_STEPS - 1) == []
    health = Health()
    for _ in range(3):
        assert judged(health, values, LOOKS - 1) == []
        assert judged(health, HEALTHY, 1) == []
    (text,) = judged(health, values, 5)
    assert text.startswith("warning: ")
    assert kind in text


def test_health_is_silent() -> None:
    assert judged(Health(), HEALTHY, 10, waiting=0.29) == []
    few = {k: v for k, v in HEALTHY.items() if not k.startswith(("pose", "automask"))}
    assert judged(Health(), few, 10) == []
    assert judged(Health(), dict.fromkeys(HEALTHY, math.nan), 10) == []


def test_without_a_far_limit_the_median_decides() -> None:
    values = HEALTHY | {"depth_far": 0.6}
    assert judged(Health(0.1, 100.0), values) == []
    assert "trainer.max_depth: 100" in judged(Health(0.1, math.inf), values)[0]


def test_a_dead_relu_is_told_and_small_disparities_are_not() -> None:
    health = Health(0.0, math.inf)
    depth = flat(9e5)
    depth[:, :, :48] = 8e6
    seen = health.look(output(flat(0.0), depth), {})
    assert seen["depth_near"] == 0
    assert seen["depth_far"] == 0.75
    assert judged(health, HEALTHY | {"depth_far": 0.4}) == []
    (warning,) = judged(health, HEALTHY | {"depth_far": 0.75})
    assert "the disparity has died: it is 0 at 75% of the pixels" in warning
    assert "net.depth.init_disp: 0.1" in warning


def test_waiting_for_data_is_told_with_its_numbers_and_needs_no_grace() -> None:
    (text,) = judged(Health(), HEALTHY, waiting=0.4, step=1)
    assert "40% of the time" in text
    assert "(40 s of 100 s" in text
    health = Health()
    assert [health.judge(HEALTHY, 0.9, waited=9.0, step=1) for _ in range(LOOKS)] == [[]] * LOOKS


def test_validation_tells_a_constant_disparity_at_once_and_the_watch_not_again() -> None:
    health = Health()
    assert health.judge_validation(math.nan, GRACE_STEPS) == []  # nothing was validated
    assert health.judge_validation(0.01, GRACE_STEPS) == []
    assert health.judge_validation(1e-4, GRACE_STEPS - 1) == []  # a new network
    assert len(health.judge_validation(1e-4, GRACE_STEPS)) == 1
    assert health.judge_validation(1e-4, GRACE_STEPS) == []
    assert judged(health, HEALTHY | SICK["disparity is constant"]) == []
    other = Health()
    judged(other, HEALTHY | SICK["explodes"])
    assert other.judge_validation(0.0, GRACE_STEPS) == []  # told as an explosion


def test_remedies_are_keys_that_exist() -> None:
    failures, limits = SICK.values(), (100.0, math.inf)
    warnings = [judged(Health(0.1, limit), HEALTHY | sick) for sick in failures for limit in limits]
    warnings.append(judged(Health(), HEALTHY, waiting=0.5))
    warnings.append(judged(Health(0.0, math.inf), HEALTHY | SICK["explodes"]))
    page = (ROOT / "cfg/default.yaml").read_text()
    for texts in warnings:
        keys = re.findall(r"\b(?:net|loss|dataset|loader|optimizer|trainer)(?:\.\w+)+", texts[0])
        assert keys, texts[0]
        for key in keys:
            assert re.search(rf"^[ #]*{key.rsplit('.')[-1]}:", page, re.MULTILINE), key


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((0.21, 1.0, 1.0), "focal length varies by 21%"),
        ((0.01, 0.05, math.nan), "corners of the picture by 0.05 pixels"),
        ((0.01, 1.0, 1.25), "pixels that are 20% narrower than those of the data"),
        ((0.01, 1.0, 0.8), "pixels that are 25% wider than those of the data"),
    ],
)
def test_a_learned_camera_that_cannot_be_trusted_is_named_once(numbers: tuple[float, float, float], told: str) -> None:
    health = Health()
    each = [health.judge_camera(*numbers, step=500, is_last=False) for _ in range(LOOKS + 1)]
    assert [len(warnings) for warnings in each] == [0, 0, 1, 0]
    assert told in each[2][0]
    assert len(Health().judge_camera(*numbers, step=500, is_last=True)) == 1
    assert Health().judge_camera(*numbers, step=GRACE_STEPS - 1, is_last=True) == []
    assert Health().judge_camera(0.19, 0.11, 1.09, step=500, is_last=True) == []
