"""`calibrate`: what is kept, who uses it, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands.evaluating import evaluate, saved, write_run
from trainer.checkpoint import Saved, load_objective, safefile
from trainer.checkpoint.publish import published
from trainer.checkpoint.trained_on import TrainedOn, read_trained_on
from trainer.commands.calibrate import main
from trainer.commands.export import main as export
from trainer.data.files.frames import LEFT, Frames
from trainer.evaluation import Execution
from trainer.evaluation.calibration import measure_metres
from trainer.evaluation.session import Network
from trainer.metrics.calibration import Calibration, PowerLaw
from trainer.metrics.protocol import DepthProtocol
from trainer.predict import DepthPredictor
from trainer.runtime.errors import UserError
from trainer.runtime.processes import Processes

PICTURE = Image.fromarray(np.arange(96 * 64 * 3, dtype=np.uint8).reshape(64, 96, 3))


@pytest.fixture(scope="module")
def video_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "m", [-1, 1], **{"dataset.val.num_items": 8})


def calibrate(*args):
    return main([str(arg) for arg in args])


def test_a_scale_is_kept_and_used_by_predict_evaluate_and_share(video_run, tmp_path, capsys):
    out = tmp_path / "metric.safetensors"
    assert calibrate("--ckpt", video_run, "--scale-only", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "cross-validated on 8 images of 4 drives, in 4 parts of whole drives" in printed
    best = video_run / "ckpts" / "best.safetensors"
    old, new = (Saved(path, *safefile.read(path)) for path in (best, out))
    kept = new.calibration
    assert old.calibration is None
    assert kept.a == 1
    assert (dict(kept.data), kept.images, kept.drives) == ({"type": "synthetic", "mode": "val"}, 8, 4)
    assert kept.abs_rel["after"] == kept.abs_rel["scale"] < kept.abs_rel["before"]
    assert new.hparams == old.hparams
    assert all(torch.equal(tensor, new.tensors[name]) for name, tensor in old.tensors.items())
    assert "calibration" in published(new)[0].metadata

    before, after = DepthPredictor.load(best)(PICTURE), DepthPredictor.load(out)(PICTURE)
    assert (before.unit, after.unit) == ("relative", "m")
    np.testing.assert_allclose(after.depth, before.depth * kept.factor, rtol=1e-5)
    assert "calibrated on 8 images of synthetic (val)" in str(after.scale)
    given = DepthPredictor.load(out, scale=2.0)(PICTURE)  # the user's word wins
    np.testing.assert_allclose(given.depth, before.depth * 2, rtol=1e-5)
    images = torch.rand(1, 3, 64, 96)
    assert torch.equal(load_objective(out).predict_depth(images), load_objective(best).predict_depth(images))

    result = tmp_path / "r.yaml"
    assert evaluate("--ckpt", out, "--save", result) == 0
    protocol = saved(result)["protocol"]
    assert protocol["alignment"] == "none"
    assert protocol["checkpoint"]["metres"]["b"] == pytest.approx(kept.b)
    again = DepthPredictor.load(best, scale=result)(PICTURE)  # ratios on top of the calibration
    ratios = [item["truth_over_prediction"] for item in saved(result)["items"]]
    np.testing.assert_allclose(again.depth, before.depth * kept.factor * np.median(ratios), rtol=1e-5)


def test_a_power_changes_what_leaves_the_house_and_can_be_removed(video_run, tmp_path):
    best, out = video_run / "ckpts" / "best.safetensors", tmp_path / "power.safetensors"
    law = Calibration(
        1.3, 1.5, {"type": "synthetic", "mode": "val"}, 8, 4, 4, {"before": 0.9, "scale": 0.3, "after": 0.2}
    )
    saved_with = Saved(best, *safefile.read(best)).recalibrated(law)
    safefile.write(out, saved_with.tensors, saved_with.metadata)
    plain, metric = (DepthPredictor.load(path) for path in (best, out))
    expected = np.exp(1.3 * np.log(plain(PICTURE).depth.astype(float)) + 1.5)
    np.testing.assert_allclose(metric(PICTURE).depth, expected, rtol=1e-4)
    assert metric(PICTURE).texts["scale_exponent"] == "1.3"
    disparity, depth = metric.network(torch.rand(1, 3, 64, 96))
    assert torch.allclose(disparity * depth, torch.ones(()), atol=1e-5)
    network = Network.load(out, None, torch.device("cpu"), law)
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(network.predict_depth(images), metric.network(images)[1])

    pytest.importorskip("transformers", reason="of the extra `export`")
    folder = tmp_path / "folder"  # compared with PyTorch before it is kept
    assert export([str(out), "--format", "transformers", "--out", str(folder)]) == 0
    facts = json.loads((folder / "config.json").read_text())["facts"]
    assert (facts["unit"], facts["scale_exponent"]) == ("m", "1.3")
    assert json.loads(facts["calibration"])["images"] == 8

    assert calibrate("--ckpt", out, "--remove", "--out", tmp_path / "plain.safetensors") == 0
    again = Saved(tmp_path / "plain.safetensors", *safefile.read(tmp_path / "plain.safetensors"))
    assert again.calibration is None
    assert all(torch.equal(tensor, saved_with.tensors[name]) for name, tensor in again.tensors.items())


def test_what_the_network_has_seen_is_still_known_and_the_next_step_is_named(video_run, tmp_path, capsys):
    start, out, last = (tmp_path / f"{name}.safetensors" for name in ("start", "a b", "last"))
    tensors, metadata = safefile.read(video_run / "ckpts" / "best.safetensors")
    seen, entry = TrainedOn(frames=Frames.of([("d", [3, 4], LEFT)]), pictures=np.array([-5, 9])).pack()
    safefile.write(start, {**tensors, **seen}, {**metadata, **entry})
    assert calibrate("--ckpt", start, "--scale-only", "--out", out) == 0
    assert calibrate("--ckpt", out, "--remove", "--out", last) == 0
    for path in (out, last):
        kept = read_trained_on(path)
        assert kept.frames.only(LEFT)["d"].tolist() == [3, 4]
        assert kept.pictures.tolist() == [-5, 9]
    printed = capsys.readouterr().out
    assert f"{start} stays as it is" in printed
    assert f"next  monodepth predict '{out}' <pictures>\n" in printed


def test_scoring_the_images_of_the_fit_warns_and_stereo_is_refused(video_run, tmp_path, capsys):
    out = tmp_path / "metric.safetensors"
    assert calibrate("--ckpt", video_run, "--scale-only", "--out", out) == 0
    assert evaluate("--ckpt", out, "--mode val --save", tmp_path / "r.yaml") == 0
    assert "were fitted to 8 images of this data set" in capsys.readouterr().err
    assert evaluate("--ckpt", out, "--alignment stereo --save", tmp_path / "r.yaml") == 2
    assert "in metres already" in capsys.readouterr().err


class Coded:
    """Items whose picture is a law of their true depth; three drives of four frames."""

    def __init__(self, law):
        rng = np.random.default_rng(1)
        self.truth = [torch.tensor(rng.uniform(2, 60, (1, 64, 64)), dtype=torch.float32) for _ in range(12)]
        self.law = law

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {"target": self.law(self.truth[index]).expand(3, -1, -1), "depth": self.truth[index]}

    def describe(self, index):
        return f"image {index}"

    def scene_of(self, index):
        return f"drive {index // 4}"


def measured(law, before=1.0, **options):
    protocol = DepthProtocol(["eigen"], "none", "none")
    return measure_metres(lambda images: images[:, :1], Coded(law), protocol, PowerLaw.scale(before), **options)


class OtherFirst(Processes):
    """All processes in one, whose items arrive in another order."""

    def gather(self, mine):
        return list(mine)[::-1]


ABOUT = {"type": "coded", "mode": "val"}


def test_the_law_that_made_the_images_is_undone():
    found = measured(lambda truth: 0.3 * truth**0.7)
    kept = found.calibration(False, is_metric=False, data=ABOUT)
    assert (kept.a, kept.factor) == (pytest.approx(1 / 0.7, rel=1e-4), pytest.approx(0.3 ** (-1 / 0.7), rel=1e-4))
    assert (kept.images, kept.drives, kept.folds) == (12, 3, 3)
    assert kept.abs_rel["after"] < 1e-4 < 0.1 < kept.abs_rel["scale"]
    elsewhere = measured(lambda truth: 0.3 * truth**0.7, how=Execution(processes=OtherFirst()))
    assert elsewhere.law == found.law


def test_a_power_that_does_not_help_is_refused_with_numbers():
    found = measured(lambda truth: truth / 5.4)
    with pytest.raises(UserError, match=r"does not help against one scale: cross-validated AbsRel .*--scale-only"):
        found.calibration(False, is_metric=False, data=ABOUT)
    assert found.calibration(True, is_metric=False, data=ABOUT).factor == pytest.approx(5.4, rel=1e-4)


def test_a_power_of_a_network_that_tells_no_depths_apart_is_refused():
    found = measured(lambda truth: 2 + 0.1 * torch.log(truth))  # as monotonous, but nearly the same everywhere
    assert found.law.a > 4
    with pytest.raises(UserError, match=r"not between 0.25 and 4: .* AbsRel 0\.\d+, of one scale .*--scale-only"):
        found.calibration(False, is_metric=False, data=ABOUT)
    assert found.calibration(True, is_metric=False, data=ABOUT).a == 1


def test_a_scale_must_help_where_depth_was_metric():
    right = measured(lambda truth: truth / 5.4, before=5.4)
    with pytest.raises(UserError, match="one scale does not help against as it is"):
        right.calibration(True, is_metric=True, data=ABOUT)
    wrong = measured(lambda truth: truth / 4, before=5.4)
    assert wrong.calibration(True, is_metric=True, data=ABOUT).factor == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--out", "x.pth"], "must end in .safetensors"),
        (["--out", "{best}"], "is the checkpoint itself"),
        (["--remove"], "has no calibration to remove"),
        (["--remove", "--limit", "3"], "--limit: has no meaning with --remove"),
        (["--scale-only", "--limit", "1"], "too few to fit metres"),
        (["--scale-only", "--set", "dataset.use_depth=false", "dataset.type=folder", "dataset.path=nowhere"], "error"),
    ],
)
def test_mistakes_are_sentences(video_run, capsys, args, text):
    best = video_run / "ckpts" / "best.safetensors"
    assert calibrate("--ckpt", best, *(arg.format(best=best) for arg in args)) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error
    assert not list((video_run / "ckpts").glob("*calibrated*"))


def test_an_odd_calibration_is_a_damaged_file(video_run, tmp_path):
    tensors, metadata = safefile.read(video_run / "ckpts" / "best.safetensors")
    odd = {"a": -1.0, "b": 0.0, "data": {}, "images": 1, "drives": 1, "folds": 2, "abs_rel": {}}
    safefile.write(tmp_path / "odd.safetensors", tensors, {**metadata, "calibration": json.dumps(odd)})
    with pytest.raises(safefile.DamagedFile, match=r"calibration\.a"):
        load_objective(tmp_path / "odd.safetensors")


def test_a_loss_that_fixes_the_scale_makes_depth_metric(tmp_path, capsys):
    run = write_run(tmp_path / "s", [-1, 1], **{"loss.speed": {"weight": 0.05}, "dataset.use_speed": True})
    result = DepthPredictor.load(run)(PICTURE)
    assert (result.unit, result.scale.factor) == ("m", pytest.approx(5.4))
    assert "trained with speed" in result.scale.origin
    save = tmp_path / "r.yaml"
    assert evaluate("--ckpt", run, "--alignment none median --limit 2 --save", save) == 0
    none, median = (saved(save.with_name(f"r_{name}.yaml")) for name in ("none", "median"))
    ratios = [item["truth_over_prediction"] for item in none["items"]]
    assert [item["factor"] for item in median["items"]] == pytest.approx(ratios)
    off = write_run(tmp_path / "o", [-1, 1], **{"loss.speed": {"weight": 0}, "dataset.use_speed": True})
    assert DepthPredictor.load(off)(PICTURE).unit == "relative"
