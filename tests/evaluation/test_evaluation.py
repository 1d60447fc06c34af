"""Evaluation of a data set that is only depth maps, by a network that is only a rule: averages by hand."""

import numpy as np
import pytest
import torch
import yaml

from trainer.evaluation import (
    Execution,
    depth_pictures,
    evaluate_pose,
    evaluate_side_by_side,
    evenly_spaced,
    resize_as_inverse,
    save_result,
)
from trainer.evaluation.predictions import predicted_maps
from trainer.evaluation.session import Processes
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError


class Truths:
    """A data set of given depth maps; the image of item i is filled with i + 1."""

    def __init__(self, maps, supp_idxs=(-1, 1), motions=None):
        self.maps = [torch.as_tensor(m, dtype=torch.float32) for m in maps]
        self.supp_idxs = supp_idxs
        self.motions = motions

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        item = {"target": torch.full((3, 2, 4), float(index + 1)), "depth": self.maps[index][None]}
        item["index"] = torch.tensor(index)
        if self.motions is not None:
            item["Ts_true"] = motion_matrices(self.motions[index])
        return item

    def scene_of(self, index):
        return None

    def describe(self, index):
        return f"image {index}"


def motion_matrices(translations):
    """Turn translations (n 3) into motions (n 4 4)."""
    Ts = torch.eye(4).repeat(len(translations), 1, 1)
    Ts[:, :3, 3] = torch.as_tensor(translations, dtype=torch.float32)
    return Ts


def flat(*depths, size=(4, 8)):
    return Truths([np.full(size, depth) for depth in depths])


def index_as_depth(images):
    """Predict 1 for item 0, 2 for item 1, ..."""
    return images[:, :1]


def evaluate_depth(predict, dataset, protocol, **options):
    """Score under one protocol."""
    return evaluate_side_by_side(predict, dataset, [protocol], **options)[0]


def metres(alignment="none", crop="none", **limits):
    return DepthProtocol(["eigen"], alignment, crop, **limits)


def test_mean_is_over_images_and_items_are_kept():
    # truths 2, 2 against predictions 1, 2: AbsRel 1/2 and 0
    result = evaluate_depth(index_as_depth, flat(2, 2), metres())
    assert result.mean["abs_rel"] == pytest.approx(0.25)
    assert [item["abs_rel"] for item in result.items] == pytest.approx([0.5, 0])
    assert [item["name"] for item in result.items] == ["image 0", "image 1"]
    assert [item["pixels"] for item in result.items] == [32, 32]
    assert (result.protocol["items"], result.protocol["skipped_without_valid_pixel"]) == (2, 0)


def test_images_weigh_the_same_whatever_their_pixels():
    sparse = np.zeros((4, 8))
    sparse[0, 0] = 2
    result = evaluate_depth(index_as_depth, Truths([sparse, np.full((4, 8), 2)]), metres())
    assert result.mean["abs_rel"] == pytest.approx(0.25)


def test_doubled_prediction():
    def doubled(images):
        return 2 * index_as_depth(images)

    assert evaluate_depth(doubled, flat(1, 2, 3), metres()).mean["abs_rel"] == pytest.approx(1)
    assert evaluate_depth(doubled, flat(1, 2, 3), metres("median")).mean["abs_rel"] == pytest.approx(0)


def test_stereo_prediction_of_the_baseline_unit_is_metric():
    result = evaluate_depth(index_as_depth, flat(5.4, 10.8), metres("stereo"))
    assert result.mean["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert result.factor == {"median": pytest.approx(5.4), "relative_std": 0}


def test_spread_of_the_factors_tells_inconsistent_scale():
    result = evaluate_depth(index_as_depth, flat(1, 4, 9), metres("median"))  # factors 1, 2, 3
    assert result.factor["median"] == 2
    assert result.factor["relative_std"] == pytest.approx(np.std([1, 2, 3]) / 2)


def test_truths_may_differ_in_size_within_a_batch():
    data = Truths([np.full((4, 8), 1), np.full((5, 7), 2), np.full((2, 4), 3)])
    one, all_at_once = (evaluate_depth(index_as_depth, data, metres(), how=Execution(n)) for n in (1, 3))
    assert one.items == all_at_once.items
    assert one.mean["abs_rel"] == pytest.approx(0)


def test_workers_change_nothing():
    alone = evaluate_depth(index_as_depth, flat(1, 3, 3, 5, 5), metres(), how=Execution(batch_size=2))
    helped = evaluate_depth(index_as_depth, flat(1, 3, 3, 5, 5), metres(), how=Execution(batch_size=2, num_workers=2))
    assert alone == helped


def test_evaluation_leaves_the_random_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    evaluate_depth(index_as_depth, flat(1, 2), metres())
    assert torch.rand(1) == expected


def test_items_without_truth_are_skipped_and_counted():
    result = evaluate_depth(index_as_depth, flat(1, 0, 500, 4), metres())
    assert result.skipped == ["image 1", "image 2"]
    assert result.protocol["skipped_without_valid_pixel"] == 2
    assert result.protocol["items"] == 2
    assert [item["index"] for item in result.items] == [0, 3]


def test_crop_leaves_pixels_out():
    truth = np.full((100, 100), 1.0)
    truth[:40] = 50  # above the crop of Garg, which starts at row 40
    result = evaluate_depth(index_as_depth, Truths([truth]), metres(crop="garg"))
    assert result.mean["abs_rel"] == 0
    assert result.items[0]["pixels"] == (99 - 40) * (96 - 3)


def test_nothing_to_score_is_an_error():
    with pytest.raises(UserError, match=r"none of 2 items has a true depth between 0.001 and 80 m"):
        evaluate_depth(index_as_depth, flat(0, 90), metres())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_prediction_that_is_no_depth_names_its_item(bad):
    def broken(images):
        depth = index_as_depth(images).clone()
        depth[depth == 3] = bad
        return depth

    with pytest.raises(UserError, match=r"item 2 \(image 2\).* at 8 of 8 pixels"):
        evaluate_depth(broken, flat(1, 2, 3, 4), metres(), how=Execution(batch_size=4))


def test_data_without_depth_is_an_error():
    class Blind(Truths):
        def __getitem__(self, index):
            return {"target": torch.ones(3, 2, 4)}

    with pytest.raises(UserError, match=r"set dataset\.use_depth to true"):
        evaluate_depth(index_as_depth, Blind([0]), metres())


def test_limit_takes_items_from_the_whole_set():
    result = evaluate_depth(index_as_depth, flat(*range(1, 10)), metres(), limit=3)
    assert [item["index"] for item in result.items] == [0, 4, 8]
    assert result.protocol["limit"] == "3 of 9, evenly spaced"
    assert evaluate_depth(index_as_depth, flat(1, 2), metres(), limit=9).protocol["limit"] is None


def test_evenly_spaced():
    assert evenly_spaced(None, 3) == [0, 1, 2]
    with pytest.raises(UserError, match="1 or more"):
        evenly_spaced(0, 3)
    assert evenly_spaced(1, 9) == [0]
    assert evenly_spaced(6, 697)[::5] == [0, 696]
    assert len(set(evenly_spaced(696, 697))) == 696


def test_resize_averages_inverse_depth():
    # half way between 1 m and 3 m in inverse depth: 1 / (2/3) = 1.5 m, where a mean of depths would say 2 m
    resized = resize_as_inverse(torch.tensor([[1.0, 3.0]]), (1, 6))
    assert resized[0] == pytest.approx([1, 1, 1 / (1 - 2 / 9), 1 / (1 - 4 / 9), 3, 3])


def test_ratio_to_the_best_constant():
    result = evaluate_depth(index_as_depth, flat(1, 2, 6), metres())
    # best constant of 1, 2, 6 is 1: (0 + 1/2 + 5/6) / 3; the network errs on the last: (0 + 0 + 1/2) / 3
    assert result.baselines["constant_depth"]["depth_m"] == 1
    assert result.ratio_to_constant == pytest.approx((1 / 2) / (1 / 2 + 5 / 6))


def test_ratio_where_a_constant_is_perfect_is_infinite():
    assert evaluate_depth(index_as_depth, flat(2, 2), metres()).ratio_to_constant == float("inf")


def test_result_file_has_numbers_then_protocol_then_items(tmp_path):
    metadata = {"dataset": {"type": "fake", "size": (4, 2)}, "checkpoint": {"step": 7}}
    result = evaluate_depth(index_as_depth, flat(1, 3, 0), metres(), metadata=metadata)
    result.pose = {"mean": 1.5, "count": 2}
    path = tmp_path / "results" / "fake.yaml"
    save_result(result, path)
    told = yaml.safe_load(path.read_text())
    assert list(told) == [
        *("format", "mean", "interval", "baselines", "ratio_to_constant_depth", "factor", "pose", "protocol"),
        *("items", "skipped"),
    ]
    assert list(told["mean"]) == ["abs_rel", "sq_rel", "rmse", "log_rmse", "d1", "d2", "d3"]
    assert told["mean"] == result.mean
    assert told["items"] == result.items
    assert told["skipped"] == ["image 2"]
    assert told["pose"] == result.pose
    assert told["protocol"]["dataset"] == {"type": "fake", "size": [4, 2]}
    assert told["protocol"]["checkpoint"] == {"step": 7}
    assert [p.name for p in path.parent.iterdir()] == ["fake.yaml"]


def test_pictures_have_the_size_of_the_truth_and_its_metres():
    truth = np.full((4, 8), 10.0)
    truth[0] = 0
    (picture,) = depth_pictures(index_as_depth, Truths([truth]), [0], metres("median"))
    assert picture["input"].shape == (2, 4, 3)
    assert picture["prediction"] == pytest.approx(np.full((4, 8), 1 / 10))
    assert picture["truth"].tolist() == truth.tolist()
    assert np.isnan(picture["error"][0]).all()
    assert picture["error"][1:] == pytest.approx(np.zeros((3, 8)))
    assert (picture["label"], picture["abs_rel"]) == ("image 0", 0)


def test_picture_without_truth_is_shown_unscored():
    (picture,) = depth_pictures(index_as_depth, flat(0), [0], metres("median"))
    assert picture["abs_rel"] is None
    assert np.isnan(picture["error"]).all()


AHEAD, RIGHT = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)


def moving(*motions, supp_idxs=(-1, 1)):
    return Truths([np.ones((4, 8))] * len(motions), supp_idxs, motions)


def says(*translations):
    """A pose network that predicts the same translations for every item."""
    return lambda batch: motion_matrices(translations).expand(len(batch["target"]), -1, -1, -1)


def test_pose_error_is_the_angle_of_the_temporal_supports():
    data = moving((AHEAD, RIGHT, RIGHT), (AHEAD, RIGHT, AHEAD), supp_idxs=(-1, 0, 1))
    # support 0 (stereo) is given: its wrong "prediction" does not count. Angles: 0, 0 and 0, 90
    told = evaluate_pose(says(AHEAD, AHEAD, RIGHT), data, Execution(batch_size=1))
    assert told["mean"] == pytest.approx(22.5)
    assert told["median"] == 0
    assert told["count"] == 4
    assert told["supp_idxs"] == [-1, 1]


def test_pose_does_not_know_its_length():
    told = evaluate_pose(says((0, 0, 0.01), (7, 0, 0)), moving((AHEAD, RIGHT)))
    assert told["mean"] == 0


def test_a_camera_that_rests_is_not_counted():
    told = evaluate_pose(says(AHEAD, AHEAD), moving((AHEAD, (0, 0, 0))))
    assert (told["mean"], told["count"], told["skipped_without_motion"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("predict", "data", "message"),
    [
        (says(AHEAD), moving((AHEAD,), supp_idxs=(0,)), "a frame other than 0"),
        (says(AHEAD), Truths([np.ones((4, 8))], (1,)), "no true camera motion"),
        (says((float("nan"), 0, 0)), moving((AHEAD,), supp_idxs=(1,)), r"item 0 \(image 0\).*not finite"),
        (says(AHEAD), moving(((0, 0, 0),), supp_idxs=(1,)), "moves in none"),
    ],
)
def test_pose_errors(predict, data, message):
    with pytest.raises(UserError, match=message):
        evaluate_pose(predict, data)


class OtherFirst(Processes):
    """All processes in one, whose items arrive in another order."""

    def gather(self, mine):
        return list(mine)[::-1]


def test_items_have_the_order_of_the_data_set_whatever_process_scored_them():
    result = evaluate_depth(index_as_depth, flat(2, 2), metres(), how=Execution(processes=OtherFirst()))
    assert [item["name"] for item in result.items] == ["image 0", "image 1"]


def test_pictures_of_several_sizes_are_predicted_one_by_one() -> None:
    """As the data sets of a mixture give them that has batches of one data set."""

    def predict(images: torch.Tensor) -> torch.Tensor:
        return images.mean(1, keepdim=True)

    sizes = [(4, 6), (4, 6), (8, 5)]
    items = [{"target": torch.full((3, *size), float(i + 1))} for i, size in enumerate(sizes)]
    maps = list(predicted_maps(predict, items, [0, 1, 2], items))  # type: ignore[arg-type]
    assert [tuple(depth.shape) for depth in maps] == sizes
    assert [float(depth.mean()) for depth in maps] == [1, 2, 3]
