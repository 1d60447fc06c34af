"""Ground truth in a file: the numbers of the items themselves, however the file spells them; nothing in it is run."""

import os

import numpy as np
import pytest

from tests.evaluation.test_evaluation import Truths, evaluate_depth, index_as_depth
from tests.evaluation.test_sources import WithEdges
from trainer.data.kitti_raw.targets import Target, assemble
from trainer.evaluation import StoredDepth, TargetsFile
from trainer.metrics.protocol import DepthProtocol
from trainer.runtime.errors import UserError

rng = np.random.default_rng(0)
MIXED = [rng.uniform(1, 90, size).astype(np.float32) for size in ((16, 24), (15, 20), (17, 18))]
SAME = [rng.uniform(1, 90, (16, 24)).astype(np.float32) for _ in range(3)]
PRED = StoredDepth(rng.uniform(1, 30, (3, 8, 12)), "depth")
PROTOCOL = DepthProtocol(["benchmark", "pointcloud", "ibims"], "median", "garg", max_depth=80)


def assembled(maps, padded=False):
    """What `prepare targets` writes of the items of `WithEdges`."""
    data = WithEdges(maps)
    items = [data[i] for i in range(len(data))]
    targets = [
        Target(
            item["depth"][0].numpy(),
            item["K_depth"].numpy(),
            data.describe(i),
            item["edges"][0].bool().numpy(),
            data.category(i),
        )
        for i, item in enumerate(items)
    ]
    return assemble(targets, padded)


def stored(path, arrays):
    np.savez_compressed(path, **arrays)
    return TargetsFile.read(path)


def as_objects(values):
    """An array of Python numbers, which `np.array(maps, dtype=object)` makes of maps of one size."""
    return np.array([np.asarray(v).tolist() for v in values], dtype=object)


def four(K):
    """Intrinsics as (b 4 4)."""
    whole = np.tile(np.eye(4), (len(K), 1, 1))
    whole[:, :3, :3] = K
    return whole


@pytest.mark.parametrize(
    ("maps", "change"),
    [
        (SAME, {}),
        (SAME, {"depth": as_objects}),
        (SAME, {"depth": lambda depth: depth.astype(np.float64), "K": four}),
        (SAME, {"edge": lambda edge: edge.astype(np.uint8)}),
        (MIXED, {}),
        (MIXED, {"cat": lambda cat: cat.astype(object)}),
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_a_file_gives_the_numbers_of_the_items(tmp_path, maps, change, padded):
    arrays = assembled(maps, padded)
    arrays |= {key: spell(arrays[key]) for key, spell in change.items()}
    found = evaluate_depth(PRED, stored(tmp_path / "t.npz", arrays), PROTOCOL)
    assert found == evaluate_depth(PRED, WithEdges(maps), PROTOCOL)
    assert {"mae", "mae_edges", "chamfer", "edge_accuracy"} <= set(found.mean)


def test_depth_alone_is_enough(tmp_path):
    protocol = DepthProtocol(["eigen"], "median", "none")
    found = evaluate_depth(PRED, stored(tmp_path / "t.npz", {"depth": np.stack(SAME)}), protocol)
    expected = evaluate_depth(PRED, Truths(SAME), protocol)
    assert found.mean == expected.mean
    assert found.items[1]["name"] == "item 1"
    with pytest.raises(UserError, match="needs intrinsics"):
        evaluate_depth(PRED, TargetsFile.read(tmp_path / "t.npz"), PROTOCOL)


def test_a_network_needs_images(tmp_path):
    with pytest.raises(UserError, match=r"item 0 \(item 0\) comes without image"):
        evaluate_depth(index_as_depth, stored(tmp_path / "t.npz", {"depth": np.stack(SAME)}), PROTOCOL)


class Bomb:
    """What makes a folder when a careless reader opens the file."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_pickle_is_run(tmp_path):
    bomb = Bomb(tmp_path / "made")
    for depth in (np.array([bomb, bomb]), np.array([np.ones((2, 2)), bomb], dtype=object)):
        np.savez(tmp_path / "t.npz", depth=depth)
        with pytest.raises(UserError, match=r"t\.npz: depth: refused\..*nothing is run"):
            TargetsFile.read(tmp_path / "t.npz")
    assert not bomb.folder.exists()
    np.savez(tmp_path / "t.npz", depth=np.array([bomb, 1]))
    with np.load(tmp_path / "t.npz", allow_pickle=True) as careless:
        assert len(careless["depth"]) == 2
    assert bomb.folder.is_dir()  # so the file is what it is meant to be


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"deth": np.ones((3, 4, 6))}, "has no array 'depth'"),
        ({"depth": np.ones((3, 4, 6)), "K": np.ones((2, 3, 3))}, "K has 2 entries, depth 3"),
        ({"depth": np.ones((3, 4, 6)), "K": np.ones((3, 3, 4))}, r"K must be \(b, 3, 3\) or \(b, 4, 4\)"),
        ({"depth": np.ones((3, 4, 6)), "edge": np.ones((3, 4, 5))}, r"item 0 has depth of shape \(4, 6\)"),
        ({"depth": np.ones((3, 4))}, r"item 0 of depth is not a map \(h, w\)"),
        ({"depth": np.ones((3, 0, 6))}, "item 0 of depth is not a map"),
        ({"depth": np.float32(3)}, "depth is not an array"),
        ({"depth": np.ones((2, 4, 6), complex)}, "depth holds something other than maps of numbers .*complex128"),
        ({"depth": np.zeros((2, 4, 6), "M8[s]")}, "depth holds something other than maps of numbers .*datetime64"),
        ({"depth": np.ones((1, 4, 6)), "size": np.array([[-1, 6]])}, "size -1x6 of item 0 is not within its depth"),
        ({"depth": np.ones((1, 4, 6)), "size": np.array([[4, 0]])}, "size 4x0 of item 0"),
        ({"depth": np.ones((1, 4, 6)), "size": np.array([[5, 6]])}, "size 5x6 of item 0"),
        ({"depth": np.ones((1, 4, 6)), "size": np.array([4.0])}, r"size must be integers \(b, 2\), got float64"),
        ({"depth": np.ones((1, 4, 6)), "K": np.full((1, 3, 3), 1e200)}, "K of item 0 is no camera"),
        ({"depth": np.ones((1, 4, 6)), "K": np.ones((1, 3, 3), complex)}, "K holds complex128, not numbers"),
        ({"depth": np.array(["a", "b"])}, "depth holds something other than maps of numbers"),
        ({"depth": np.array([None, "b"])}, "depth holds something other than maps of numbers"),
    ],
)
def test_wrong_files(tmp_path, arrays, message):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UserError, match=rf"t\.npz: .*{message}"):
        TargetsFile.read(tmp_path / "t.npz")


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "t.npz"
    with pytest.raises(UserError, match="no such file"):
        TargetsFile.read(path)
    for content in (b"PK nothing", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not an NPZ file of ground truth"):
            TargetsFile.read(path)
    np.savez_compressed(path, **assembled(MIXED))
    whole = bytearray(path.read_bytes())
    whole[200:260] = bytes(60)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"t\.npz: "):
        TargetsFile.read(path)
