"""Several protocols in one pass, predictions from files, mirrored images, depth edges, several processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from tests.evaluation.test_evaluation import (
    AHEAD,
    RIGHT,
    Truths,
    evaluate_depth,
    flat,
    index_as_depth,
    metres,
    moving,
    says,
)
from tests.evaluation.test_odometry import Drive, half_as_far
from tests.world import run_world
from trainer.evaluation import (
    Execution,
    StoredDepth,
    evaluate_learned_temporal,
    evaluate_odometry,
    evaluate_pose,
    evaluate_side_by_side,
    flip_blended,
    predict_all,
    save_legacy,
    save_odometry,
    save_result,
    save_temporal,
    write_predictions,
)
from trainer.evaluation.uncertainty import of_ensemble
from trainer.metrics.protocol import DepthProtocol
from trainer.metrics.sparsification import Sparsification
from trainer.runtime.errors import UserError
from trainer.runtime.processes import Processes


def test_side_by_side_equals_one_after_the_other():
    protocols = [metres("none"), metres("median"), metres("stereo")]
    together = evaluate_side_by_side(index_as_depth, flat(1, 4, 9), protocols)
    assert together == [evaluate_depth(index_as_depth, flat(1, 4, 9), p) for p in protocols]
    assert [r.protocol["alignment"] for r in together] == ["none", "median", "stereo"]


def test_stored_predictions_equal_those_of_a_network():
    rng = np.random.default_rng(0)
    depths = rng.uniform(1, 30, (3, 2, 4)).astype(np.float32)
    data = Truths(rng.uniform(1, 30, (3, 6, 9)))

    def network(images):
        return torch.from_numpy(depths[images[:, 0, 0, 0].long().numpy() - 1])[:, None]

    expected = evaluate_depth(network, data, metres("median"))
    for kind, values in (("depth", depths), ("disp", 1 / depths)):
        found = evaluate_depth(StoredDepth(values, kind), data, metres("median"))
        assert found.mean == pytest.approx(expected.mean, rel=1e-6)


def test_zero_is_no_prediction_and_becomes_the_least_depth():
    for kind in ("disp", "depth"):
        result = evaluate_depth(StoredDepth(np.zeros((1, 2, 4)), kind), flat(2), metres(min_depth=0.5))
        assert result.mean["abs_rel"] == pytest.approx(0.75)


def test_flip_blends_both_sides():
    def left_is_near(images):
        """Depth 1 at the left border, 3 at the right, whatever is shown: what mirroring averages."""
        return torch.linspace(1, 3, 41).expand(len(images), 1, 2, 41)

    blended = flip_blended(left_is_near)(torch.zeros(1, 3, 2, 41))
    middle = blended[0, 0, 0, 10]
    assert middle == pytest.approx(2 / (1 / 1.5 + 1 / 2.5))  # inverse depths are averaged
    assert blended[0, 0, 0, 0] == pytest.approx(3)  # at the left border the mirrored pass alone
    assert blended[0, 0, 0, 40] == pytest.approx(3)  # at the right border the plain one


class WithEdges(Truths):
    """Items with intrinsics, depth edges and a category, as SYNS-Patches has them."""

    def __getitem__(self, index):
        edges = torch.zeros(1, *self.maps[index].shape)
        edges[..., 3] = 1
        K = torch.tensor([[50.0, 0, 4], [0, 50, 2], [0, 0, 1]])
        return {**super().__getitem__(index), "edges": edges, "K_depth": K}

    def category(self, index):
        return "Indoor", f"room {index}"


def test_edges_and_categories(tmp_path):
    protocol = DepthProtocol(["benchmark", "pointcloud", "ibims"], "median", "none", max_depth=100)
    truth = np.full((16, 24), 5.0)
    truth[:, 4:] = 20
    result = evaluate_depth(index_as_depth, WithEdges([truth, truth]), protocol)
    assert {"mae", "mae_edges", "chamfer", "chamfer_edges", "dir_acc", "edge_accuracy"} <= set(result.mean)
    assert [item["subcat"] for item in result.items] == ["room 0", "room 1"]
    assert [item["pixels_edges"] for item in result.items] == [16, 16]
    assert result.mean["abs_rel_pct_edges"] == pytest.approx(0)  # aligned on the edge alone, which is at 5 m
    save_legacy(result, tmp_path / "old.yaml")
    rows = yaml.safe_load((tmp_path / "old.yaml").read_text())
    assert [row["SubCat"] for row in rows] == ["room 0", "room 1"]
    assert {"Ratio", "MAE", "MAE-Edges", "EdgeAcc-Edges"} <= set(rows[0])


def test_ibims_needs_edges():
    with pytest.raises(UserError, match="needs true depth edges"):
        evaluate_depth(index_as_depth, flat(2, size=(16, 24)), DepthProtocol(["eigen", "ibims"], "none", "none"))


# Several processes


class Film(Drive):
    """The same drives with all that a network needs to predict depth and motion."""

    def __getitem__(self, index):
        K = torch.tensor([[4.0, 0, 1.5], [0, 4, 0.5], [0, 0, 1]])
        return {**super().__getitem__(index), "supports": torch.zeros(1, 3, 2, 4), "K": K}


def growing(batch):
    """Predict depth that grows with the number of the frame, of a camera that stands still."""
    return 5 + batch["target"][:, :1], torch.eye(4).expand(len(batch["K"]), 1, 4, 4), batch["K"]


def _share(rank, world, folder):
    how = Execution(batch_size=2, processes=Processes(rank, world))
    data = Truths(np.random.default_rng(0).uniform(1, 60, (7, 4, 8)))
    extra = {"sparsification": Sparsification(5)}
    protocols = [metres("median"), DepthProtocol(["eigen"], "lsqr_disp", "none", extra=extra)]
    doubt = of_ensemble([lambda images: images[:, :1] + torch.arange(4.0)])
    results = evaluate_side_by_side(index_as_depth, data, protocols, how, doubt=doubt)
    for i, result in enumerate(results):
        save_result(result, folder / f"{world}_{rank}_{i}.yaml")
    disps = predict_all(index_as_depth, data, how)
    assert (disps is None) == (rank > 0)
    if disps is not None:
        write_predictions(folder / f"{world}.npz", disps, {"kind": "disp"})
    turns = moving((RIGHT,), (AHEAD,), (RIGHT,), supp_idxs=(1,))
    told = evaluate_pose(says(AHEAD), turns, replace(how, batch_size=1))
    assert told["mean"] == 60
    paths = evaluate_odometry(half_as_far, Drive(), how)
    save_odometry(paths, folder / f"{world}_{rank}_odometry.yaml")
    clips = evaluate_learned_temporal(growing, Film(), how)
    save_temporal(clips, folder / f"{world}_{rank}_temporal.yaml")


@pytest.mark.parametrize("world", [3, 5])
def test_several_processes_find_what_one_finds(tmp_path, world):
    _share(0, 1, tmp_path)
    run_world(_share, world, tmp_path, tmp_path)
    for i in (0, 1, "odometry", "temporal"):
        expected = (tmp_path / f"1_0_{i}.yaml").read_bytes()
        for rank in range(world):
            assert (tmp_path / f"{world}_{rank}_{i}.yaml").read_bytes() == expected
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / f"{world}.npz").read_bytes()


def _one_leaves(rank, world):
    torch.distributed.barrier()  # so that all are connected
    if rank == 0:
        for meet in (lambda: Processes(rank, world).gather([1]), Processes(rank, world).wait):
            with pytest.raises(UserError, match="another process has ended early; its own message says why"):
                meet()


def test_a_process_that_is_left_alone_says_so(tmp_path):
    run_world(_one_leaves, 2, tmp_path)


def test_predictions_are_kept_in_order(tmp_path):
    disps = predict_all(index_as_depth, flat(1, 1, 1), Execution(batch_size=2))
    assert disps.shape == (3, 2, 4)
    assert disps[:, 0, 0].tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    write_predictions(tmp_path / "deep" / "x.npz", disps, {"kind": "disp", "unit": "baseline"})
    stored = StoredDepth.read(tmp_path / "deep" / "x.npz")
    assert stored.kind == "disp"
    assert stored.values.dtype == np.float32
    assert (stored.values == disps).all()
