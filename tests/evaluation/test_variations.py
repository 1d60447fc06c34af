"""One choice of the protocol changed at a time: each moves AbsRel by what can be worked out by hand."""

import json

import numpy as np
import pytest
import torch
import yaml

from tests.evaluation.test_evaluation import Truths, evaluate_depth, flat, index_as_depth, metres
from tests.world import run_world
from trainer.evaluation import Execution, StoredDepth, flip_blended
from trainer.evaluation.variations import Variations, save_variations, vary
from trainer.metrics.align import ALIGNMENTS
from trainer.metrics.crop import CROPS
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError
from trainer.runtime.processes import Processes


def effects(found: Variations, factor: str) -> dict:
    return {e.choice: e for e in found.effects if e.factor == factor}


def stored(*maps, kind="depth") -> StoredDepth:
    return StoredDepth(np.array(maps, dtype=np.float32), kind)


def ones(*size) -> StoredDepth:
    return stored(np.ones(size))


def test_alignment():
    # truths 2, 2 against 1, 2 (AbsRel 1/2, 0), 5.4 and 10.8 (1.7, 4.4), or perfect ones
    found = vary(index_as_depth, flat(2, 2), metres())
    assert found.mean == {"abs_rel": pytest.approx(0.25), "d1": pytest.approx(0.5)}
    by_name = effects(found, "alignment")
    assert by_name.keys() == ALIGNMENTS.keys() - {"none"}
    assert by_name["median"].abs_rel == pytest.approx(0)
    assert by_name["median"].change_pct == pytest.approx(-100)
    assert by_name["stereo"].abs_rel == pytest.approx(3.05)
    assert by_name["stereo"].change_pct == pytest.approx(1120)
    assert (found.effects[0].factor, found.effects[0].choice) == ("alignment", "stereo")  # the largest first


def test_the_median_of_an_even_number():
    # factor (2 + 4) / 2 = 3: errors 1/2, 1/4; the lower middle, 2: errors 0, 1/2
    found = vary(ones(1, 2), Truths([[[2.0, 4.0]]]), metres("median"))
    assert found.mean["abs_rel"] == pytest.approx(3 / 8)
    assert effects(found, "alignment")["median_lower"].abs_rel == pytest.approx(1 / 4)
    # of three values both rules take the middle one
    found = vary(ones(1, 3), Truths([[[2.0, 4.0, 8.0]]]), metres("median"))
    assert effects(found, "alignment")["median_lower"].change_pct == pytest.approx(0)


def test_crop():
    # truth 2 in the rows of one crop alone, 1 elsewhere; prediction 1: error 1/2 there
    truth = np.ones((100, 100))
    truth[33:40] = 2  # inside Eigen's crop, above Garg's
    found = vary(ones(100, 100), Truths([truth]), metres(crop="garg"))
    by_name = effects(found, "crop")
    assert found.mean["abs_rel"] == 0
    assert by_name["none"].abs_rel == pytest.approx(0.07 / 2)
    assert by_name["eigen"].abs_rel == pytest.approx(7 / (91 - 33) / 2)
    assert by_name["none"].change_pct is None  # of nothing
    assert "crop nyu: made for 640x480" in found.not_measured


def test_depth_limits():
    # prediction 1 everywhere; errors 1, 1/2, 59/60, 89/90, 109/110 at 0.5, 2, 60, 90, 110 m
    errors = np.array([1, 1 / 2, 59 / 60, 89 / 90, 109 / 110])
    truth = Truths([[[0.5, 2, 60, 90, 110]]])
    found = vary(ones(1, 5), truth, metres())
    assert found.mean["abs_rel"] == pytest.approx(errors[:3].mean())
    caps = effects(found, "max_depth")
    assert {name: e.abs_rel for name, e in caps.items()} == {
        "50 m": pytest.approx(errors[:2].mean()),
        "100 m": pytest.approx(errors[:4].mean()),
        "none": pytest.approx(errors.mean()),
    }
    least = effects(found, "min_depth")
    assert least["1 m"].abs_rel == pytest.approx(errors[1:3].mean())
    assert least["0.1 m"].change_pct == pytest.approx(0)


def test_predictions_are_clipped_to_the_changed_limits():
    # truth 40 against 75 without a fit: 35/40, clipped to 50: 10/40
    found = vary(stored([[75.0]]), flat(40, size=(1, 1)), metres())
    assert effects(found, "max_depth")["50 m"].abs_rel == pytest.approx(0.25)
    assert found.mean["abs_rel"] == pytest.approx(0.875)


def test_mean_over_pixels():
    # image 0: error 1/2 at 1 pixel; image 1: 0 at 32. Per image 1/4, over 33 pixels 1/66
    sparse = np.zeros((4, 8))
    sparse[0, 0] = 2
    found = vary(index_as_depth, Truths([sparse, np.full((4, 8), 2)]), metres())
    assert found.mean["abs_rel"] == pytest.approx(1 / 4)
    (pooled,) = effects(found, "mean").values()
    assert pooled.abs_rel == pytest.approx(1 / 66)
    assert pooled.d1 == pytest.approx(32 / 33)
    assert pooled.change_pct == pytest.approx(100 * (4 / 66 - 1))


def test_flip():
    calls = []

    def left_is_near(images):
        """Inverse depth 1 at the left border, 1/3 at the right, whatever is shown."""
        calls.append(len(images))
        return 1 / torch.linspace(1, 1 / 3, 41).expand(len(images), 1, 1, 41)

    # in the middle both agree on 1 / (2/3) = 1.5; at column 10 the mean of 5/6 and 1/2 is 2/3 again, instead of 5/6
    truth = np.zeros((1, 41))
    truth[0, 10] = 1.5
    found = vary(left_is_near, Truths([truth]), metres())
    assert found.mean["abs_rel"] == pytest.approx(abs(1.2 - 1.5) / 1.5)
    assert effects(found, "flip")["on"].abs_rel == pytest.approx(0, abs=1e-6)
    assert calls == [1, 1]  # the image and its mirror image, once each
    back = vary(left_is_near, Truths([truth]), metres(flip=True))
    assert back.mean == pytest.approx({"abs_rel": 0, "d1": 1}, abs=1e-6)
    assert effects(back, "flip")["off"].abs_rel == pytest.approx(0.2)
    assert "flip: needs the network, --ckpt" in vary(ones(1, 41), Truths([truth]), metres()).not_measured


def test_resizing():
    # inverse depths 1 and 1/3 at four pixels instead of two, against a truth of 1
    by_hand = {
        "depth, bilinear": [1, 1.5, 2.5, 3],
        "inverse depth, bilinear, corners aligned": [1, 9 / 7, 9 / 5, 3],
        "inverse depth, nearest": [1, 1, 3, 3],
    }
    for pred in (stored([[1, 1 / 3]], kind="disp"), stored([[1, 3]])):
        found = vary(pred, flat(1, size=(1, 4)), metres())
        assert found.mean["abs_rel"] == pytest.approx(np.mean([0, 1 / 5, 1, 2]))
        assert {name: e.abs_rel for name, e in effects(found, "resize").items()} == {
            name: pytest.approx(np.mean(depths) - 1) for name, depths in by_hand.items()
        }
    assert (
        "resize: the predictions have the size of the truth"
        in vary(ones(1, 4), flat(1, size=(1, 4)), metres()).not_measured
    )


def test_another_truth_is_compared_where_both_exist_and_its_frames_alone():
    # prediction 1. Errors by the chosen truth: 1/2, 3/4, 0; the other truth has the first two: 3/4, 3/4
    chosen, other = flat(2, 4, 1), Truths([np.full((4, 8), depth) for depth in (4, 4, 0)])
    found = vary(stored(*np.ones((3, 4, 8))), chosen, metres(), truths={"B": other})
    assert found.mean["abs_rel"] == pytest.approx(1.25 / 3)
    (truth,) = effects(found, "truth").values()
    assert (truth.choice, truth.items, truth.abs_rel) == ("B", 2, pytest.approx(3 / 4))
    assert truth.abs_rel_before == pytest.approx(5 / 8)  # of the same two items
    assert truth.change_pct == pytest.approx(20)
    (frames,) = effects(found, "frames").values()
    assert (frames.choice, frames.items, frames.abs_rel) == ("those with B", 2, pytest.approx(5 / 8))
    assert frames.change_pct == pytest.approx(50)


def test_a_truth_that_no_item_has_is_named():
    found = vary(ones(4, 8), flat(2), metres(), truths={"B": flat(0)})
    assert "truth B: no item has a pixel for it" in found.not_measured
    assert effects(found, "frames") == {}


def network(images):
    """Depth that depends on place and item, at half the size of the truths below."""
    ramp = torch.linspace(1, 2, 12).view(1, 1, 3, 4)
    return ramp * (1 + images[:, :1, :1, :1])


def street(count=4) -> Truths:
    rng = np.random.default_rng(0)
    maps = rng.uniform(0.05, 120, (count, 6, 8)) * (rng.uniform(size=(count, 6, 8)) > 0.3)
    return Truths(maps)


@pytest.mark.parametrize("alignment", ["median", "lsqr_disp"])
def test_each_row_is_what_an_evaluation_under_that_protocol_gives(alignment):
    found = vary(network, street(), metres(alignment, crop="garg"), Execution(batch_size=3))
    default = {"metrics": ["eigen"], "alignment": alignment, "crop": "garg"}
    same = {"alignment": dict.fromkeys(ALIGNMENTS), "crop": dict.fromkeys(CROPS), "flip": {"on": True}}
    same["max_depth"] = {"50 m": 50, "100 m": 100, "none": np.inf}
    same["min_depth"] = {"0.1 m": 0.1, "1 m": 1}
    compared = 0
    for effect in found.effects:
        if effect.factor in same:
            value = same[effect.factor][effect.choice] or effect.choice
            protocol = DepthProtocol(**{**default, effect.factor: value})
            source = flip_blended(network) if effect.factor == "flip" else network
            mean = evaluate_depth(source, street(), protocol).mean
            assert (effect.abs_rel, effect.d1) == (pytest.approx(mean["abs_rel"]), pytest.approx(mean["d1"]))
            compared += 1
    crops = sum(crop.fits((6, 8)) for crop in CROPS.values())
    assert compared == len(ALIGNMENTS) - 1 + crops - 1 + 1 + 3 + 2
    assert {"crop nyu: made for 640x480", "crop marigold: made for 1216x352"} <= set(found.not_measured)
    changes = [abs(e.change_pct) for e in found.effects]
    assert changes == sorted(changes, reverse=True)


def test_files(tmp_path):
    found = vary(network, street(), metres("median"), metadata={"dataset": {"type": "synthetic", "mode": "test"}})
    for name in ("a.yaml", "deep/a.json"):
        save_variations(found, tmp_path / name)
    written = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert written == json.loads((tmp_path / "deep" / "a.json").read_text())
    assert written["chosen"] == found.mean
    assert written["effects"][0]["factor"] == found.effects[0].factor
    assert written["protocol"]["alignment"] == "median"
    assert written["protocol"]["items"] == 4


def test_nothing_to_score_is_refused():
    with pytest.raises(UserError, match="nothing was scored: none of 1 items has a true depth between"):
        vary(ones(4, 8), flat(0), metres())


def _share(rank, world, folder):
    found = vary(network, street(5), metres("median"), Execution(batch_size=2, processes=Processes(rank, world)))
    save_variations(found, folder / f"{world}_{rank}.yaml")


def test_two_processes_write_the_same(tmp_path):
    _share(0, 1, tmp_path)
    run_world(_share, 2, tmp_path, tmp_path)
    for rank in (0, 1):
        assert (tmp_path / f"2_{rank}.yaml").read_bytes() == (tmp_path / "1_0.yaml").read_bytes()
