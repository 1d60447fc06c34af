"""Plugins: entries of a user's module work like built-in ones; errors name the missing module."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from models_zoo import NETWORKS
from models_zoo.decoders import DECODERS
from models_zoo.encoders import ENCODERS
from models_zoo.registry import Registry
from tests.world import ROOT, fork
from trainer.checkpoint import load_objective
from trainer.checkpoint.safefile import read_metadata
from trainer.checkpoint.state import TrainState
from trainer.commands import evaluate as evaluate_command
from trainer.commands import list as list_command
from trainer.commands import schema as schema_command
from trainer.commands import train as train_command
from trainer.commands.__main__ import added_commands
from trainer.commands.__main__ import main as monodepth
from trainer.commands.jobs.train import _summary
from trainer.config import Config, ConfigError, load_config
from trainer.config.plugins import load_plugins, naming_plugins, with_plugins
from trainer.data import DATASETS
from trainer.data.loaders import EpochBatches, make_loader
from trainer.losses import LOSSES
from trainer.metrics import METRICS
from trainer.runtime.errors import UserError
from trainer.runtime.rundir import RunDir
from trainer.training.run import Run

DOC = (ROOT / "docs/extending/index.md").read_text(encoding="utf-8")
PARTS = ["my_loss", "my_encoder", "my_decoder", "my_data"]
REGISTRIES = (NETWORKS, ENCODERS, DECODERS, LOSSES, DATASETS, METRICS)
TINY = (  # two steps of two images
    "net.pose.enc_name=test_resnet",
    "dataset.size=[64,64]",
    "dataset.num_items=4",
    "loader.batch_size=2",
    "trainer.max_epochs=1",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
)


def write_example(folder: Path) -> Path:
    """Write the files of docs/extending/index.md: blocks whose first line names one."""
    for text in re.findall(r"^```\w+\n(.*?)^```$", DOC, re.M | re.S):
        if named := re.match(r"# (\w+\.\w+)\n", text):
            (folder / named[1]).write_text(text)
    return folder


def command(name: str) -> list[str]:
    """Return the words behind `monodepth` of the last command of that name on the page."""
    words = re.findall(rf"^monodepth ({name} .*)$", DOC.replace("\\\n", " "), re.M)[-1].split()
    assert words[-5:] == ["--plugins", *PARTS]
    return words


def without_plugins(words: list[str]) -> list[str]:
    return words[: words.index("--plugins")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to an empty folder; imports and registrations are undone after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for registry in REGISTRIES:
        registry.names()  # keep the built-in entries
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def write(here: Path) -> Callable[..., Path]:
    """Write a module that registers the loss `name`, by default that of the file."""

    def write(path: str, name: str = "", body: str = "") -> Path:
        file = here / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = f"from trainer.losses import LOSSES\n{body}\n"
        text += f"@LOSSES.register({name or file.stem!r})\nclass Mine:\n    needs = frozenset()\n"
        file.write_text(text)
        return file

    return write


# Where modules are found


def test_a_module_of_the_working_directory(write) -> None:
    write("in_cwd.py")
    load_plugins(["in_cwd"])
    assert LOSSES.get("in_cwd").__module__ == "in_cwd"


def test_a_module_on_the_path_of_python(write, here, monkeypatch) -> None:
    write("elsewhere/on_path.py")
    monkeypatch.syspath_prepend(str(here / "elsewhere"))
    load_plugins(["on_path"])
    assert LOSSES.get("on_path").__module__ == "on_path"


@pytest.mark.parametrize("given", ["lab/losses/deep.py", "lab.losses.deep"])
def test_a_module_of_a_package_has_its_whole_name(write, given) -> None:
    for folder in ("lab", "lab/losses"):
        write(f"{folder}/__init__.py", name=folder.replace("/", "_"))
    write("lab/losses/deep.py", body="from lab import Mine as Other")
    load_plugins([given])
    assert LOSSES.get("deep").__module__ == "lab.losses.deep"


def test_a_file_outside_of_every_package(write, here) -> None:
    file = write("far/away/single.py")
    load_plugins([str(file), "far/away/single.py", "single"])  # thrice the same
    assert LOSSES.get("single").__module__ == "single"
    assert str(here / "far" / "away") in sys.path


# What is refused


def refusal(*plugins: str) -> str:
    with pytest.raises(UserError) as caught:
        load_plugins(plugins)
    return str(caught.value)


def test_a_missing_module_names_the_nearest(write, here) -> None:
    write("my_losses.py")
    assert refusal("my_loses") == (
        f"--plugins my_loses: no module 'my_loses' in {here} or on PYTHONPATH. "
        "Did you mean 'my_losses'? Known: my_losses"
    )
    assert refusal("./my_loses.py") == (
        "--plugins ./my_loses.py: no such file. Did you mean 'my_losses.py'? Known: my_losses.py"
    )
    assert refusal("no/where.py") == f"--plugins no/where.py: no such folder {here / 'no'}"
    assert refusal("my_losses.deep").startswith("--plugins my_losses.deep: no module 'deep' in package my_losses. ")


def test_a_missing_module_of_a_package_names_its_neighbours(write) -> None:
    write("kit/__init__.py", name="kit")
    write("kit/robust.py")
    assert "no module 'robst' in package kit. Did you mean 'robust'?" in refusal("kit.robst")


def test_a_file_whose_name_is_no_name(write) -> None:
    write("my-loss.py")
    assert "'my-loss' cannot name a module. Rename it" in refusal("my-loss.py")


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        ("size = 3\nsize.shape", "size.shape", "AttributeError: 'int' object has no attribute 'shape'"),
        ("size = 3\nimport not_installed", "import not_installed", "No module named 'not_installed'"),
        ("size = 3\nsize = = 3", "size = = 3", "SyntaxError: invalid syntax"),
        ("size = 3\nraise SystemExit('bye')", "raise SystemExit('bye')", "SystemExit: bye"),
    ],
)
def test_a_broken_module_shows_its_own_error(write, body, line, message) -> None:
    file = write("broken.py", body=body)
    first, place, error = refusal("broken").splitlines()  # without frames of the project
    assert first == "--plugins broken: cannot be imported"
    assert place == f"  {file}:3: {line}"
    assert message in error


def test_a_taken_name_shows_both_entries(write) -> None:
    file = write("greedy.py", name="disp_smooth")
    message = refusal("greedy")
    assert "loss 'disp_smooth' is registered twice: trainer.losses.smoothness.DisparitySmoothness" in message
    assert "greedy.Mine. Choose another name" in message
    assert f"{file}:3: @LOSSES.register('disp_smooth')" in message


def test_the_newcomer_is_refused_even_when_it_comes_first(write, here) -> None:
    """Even before the first look-up, the plugin is refused rather than the built-in entry."""
    write("early.py", name="disp_smooth")
    code = "from trainer.config.plugins import load_plugins; load_plugins(['early'])"
    done = fork("-c", code, cwd=here)
    assert "UserError: --plugins early: loss 'disp_smooth' is registered twice: trainer.losses" in done.stderr


def test_a_module_hidden_by_an_installed_one(write) -> None:
    write("yaml.py", name="hidden")
    message = refusal("yaml")
    assert "yaml.py is hidden by another module of this name" in message
    assert yaml.__file__ in message


def test_a_module_may_be_loaded_again(write) -> None:
    write("again.py")
    load_plugins(["again"])
    first = LOSSES.get("again")
    del sys.modules["again"]
    load_plugins(["again"])
    assert LOSSES.get("again") is not first


def test_a_registry_takes_nothing_when_one_name_is_taken() -> None:
    registry = Registry("shape", package="models_zoo.decoders")
    registry._discovered = True
    registry.register("box")(UserError)
    with pytest.raises(ValueError, match="shape 'box' is registered twice"):
        registry.register("cube", "box")(ConfigError)
    assert registry.names() == ["box"]


# Metrics and commands


def test_the_metrics_of_the_page(here) -> None:
    """Of the errors 0.5, 2, 0 and 3 m two are above one metre; the median lies between 0.5 and 2 m."""
    write_example(here)
    load_plugins(["my_metric"])
    truth = np.full(4, 10.0)
    scores = METRICS.create("far_off").compute(np.array([10.5, 8, 10, 13]), truth)
    assert scores == {"bad_1m": 0.5, "median_error": 1.25}


def install(folder: Path, project: str) -> None:
    """Make what pip installs of a pyproject.toml with entry points, as far as they go."""
    points = re.search(r'entry-points."(.*?)"\]\n(.*?)\n\n', project, re.S)
    info = folder / "my_depth_tools-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-depth-tools\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{points[1]}]\n{points[2]}\n".replace('"', ""))


def test_a_command_of_another_package(here, monkeypatch, capsys) -> None:
    write_example(here)
    install(here, (here / "pyproject.toml").read_text())
    monkeypatch.syspath_prepend(str(here))
    with pytest.raises(SystemExit, match="0"):
        monodepth(["--help"])
    assert "\n  depth-range      of the package my-depth-tools\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        monodepth(["depth-range", "--help"])
    assert capsys.readouterr().out.startswith("usage: monodepth depth-range")
    with pytest.raises(SystemExit, match="2"):
        monodepth(["depth-rage"])
    assert "Did you mean 'depth-range'?" in capsys.readouterr().err
    assert monodepth(["depth_range", "nothing.safetensors", "street.jpg"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: nothing.safetensors")
    assert "Traceback" not in shown


@pytest.mark.parametrize("body", ["import not_installed", "size = = 3", "def other(): ..."])
def test_a_broken_command_of_another_package_is_named(here, monkeypatch, capsys, body: str) -> None:
    (here / "my_command.py").write_text(body)
    install(here, '[project.entry-points."monodepth.commands"]\ndepth-range = "my_command:main"\n\n')
    monkeypatch.syspath_prepend(str(here))
    assert monodepth(["depth-range"]) == 2
    told = "error: monodepth depth-range: my_command:main of the package my-depth-tools cannot be imported: "
    assert capsys.readouterr().err.startswith(told)


def test_a_command_of_another_package_replaces_none_of_ours(here, monkeypatch) -> None:
    install(here, '[project.entry-points."monodepth.commands"]\ntrain = "my_command:main"\ntables = "x:y"\n\n')
    monkeypatch.syspath_prepend(str(here))
    assert added_commands() == {}


@pytest.mark.slow
def test_the_command_of_the_page_runs(trained: Path, here: Path, capsys) -> None:
    """A network of the example sees depth within its limits in a picture of our own."""
    write_example(here)
    Image.new("RGB", (96, 64), (90, 120, 60)).save("grey.png")
    load_plugins([str(trained / f"{part}.py") for part in PARTS])
    import_module("my_command").main([str(trained / "models/mine/dots/1"), "grey.png"])
    told = re.fullmatch(r"grey.png: (\S+) to (\S+) (.+)\n", capsys.readouterr().out)
    assert 0 < float(told[1]) <= float(told[2])
    for part in PARTS:
        del sys.modules[part]


# Checkpoints that name plugins


def test_a_command_to_copy_names_the_plugins() -> None:
    assert with_plugins("monodepth predict x PICTURE", ()) == "monodepth predict x PICTURE"
    assert with_plugins("monodepth evaluate --ckpt x", ["my_loss", "a b.py"]).endswith("x --plugins my_loss 'a b.py'")


@pytest.mark.parametrize(
    ("hparams", "metrics", "command"),
    [
        ({"config": {}, "plugins": PARTS}, {"AbsRel": 0.1}, "evaluate --ckpt {} --plugins " + " ".join(PARTS)),
        ({"config": {}, "plugins": ["a b.py"]}, {"loss": 0.1}, "predict {} PICTURE --plugins 'a b.py'"),
        ({"config": {}, "plugins": None}, {}, "predict {} PICTURE"),
        ({"config": {}}, {}, "predict {} PICTURE"),
        ({}, {}, "predict {} PICTURE"),  # a broken hparams.yaml ends no finished run
    ],
)
def test_the_next_command_of_a_run_names_its_plugins(tmp_path: Path, hparams, metrics, command) -> None:
    with RunDir(tmp_path, "mine", "1") as folder:
        folder.hparams_path.write_text(yaml.safe_dump(hparams))
        loop = SimpleNamespace(
            state=TrainState(metrics=metrics),
            settings=SimpleNamespace(monitor="AbsRel", max_epochs=1),
            stopping=None,
            budget=SimpleNamespace(is_spent=False),
        )
        rows = _summary(Run(loop, folder))  # type: ignore[arg-type]
    assert rows["next"] == "monodepth " + command.format(folder.path)


def test_only_plugins_that_are_missing_are_named(write) -> None:
    write("present.py")
    load_plugins(["present"])
    with pytest.raises(UserError) as caught, naming_plugins({"plugins": ["present", "lab/absent.py"]}, "x.safetensors"):
        raise UserError("loss.mine is not a loss")
    assert str(caught.value) == (
        "x.safetensors: was trained with --plugins lab/absent.py: give the same"
        ' (in Python, first trainer.config.plugins.load_plugins(["lab/absent.py"])). Without:\nloss.mine is not a loss'
    )
    assert caught.value.__suppress_context__  # one traceback in Python
    for hparams in ({}, {"plugins": None}, {"plugins": ["present"]}):
        with pytest.raises(UserError, match=r"^wrong$"), naming_plugins(hparams, "x"):
            raise UserError("wrong")


def test_plugins_of_a_command_line_add_up() -> None:
    given = train_command.parse(
        ["-c", "x.yaml", "-o", "o", "-n", "n", "-v", "1", "--plugins", "a", "b", "--plugins", "c.py"]
    )
    assert given.plugins == ["a", "b", "c.py"]


# The worked example


def test_the_example_is_checked_like_everything_else(here) -> None:
    write_example(here)
    load_plugins(PARTS)
    assert load_config("my_run.yaml").loss["charbonnier"] == {"weight": 1, "eps": 0.01}
    mistakes = [
        "loss.charbonier.eps=1",
        "loss.charbonnier.esp=1",
        "dataset.shift=[1, 2]",
        "net.depth.dec_name=bilinaer",
    ]
    with pytest.raises(ConfigError) as caught:
        load_config("my_run.yaml", overrides=mistakes)
    for line in (
        "loss.charbonier is not a loss. Did you mean 'charbonnier'?",
        "loss.charbonnier.esp is not an argument of loss 'charbonnier'. Did you mean 'eps'?",
        "dataset.shift is not an argument of dataset 'dots'. Did you mean 'shifts'?",
        "dec_name 'bilinaer' is not a decoder. Did you mean 'bilinear'?",
    ):
        assert line in str(caught.value)
    config = load_config("my_run.yaml")
    assert Config.from_dict(config.to_dict()) == config


def test_the_example_has_true_depth(here) -> None:
    """Dots of the lower wall move by 4 pixels per frame: at f = 100 and 0.2 m per frame, they are 5 m away."""
    write_example(here)
    load_plugins(PARTS)
    item = DATASETS.create("dots", num_items=1, supp_idxs=[1])[0]
    below = item["target"][:, -1]
    assert (item["supports"][0, :, -1] == below.roll(-4, dims=-1)).all()
    assert item["depth"][0, -1, 0] == 5
    assert item["depth"][0, 0, 0] == 20


def test_workers_that_start_afresh_find_the_module(here) -> None:
    write_example(here)
    load_plugins(PARTS)
    dataset = DATASETS.create("dots", num_items=2)
    loader = make_loader(dataset, EpochBatches(2, 2), num_workers=1, multiprocessing_context="forkserver")
    (batch,) = loader
    assert (batch["target"][1] == dataset[1]["target"]).all()


def test_catalogue_and_schema_know_the_example(here, capsys) -> None:
    write_example(here)
    assert list_command.main(["charbonnier", "strided", "bilinear", "dots", "--plugins", *PARTS]) == 0
    shown = capsys.readouterr().out
    for text in (
        "loss.charbonnier",
        "LapSRN, arXiv:1704.03915",
        "encoder.strided",
        "decoder.bilinear",
        "dataset.dots",
        "Julesz",
    ):
        assert text in shown
    assert f"file:     {here / 'my_loss.py'}" in shown
    assert schema_command.main(["--plugins", "my_loss", "--out", "schema.json"]) == 0
    schema = json.loads(Path("schema.json").read_text())
    assert "charbonnier" in schema["properties"]["loss"]["anyOf"][0]["properties"]
    with pytest.raises(SystemExit, match="2"):
        schema_command.main(["--plugins", "my_loss"])
    assert "--plugins needs --out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, trained for two steps by the command of the page."""
    folder = write_example(tmp_path_factory.mktemp("example"))
    done = fork(ROOT / "launch/train.py", *command("train")[1:], "--progress", "plain", "--set", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"--plugins {' '.join(PARTS)}" in next(line for line in done.stdout.splitlines() if "next" in line)
    return folder


@pytest.mark.slow
def test_the_example_trains(trained: Path) -> None:
    from tests.commands.test_train import scalars

    run = trained / "models" / "mine" / "dots" / "1"
    logged = scalars(run)
    assert [step for step, _ in logged["train_losses/loss_charbonnier"]] == [1, 2]
    assert "val/AbsRel" in logged
    hparams = json.loads(read_metadata(run / "ckpts" / "best.safetensors")["hparams"])
    assert hparams["plugins"] == PARTS
    assert yaml.safe_load((run / "hparams.yaml").read_text())["plugins"] == PARTS
    assert any("decoders.disp.head" in name for name in load_file(run / "ckpts" / "best.safetensors"))


@pytest.mark.slow
def test_the_example_is_evaluated_with_its_plugin_only(trained: Path) -> None:
    words = [*command("evaluate")[1:], "my_metric", "--metrics", "eigen", "far_off"]
    done = fork(ROOT / "launch/evaluate.py", *words, "--limit", "2", cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "bad 1 m" in done.stdout
    assert "ratio to best constant depth" in done.stdout
    done = fork(ROOT / "launch/evaluate.py", *without_plugins(words), cwd=trained)
    assert done.returncode == 2
    assert "loss.charbonnier is not a loss" in done.stderr
    assert f"best.safetensors: was trained with --plugins {' '.join(PARTS)}: give the same" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_pictures_are_predicted_with_its_plugin_only(trained: Path) -> None:
    Image.new("RGB", (96, 64)).save(trained / "street.jpg")
    words = command("predict")[1:]
    done = fork(ROOT / "launch/predict.py", *words, cwd=trained)
    assert done.returncode == 0, done.stderr
    assert (trained / "depth/street_color.png").is_file()
    done = fork(ROOT / "launch/predict.py", *without_plugins(words), "--force", cwd=trained)
    assert done.returncode == 2
    assert f"best.safetensors: was trained with --plugins {' '.join(PARTS)}: give the same" in done.stderr


@pytest.mark.slow
def test_the_example_is_loaded_with_its_plugin_only(trained: Path, here: Path) -> None:
    run = trained / "models" / "mine" / "dots" / "1"
    with pytest.raises(
        UserError, match=rf"best.safetensors: was trained with --plugins {' '.join(PARTS)}: give the same"
    ):
        load_objective(run)
    load_plugins([str(trained / f"{part}.py") for part in PARTS])
    assert type(load_objective(run).losses["charbonnier"]).__module__ == "my_loss"
    for part in PARTS:
        del sys.modules[part]


@pytest.mark.slow
def test_the_run_continues_with_its_plugin_only(trained: Path) -> None:
    again = command("train")[1:]
    done = fork(ROOT / "launch/train.py", *without_plugins(again), "--set", *TINY, cwd=trained)
    assert done.returncode == 2
    assert f"hparams.yaml: was trained with --plugins {' '.join(PARTS)}: give the same" in done.stderr
    done = fork(ROOT / "launch/train.py", *again, "--progress", "plain", "--set", *TINY, cwd=trained)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout


@pytest.mark.slow
def test_two_processes_with_workers(tmp_path: Path) -> None:
    folder = write_example(tmp_path)
    options = ("--progress", "plain", "--set", *TINY, "loader.num_workers=1")
    done = fork(ROOT / "launch/train.py", *command("train")[1:], *options, processes=2, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    state = json.loads((folder / "models/mine/dots/1/state.json").read_text())
    assert (state["state"], state["step"]) == ("finished", 2)


@pytest.mark.parametrize(
    ("main", "options"),
    [
        (train_command.main, "-c x.yaml -o o -n n -v 1"),
        (evaluate_command.main, "--ckpt x"),
        (list_command.main, ""),
        (schema_command.main, "--out s.json"),
    ],
    ids=["train", "evaluate", "list", "schema"],
)
def test_every_command_shows_a_broken_plugin_without_a_traceback(here, capsys, main, options: str) -> None:
    (here / "bad.py").write_text("import torch\ntorch.not_there\n")
    assert main([*options.split(), "--plugins", "bad"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: --plugins bad: cannot be imported\n")
    assert f"{here / 'bad.py'}:2: torch.not_there" in shown
    assert "Traceback" not in shown
