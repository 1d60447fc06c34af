"""What holds for every metric set: its keys, its directions, and that no two sets mean different things by one key."""

import numpy as np
import pytest

from trainer.metrics import METRICS, DepthMaps, MapMetricSet

K = np.array([[10.0, 0, 15.5], [0, 10.0, 11.5], [0, 0, 1]])


def world():
    """A near box before a wall, in true depth, and its edges."""
    truth = np.full((24, 32), 20.0)
    truth[6:18, 8:20] = 8.0
    edges = np.zeros(truth.shape, bool)
    edges[6:18, [8, 19]] = True
    edges[[6, 17], 8:20] = True
    return truth, edges


def score(metric_set, pred, truth, edges):
    if isinstance(metric_set, MapMetricSet):
        valid = np.ones(truth.shape, bool)
        scored = edges if "edges" in metric_set.needs else valid
        return metric_set.compute(DepthMaps(pred, truth, scored, valid, K, foreground=(truth < 10).astype(float)))
    return metric_set.compute(pred.ravel(), truth.ravel())


@pytest.mark.parametrize("name", METRICS.names())
def test_every_set_keeps_its_promises(name):
    """Keys as declared and in order; plain floats; no worse at a perfect prediction than at a bad one."""
    metric_set = METRICS.create(name)
    truth, edges = world()
    tilted = np.roll(truth, 2, axis=1) * np.linspace(3, 1.5, truth.shape[1])
    perfect, bad = score(metric_set, truth, truth, edges), score(metric_set, tilted, truth, edges)
    assert isinstance(metric_set.version, int)
    assert tuple(perfect) == metric_set.keys
    assert set(perfect) == set(bad)
    for metric in metric_set.metrics:
        assert type(perfect[metric.key]) is float
        assert metric.unit
        assert metric.title
        better = perfect[metric.key] - bad[metric.key]
        assert better >= 0 if metric.higher_is_better else better <= 0
    assert perfect != bad


def test_a_key_means_one_thing():
    seen = {}
    for name in METRICS.names():
        for metric in METRICS.get(name).metrics:
            other = seen.setdefault(metric.key, metric)
            assert (other.unit, other.higher_is_better) == (metric.unit, metric.higher_is_better), metric.key
