"""`share` writes a folder that loads in every way, or pushes it; nothing in it is private."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from tests.commands.evaluating import evaluate, saved, write_run
from tests.world import call, refused, train_args
from trainer.checkpoint import find_checkpoint, load_objective, safefile
from trainer.predict import DepthPredictor
from trainer.runtime.rundir import read_hparams


def share(*args: str | Path) -> Any:
    return call("share.py", *args)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a result of its `best`, one of another checkpoint, and one that is damaged."""
    run = write_run(
        tmp_path_factory.mktemp("run") / "md2" / "42", [-1, 1], **{"trainer.load_ckpt": "/home/alice/w.pth"}
    )
    assert evaluate(f"--ckpt {run} --limit 2") == 0
    (result,) = (run / "results").iterdir()
    other = saved(result)
    other["protocol"]["checkpoint"]["sha256"] = "0" * 64
    (run / "results" / "other.yaml").write_text(yaml.safe_dump(other))
    (run / "results" / "cut.yaml").write_text("mean: [")
    return run


@pytest.fixture(scope="module")
def shared(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared folder of that run; what the command printed is in `output.txt` beside it."""
    here = tmp_path_factory.mktemp("shared")
    (here / "pictures").mkdir()
    Image.fromarray(np.full((40, 80, 3), 99, np.uint8)).save(here / "pictures" / "grey.png")
    done = share(scored, here / "demo", "--license", "mit", "--pictures", here / "pictures")
    assert (done.returncode, done.stderr) == (0, "")
    (here / "output.txt").write_text(done.stdout)
    return here / "demo"


def test_the_folder_loads_like_the_run_bit_by_bit(scored: Path, shared: Path) -> None:
    assert {path.name for path in shared.iterdir()} >= {"model.safetensors", "config.json", "README.md", "sheet.png"}
    ours, theirs = (load_objective(path).state_dict() for path in (scored, shared))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    image = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    maps = [DepthPredictor.load(path)(image) for path in (scored, shared, shared / "model.safetensors")]
    assert all((one.disparity == maps[0].disparity).all() for one in maps)
    assert json.loads((shared / "config.json").read_text())["depth_estimation_type"] == "relative"


def test_transformers_loads_the_folder_without_this_project(shared: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an extra: pip install -e .[export]")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 110, 3), np.uint8))
    with patch("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path)):
        pipe = transformers.pipeline("depth-estimation", model=str(shared), trust_remote_code=True)
    predicted = pipe(image)["predicted_depth"].numpy()
    ours = DepthPredictor.load(shared)(image).disparity
    assert predicted == pytest.approx(ours, rel=5e-4)  # disparity; they resize by Pillow, which differs by one level
    snippet = 'predicted_depth"]  # 1 / depth up to a factor: larger = nearer'
    assert snippet in (shared / "README.md").read_text()


def test_without_transformers_the_folder_is_for_this_project(scored: Path, tmp_path: Path) -> None:
    with patch.dict("sys.modules", {"transformers": None}):
        done = share(scored, tmp_path / "demo")
    assert "note: transformers cannot load the folder: A folder for transformers needs the package" in done.stdout
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert json.loads((tmp_path / "demo" / "config.json").read_text())["library_name"] == "monodepth"
    assert "trust_remote_code" not in (tmp_path / "demo" / "README.md").read_text()
    assert find_checkpoint(tmp_path / "demo") == tmp_path / "demo" / "model.safetensors"


def test_the_card_holds_the_numbers_of_this_checkpoint_alone(scored: Path, shared: Path) -> None:
    card = ModelCard.load(shared / "README.md")
    (result,) = (scored / "results").glob("synthetic*.yaml")
    numbers = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert numbers == pytest.approx(saved(result)["mean"], abs=1e-6)
    assert card.text.count("**this model**") == 1
    assert "alignment median: median(truth) / median(prediction), per image" in card.text
    assert "images: 2 of 4, evenly spaced" in card.text
    assert "![Pictures and predicted disparity](./sheet.png)" in card.text
    output = (shared.parent / "output.txt").read_text()
    assert "left out: " in output
    assert "other.yaml: scores another checkpoint than this" in output
    assert "cut.yaml: cannot be read" in output


def test_nothing_private_is_in_the_folder(scored: Path, shared: Path) -> None:
    for file in shared.iterdir():
        for private in (b"alice", str(scored).encode(), str(shared.parent).encode()):
            assert private not in file.read_bytes(), file.name
    output = (shared.parent / "output.txt").read_text()
    assert "only the last part of a path is kept: config.trainer.load_ckpt\n" in output


def test_a_training_starts_from_the_folder_and_its_settings_say_so(trained_run: Path, tmp_path: Path) -> None:
    done = share(trained_run / "run" / "1", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert "| ended | not recorded |" not in (tmp_path / "demo" / "README.md").read_text()
    start = f"trainer.load_ckpt={tmp_path / 'demo'}"
    done = call(*train_args(tmp_path, start, "trainer.max_epochs=1", "optimizer.lr=0", version="2"))
    assert done.returncode == 0, done.stderr
    hparams = read_hparams(tmp_path / "run" / "2" / "hparams.yaml")
    assert hparams["config"]["trainer"]["load_ckpt"] == str(tmp_path / "demo")
    first, last = (load_objective(tmp_path / path).networks["depth"].state_dict() for path in ("demo", "run/2"))
    assert all(torch.equal(first[name], last[name]) for name in first if "running" not in name and "num_" not in name)


def test_a_folder_that_is_there_is_kept_unless_forced(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    refused(share(scored, tmp_path / "out"), "exists. Use --force")
    done = share(scored, tmp_path / "out", "--force")
    assert done.returncode == 0, done.stderr
    assert "note: no licence is stated" in done.stdout
    assert "note: the card has no pictures" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} > {"mine.txt", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing is left of the staging


def test_mistakes_are_found_before_anything_is_written(scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(share(scored, out, "--license", "My own"), "expected an identifier of the Hub")
    refused(share(scored, out, "--private"), "--private")
    refused(share(scored, out, "--pictures", tmp_path), "is no folder with pictures")
    refused(share(scored, "hf://alice/n--t"), "is no name of a repository on the Hub")
    refused(share(scored, "alice/net@v2"), "Leave out @v2")
    refused(share(tmp_path / "nothing", out), "there is no such file")
    best = scored / "ckpts" / "best.safetensors"
    (tmp_path / "run" / "ckpts").mkdir(parents=True)
    (tmp_path / "run" / "ckpts" / "last.safetensors").symlink_to(best)
    refused(share(tmp_path / "run", out), "has no best.safetensors", "name the file: ", "last.safetensors")
    tensors, metadata = safefile.read(best)
    pose = {name: tensor for name, tensor in tensors.items() if ".pose." in name}
    hparams = json.loads(metadata["hparams"])
    safefile.write(tmp_path / "part", tensors, metadata | {"parts": '["depth.encoder"]'})
    refused(share(tmp_path / "part", out), "holds only depth.encoder, no whole depth network")
    del hparams["config"]["net"]["depth"]
    hparams["config"]["loss"] = {}
    safefile.write(tmp_path / "pose", pose, metadata | {"hparams": json.dumps(hparams)})
    refused(share(tmp_path / "pose", out), "depth")
    with patch("shutil.disk_usage", lambda path: SimpleNamespace(free=1000)):
        refused(share(scored, out), "only 0 MB are free there")
    assert not out.exists()


class Pushes:
    """What `HfApi` was asked to do."""

    def __init__(self, error: Exception | None = None, private: bool = False):
        self.error, self.private = error, private
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.error:
            raise self.error
        self.asked.append((repo_id, options))
        return f"https://huggingface.co/{repo_id}"

    def model_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, folder_path: str, repo_id: str, commit_message: str) -> None:
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    def __enter__(self) -> Pushes:
        names = ("create_repo", "model_info", "upload_folder")
        self._patch = patch.multiple(HfApi, **{name: staticmethod(getattr(self, name)) for name in names})
        self._patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.stop()


def test_a_name_pushes_the_same_folder(scored: Path, shared: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with Pushes() as hub:
        done = share(scored, "alice/net", "--private")
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "alice/net: a private repository on the Hub (./alice/net is a folder)"
    assert last == "pushed https://huggingface.co/alice/net"
    assert hub.asked == [("alice/net", {"private": True, "exist_ok": False})]
    assert hub.files["model.safetensors"] == (shared / "model.safetensors").read_bytes()
    assert b'DepthPredictor.load("alice/net")' in hub.files["README.md"]
    assert list(tmp_path.iterdir()) == []


def http_error(status: int, text: str) -> HfHubHTTPError:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(text, response=response)


def test_a_push_that_is_refused_is_a_sentence(scored: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with Pushes(http_error(401, "401 Unauthorized\nInvalid username or password.")) as hub:
        refused(share(scored, "alice/net"), "401 Unauthorized. Log in with `hf auth login`, or set HF_TOKEN")
    with Pushes(http_error(409, "409 Conflict: you already created this model repo")) as hub:
        refused(share(scored, "alice/net"), "409 Conflict", "--force")
    with Pushes(private=False) as hub:
        refused(share(scored, "alice/net", "--private", "--force"), "exists and is public", "Nothing was pushed")
    assert hub.files == {}
