"""Camera paths that are known, cut where a frame is missing."""

from __future__ import annotations

import pytest
import torch

from tests.metrics.test_odometry import straight
from trainer.data.base import DepthDataset
from trainer.evaluation import Execution, evaluate_odometry
from trainer.runtime.errors import UserError


class Drive:
    """Two drives straight ahead, 1 m per frame; the second one lacks its frame 3."""

    supp_idxs = (1,)
    place = DepthDataset.place
    names = (*(f"a/{i}" for i in range(6)), *(f"b/{i}" for i in (0, 1, 2, 4, 5, 6, 7)))

    def __len__(self):
        return len(self.names)

    def describe(self, index):
        return self.names[index]

    def __getitem__(self, index):
        Ts = torch.from_numpy(straight(1)).float()
        return {"target": torch.full((3, 2, 4), float(index)), "Ts_true": Ts, "index": torch.tensor(index)}


def half_as_far(batch):
    Ts = batch["Ts_true"].clone()
    Ts[..., :3, 3] /= 2
    return Ts


def test_sequences_are_cut_where_a_frame_is_missing():
    result = evaluate_odometry(half_as_far, Drive(), Execution(batch_size=4))
    rows = [(s["name"], s["first_frame"], s["frames"], s["snippets"]) for s in result["sequences"]]
    assert rows == [("a", 0, 7, 3), ("b", 0, 4, 0), ("b", 4, 5, 1)]
    assert result["mean"] == {"ate_m": pytest.approx(0, abs=1e-6)}
    assert [s["scale"] for s in result["sequences"]] == pytest.approx([2, 2, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supp_idxs": (-1, 1)}, "the next frame"),
        ({"names": ("a/0", "a/x")}, "does not end in a frame number"),
        ({"names": ("a/0", "a/1")}, "5 frames in a row"),
    ],
)
def test_what_is_not_a_path(changes, message):
    data = type("Other", (Drive,), changes)()
    with pytest.raises(UserError, match=message):
        evaluate_odometry(half_as_far, data)
