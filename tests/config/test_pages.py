"""Pages are found by name; the descriptions of the keys, cfg/default.yaml and cfg/schema.json, agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.config.toys import TOYS
from tests.world import ROOT
from trainer.commands import cfg as cfg_command
from trainer.commands import launch_file, sweep, train, train_dev
from trainer.commands import schema as schema_command
from trainer.commands.jobs.sweep import make_jobs
from trainer.config import Config, ConfigError, load_config
from trainer.config.fields import REQUIRED, Field, fields_of_model
from trainer.config.json_schema import json_schema
from trainer.config.optimizers import SCHEDULERS, scheduler_fields
from trainer.config.pages import find_page, page_names
from trainer.config.resolve import LOSS_EXTRA, SET_BY_RUN, Registries, entry_fields
from trainer.config.sections import SECTIONS
from trainer.runtime import yaml_text


def installed_keys() -> dict[tuple[str, ...], Field]:
    """Every key of the installed entries and of our sections; `kitti` wins where datasets differ."""
    registries = Registries.installed()
    keys = {}
    for section, registry, extra in (("net", registries.networks, {}), ("loss", registries.losses, LOSS_EXTRA)):
        for name in registry.names():
            for key, field in {**extra, **entry_fields(registry, name)}.items():
                keys[section, name, key] = field
    for name in sorted(registries.datasets.names(), key=lambda name: name != "kitti"):
        for key, field in entry_fields(registries.datasets, name, without=SET_BY_RUN).items():
            keys.setdefault(("dataset", key), field)
    for section, model in SECTIONS.items():
        for key, field in fields_of_model(model).items():
            keys[section, key] = field
            if inner := field.model():
                keys |= {(section, key, name): f for name, f in fields_of_model(inner).items()}
    return keys


def documented_keys() -> dict[tuple[str, ...], str]:
    """Every key of cfg/default.yaml, set or not, with its comment."""
    keys, parents = {}, []
    for line in (ROOT / "cfg" / "default.yaml").read_text().splitlines():
        found = re.fullmatch(r"(?P<indent> *)(?:# (?P<more> *))?(?P<key>\w+):(?: .*?)?(?: # ?(?P<comment>.*))?", line)
        if found is None:
            continue
        indent = len(found["indent"] + (found["more"] or ""))
        parents = [(depth, key) for depth, key in parents if depth < indent] + [(indent, found["key"])]
        keys.setdefault(tuple(key for _, key in parents), found["comment"] or "")
    return keys


def test_default_yaml_explains_every_key_and_states_its_true_default():
    documented = documented_keys()
    for path, field in installed_keys().items():
        assert path in documented, f"cfg/default.yaml does not mention {'.'.join(path)}"
        comment = documented[path]
        stated = re.search(r"(.+)\[(?:default (?P<default>.*)|required)\]$", comment)
        assert stated, f"{'.'.join(path)}: the comment {comment!r} must end with [default ...] or [required]"
        if field.default is REQUIRED:
            assert stated["default"] is None, path
        else:
            value = yaml_text.read_text(stated["default"], "", []).data
            assert value == (list(field.default) if isinstance(field.default, tuple) else field.default), path


def test_default_yaml_has_no_key_that_does_not_exist():
    known = {path[:end] for path in installed_keys() for end in range(1, len(path) + 1)}
    known |= {
        ("dataset", "type"),
        ("dataset", "train"),
        *(("dataset", "train", key[1]) for key in known if key[0] == "dataset" and len(key) == 2),
    }
    known |= {("scheduler", key) for cls in SCHEDULERS.values() for key in scheduler_fields(cls)}
    assert set(documented_keys()) - known == set()


def test_default_yaml_is_a_usable_configuration():
    cfg = load_config(ROOT / "cfg" / "default.yaml")
    assert cfg.warnings == ()
    assert cfg.supp_idxs == (-1, 1)
    assert cfg.optimizer["lr"] == 1e-4
    assert Config.from_dict(cfg.to_dict()) == cfg


def test_committed_json_schema_is_in_step(capsys):
    assert schema_command.main(["--check"]) == 0, capsys.readouterr().err


def test_schema_command_writes_and_checks(tmp_path, capsys):
    path = tmp_path / "schema.json"
    assert schema_command.main(["--out", str(path), "--check"]) == 1
    assert "out of step" in capsys.readouterr().err
    assert schema_command.main(["--out", str(path)]) == 0
    assert schema_command.main(["--out", str(path), "--check"]) == 0


def test_json_schema_takes_keys_from_signatures():
    properties = {name: section["anyOf"][0]["properties"] for name, section in json_schema(TOYS)["properties"].items()}
    recon = properties["loss"]["img_recon"]
    assert recon["description"] == "Compare images."
    assert {"type": "null"} in recon["anyOf"]
    loss_name = recon["anyOf"][0]["properties"]["loss_name"]
    assert loss_name == {
        "type": "string",
        "enum": ["ssim", "l1"],
        "default": "ssim",
        "description": "how images are compared.",
    }
    assert properties["dataset"]["type"]["enum"] == ["kitti", "kitti_lmdb", "rendered"]
    assert {"num_items", "split", "train"} <= set(properties["dataset"])
    assert "seed" not in properties["dataset"]
    assert properties["scheduler"]["T_max"] == {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
        "default": None,
    }
    assert "16-mixed" in properties["trainer"]["precision"]["enum"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spelling", ["{}", "{}.yaml", "cfg/{}", "cfg/{}.yaml"])
def test_a_page_is_found_by_its_name_anywhere(elsewhere: Path, spelling: str) -> None:
    assert find_page(spelling.format("benchmark/hrdepth_MS")) == ROOT / "cfg/benchmark/hrdepth_MS.yaml"


@pytest.mark.parametrize("name", ["benchmark/garg.yaml", "cfg/benchmark/garg.yaml"])
def test_a_file_of_ones_own_wins(elsewhere: Path, name: str) -> None:
    own = Path(name)
    own.parent.mkdir(parents=True)
    own.write_text("trainer: {max_epochs: 3}")
    for spelling in (name, name.removesuffix(".yaml")):
        assert find_page(spelling) == own
    assert load_config(name, "benchmark/default").trainer.max_epochs == 3


@pytest.mark.parametrize("name", ["", ".", "..", "../cfg/benchmark/garg", "no/where", "x" * 300, "a\0b", "benchmark"])
def test_a_name_of_nothing_stays_as_it_is(elsewhere: Path, name: str) -> None:
    assert find_page(name) == Path(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("benchmark/hrdpth_MS", "Did you mean 'benchmark/hrdepth_M"),
        ("hrdepth_MS", "Did you mean 'benchmark/hrdepth_MS'? `monodepth cfg list` lists all"),
        ("monodepth2_MS.yaml", "Did you mean 'benchmark/monodepth2_MS' or 'kitti/monodepth2_MS' or"),
        ("cfg/kitti/monodepth2_MSS.yaml", "Did you mean 'kitti/monodepth2_MS'"),
        ("real", "real: is a folder of pages. Name one of them: real/default, real/folder, real/indoor"),
        ("cfg/real", "cfg/real: is a folder of pages. Name one of them: cfg/real/default, cfg/real/folder, "),
        ("eval", "eval/ibims, eval/kitti_c, eval/kitti_eigen, "),
        ("qqqqqq", "qqqqqq: no such file, and no page of this name. `monodepth cfg list` lists all"),
    ],
)
def test_a_misspelt_page_names_near_ones(elsewhere: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(name)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "page", [name for name in page_names() if name.split("/")[0] in ("synthetic", "kitti", "real")]
)
def test_a_page_alone_is_the_long_form(elsewhere: Path, page: str) -> None:
    experiment, _, name = page.partition("/")
    base = [] if name == "default" else ["-d", f"{ROOT}/cfg/{experiment}/default.yaml"]
    long = ["-c", f"{ROOT}/cfg/{page}.yaml", *base, "-o", f"models/{experiment}", "-n", name, "-v", "42", "-s", "42"]
    assert train.parse(["-c", page]) == train.parse(long)
    assert train.parse(["-c", page, "-s", "7"]).version == "7"


def test_what_is_said_wins_over_what_pages_imply(elsewhere: Path) -> None:
    options = ["-c", "kitti/monodepth2_MS", "kitti/few_frames", "-d"]
    args = train.parse(options)
    assert (args.cfg_default, args.name, args.ckpt_dir) == ([], "monodepth2_MS+few_frames", Path("models/kitti"))
    args = train.parse([*options, "x.yaml", "-o", "out", "-n", "n", "-v", "v"])
    assert (args.cfg_default, args.ckpt_dir, args.name, args.version) == ([Path("x.yaml")], Path("out"), "n", "v")
    assert train_dev.parse(["-c", "synthetic/monodepth2_MS"]).ckpt_dir == train_dev.SCRATCH


def test_a_page_in_the_working_directory_belongs_to_it(elsewhere: Path) -> None:
    (elsewhere / "mine.yaml").write_text("trainer: {max_epochs: 3}")
    args = train.parse(["-c", "mine"])
    assert (args.cfg_default, args.ckpt_dir, args.name) == ([], Path("models", elsewhere.name), "mine")


def test_each_page_of_a_sweep_builds_on_its_own_default(elsewhere: Path) -> None:
    pages = ["synthetic/monodepth2_M", "kitti/monodepth2_MS"]
    jobs = list(make_jobs(sweep.parse(["-c", *pages, "--seeds", "3", "--evaluate", "eval/synthetic"])))
    for page, job in zip(pages, jobs, strict=True):
        alone = train.parse(["-c", page, "-s", "3", "-o", "models/synthetic"])
        asked = train.parse(job.training.command[2:])
        assert (asked.cfg_file, asked.cfg_default, asked.ckpt_dir) == (
            alone.cfg_file,
            alone.cfg_default,
            alone.ckpt_dir,
        )
        assert (asked.name, asked.version, asked.seed) == (alone.name, alone.version, alone.seed)
        assert job.config == load_config(alone.cfg_file, alone.cfg_default).to_dict()
        assert job.evaluations[0].page == ROOT / "cfg/eval/synthetic.yaml"


def test_pages_are_listed_and_copied(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cfg_command.main(["list", "--names"]) == 0
    assert capsys.readouterr().out.split() == page_names()
    assert cfg_command.main(["list", "abl_smooth"]) == 0
    assert "abl_smooth/none " in capsys.readouterr().out

    assert cfg_command.main(["copy", "benchmark/garg", "kitti", "cfg"]) == 0
    copied = {p.relative_to(elsewhere).as_posix() for p in elsewhere.rglob("*") if p.is_file()}
    kitti = {f"cfg/kitti/{p.name}" for p in (ROOT / "cfg/kitti").iterdir()}
    assert copied == {"cfg/schema.json", "cfg/benchmark/garg.yaml", "cfg/benchmark/default.yaml"} | kitti
    assert all((elsewhere / name).read_bytes() == (ROOT / name).read_bytes() for name in copied)

    Path("cfg/kitti/default.yaml").write_text("mine")
    capsys.readouterr()
    assert cfg_command.main(["copy", "kitti", "synthetic", "cfg"]) == 2
    assert capsys.readouterr().err == "error: cfg/kitti/default.yaml: exists and differs. --force replaces it\n"
    assert not Path("cfg/synthetic").exists()
    assert cfg_command.main(["copy", "kitti", "cfg", "--force"]) == 0
    assert Path("cfg/kitti/default.yaml").read_bytes() == (ROOT / "cfg/kitti/default.yaml").read_bytes()


@pytest.mark.parametrize("arguments", [["copy", "benchmrk", "cfg"], ["copy", "..", "cfg"], ["list", "benchmrk"]])
def test_pages_that_do_not_exist_are_not_copied(elsewhere: Path, capsys, arguments: list[str]) -> None:
    assert cfg_command.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {arguments[1]}: no ")
    assert list(elsewhere.iterdir()) == []


def test_a_launch_file_is_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cpu_x2", "cpu_x2.yaml"):
        assert launch_file.main([name]) == 0
        assert capsys.readouterr().out == f"{ROOT}/launch/accelerate/cpu_x2.yaml\n"
    assert launch_file.main([]) == 0
    assert "multi_gpu " in capsys.readouterr().out
    assert launch_file.main(["cpu_x3"]) == 2
    assert "Did you mean 'cpu_x2'?" in capsys.readouterr().err
