"""Models on the Hub: what is a name and what a path, what is fetched, and what is said when it cannot be."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from tests.commands.evaluating import evaluate, write_run
from tests.hub import Hub, serving
from trainer.checkpoint import find_checkpoint, hub, load_objective, read_pretrained, safefile
from trainer.checkpoint.publish import published
from trainer.checkpoint.saved import Saved
from trainer.predict import DepthPredictor
from trainer.runtime.errors import UserError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of ours, one of other code, and one that has no weights."""
    here = tmp_path_factory.mktemp("models")
    best = write_run(here / "run", [-1, 1]) / "ckpts" / "best.safetensors"
    for name in ("net", "other", "empty"):
        (here / name).mkdir()
    public, _ = published(Saved(best, *safefile.read(best)))
    safefile.write(here / "net" / hub.CHECKPOINT, public.tensors, public.metadata)
    for name, library in (("net", "monodepth"), ("other", "timm"), ("empty", "monodepth")):
        (here / name / hub.SETTINGS).write_text(json.dumps({"library_name": library}))
    (here / "other" / hub.CHECKPOINT).write_bytes(bytes(1000))
    (here / "net" / "run_me.py").write_text("raise SystemExit('code of a model was run')")
    return {f"alice/{name}": here / name for name in ("net", "other", "empty")}


@pytest.fixture
def server(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The stand-in for the Hub; the working directory is an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving(models, tmp_path / "cache") as found:
        yield found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alice/net", ("alice/net", None)),
        ("alice/net@v1.0", ("alice/net", "v1.0")),
        ("alice/net@refs/pr/1", ("alice/net", "refs/pr/1")),
        ("hf://alice/net@v1", ("alice/net", "v1")),
        (Path("hf://alice/net"), ("alice/net", None)),
        ("hf://taken/net", ("taken/net", None)),  # said to be on the Hub, whatever is here
        ("taken/net", None),  # there is a folder `taken`
        ("./alice/net", None),
        ("../net", None),
        ("~/net", None),
        ("/alice/net", None),
        ("alice/net/ckpts", None),
        ("net", None),
        ("out/best.safetensors", None),
        ("out/weights.pth", None),
    ],
)
def test_what_is_a_name_and_what_a_path(text, name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.as_hub_name(text) == name


def test_a_model_loads_by_its_name_in_every_way_and_is_fetched_once(
    server: Hub, models: dict[str, Path], tmp_path: Path
) -> None:
    local = load_objective(models["alice/net"]).state_dict()
    with ThreadPoolExecutor(2) as two:  # the second waits for the file of the first
        for loaded in two.map(load_objective, ["alice/net", "hf://alice/net@main"]):
            assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in local.items())
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    maps = [DepthPredictor.load(path)(image).disparity for path in ("alice/net", models["alice/net"])]
    assert (maps[0] == maps[1]).all()
    assert read_pretrained("alice/net").networks == ("depth", "pose")
    assert server.fetched["model.safetensors"] == server.fetched["config.json"] == 1
    assert not server.fetched["run_me.py"]

    with patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):  # and works without the network from then on
        assert find_checkpoint("alice/net").is_relative_to(tmp_path / "cache")


def test_results_of_a_model_on_the_hub_stay_out_of_its_cache(server: Hub) -> None:
    assert evaluate("--ckpt alice/net --limit 1") == 0
    (result,) = Path().rglob("*.yaml")
    assert result.parts[:3] == ("models", "alice", "net")
    assert result.parts[4:] == ("results", "synthetic_model_median_1items.yaml")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("alice/other", "is a model of other code"),
        ("alice/empty", "holds no model.safetensors"),
        ("alice/nothing", "no such file or folder, and no such model on the Hub, or a private or gated one"),
        ("alice/net@v2", "has no revision v2"),
        ("alice/n--t", "no name that the Hub allows"),
        ("hf://alice", "is no name of a model on the Hub. Expected hf://user/name"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_weights_are_fetched(server: Hub, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        load_objective(name)
    assert "\n" not in str(caught.value)
    assert not server.fetched["model.safetensors"]


def test_without_network_or_client_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with patch("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path)):
        with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 forbids the network"):
            load_objective("alice/net")
        online = {"HF_HUB_OFFLINE": False, "ENDPOINT": "http://127.0.0.1:9"}
        with patch.multiple("huggingface_hub.constants", **online), pytest.raises(UserError, match="cannot be reached"):
            load_objective("alice/net")
    with (
        patch.dict("sys.modules", {"huggingface_hub": None}),
        pytest.raises(UserError, match=r'install -e "\.\[hub\]"'),
    ):
        load_objective("alice/net")


def test_a_folder_here_wins(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "net").symlink_to(models["alice/net"])
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("alice/net") == Path("alice/net/model.safetensors")
    with pytest.raises(UserError, match="there is no such file"):
        load_objective("alice/typo")
