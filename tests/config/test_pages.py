"""The descriptions of the keys, cfg/default.yaml and cfg/schema.json, agree with the code."""

from __future__ import annotations

import re

from tests.config.toys import TOYS
from tests.world import ROOT
from trainer.commands import schema as schema_command
from trainer.config import Config, load_config
from trainer.config.fields import REQUIRED, Field, fields_of_model
from trainer.config.json_schema import json_schema
from trainer.config.optimizers import SCHEDULERS, scheduler_fields
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
    assert properties["scheduler"]["T_max"] == {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    assert "16-mixed" in properties["trainer"]["precision"]["enum"]
