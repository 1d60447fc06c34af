"""The catalogue has every entry, with description, source and explained arguments; misspelt names are found."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest

from models_zoo import NETWORKS
from models_zoo.decoders import DECODERS
from models_zoo.registry import Registry, UnknownName
from models_zoo.weights import FORMATS
from tests.config.toys import TOYS
from tests.world import ROOT
from trainer.commands import list as list_command
from trainer.config import Config, ConfigError, load_config
from trainer.config.catalogue import Entry, catalogue, common_fields, default_of, needs_of, select
from trainer.config.fields import REQUIRED, Field
from trainer.config.optimizers import SCHEDULERS
from trainer.config.resolve import summary_of
from trainer.data import DATASETS
from trainer.losses import LOSSES
from trainer.metrics import METRICS
from trainer.runtime.errors import UserError

REGISTRIES = {
    "net": NETWORKS,
    "decoder": DECODERS,
    "loss": LOSSES,
    "dataset": DATASETS,
    "metrics": METRICS,
    "weights": FORMATS,
}


def entries() -> list[Entry]:
    return [entry for chapter in catalogue() for entry in chapter.entries]


# Completeness


def test_every_entry_is_in_it() -> None:
    named = {f"{entry.key.partition('.')[0]}.{name}" for entry in entries() for name in entry.names}
    for kind, registry in REGISTRIES.items():
        assert {f"{kind}.{name}" for name in registry.names()} <= named
    assert {f"scheduler.{name}" for name in SCHEDULERS} <= named
    assert {"monitor.AbsRel", "monitor.Acc"} <= named


def test_every_entry_has_a_description_and_a_source() -> None:
    lacking = [f"{e.key}: no description" for e in entries() if len(e.summary) < 10]
    lacking += [f"{e.key}: no class attribute `source`" for e in entries() if not e.source]
    assert not lacking, "\n".join(lacking)


def test_every_argument_is_explained() -> None:
    lacking = [f"{e.key}.{name}" for e in entries() for name, field in e.fields.items() if not field.doc]
    assert not lacking, "add `name: meaning` to the docstring"
    types = {f"{e.key}.{name}": field.expected() for e in entries() for name, field in e.fields.items()}
    assert not [key for key, words in types.items() if re.search("<[a-z]", words)]  # <class ...>


def test_every_loss_names_its_needs() -> None:
    assert all("needs" in entry.facts for entry in entries() if entry.key.startswith("loss."))


def test_committed_page_is_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "reference" / "catalogue.md"
    assert list_command.main(["--out", str(page), "--check"]) == 0, capsys.readouterr().err


# Contents


def test_toys() -> None:
    chapters = {chapter.titles[0]: chapter for chapter in catalogue(TOYS)}
    recon = next(entry for entry in chapters["losses"].entries if "img_recon" in entry.names)
    assert recon.names == ("feat_recon", "img_recon")
    assert recon.summary == "Compare images."
    assert recon.source == ""
    assert recon.facts["also called"] == "img_recon"
    assert (
        recon.facts["needs"]
        == "support frames (set dataset.supp_idxs, e.g. [-1, 1], and add net.pose for offsets other than 0)"
    )
    assert list(recon.fields) == ["weight", "loss_name", "use_min", "mask_name"]
    assert recon.fields["loss_name"].doc == "how images are compared."
    assert "seed" not in chapters["datasets"].entries[0].fields


def test_a_summary_is_the_first_paragraph_without_citations() -> None:
    class Cited:
        """Do it;
        at once. Monodepth2, arXiv:1806.01260.

        Args:
            x: as in arXiv:1609.03677.
        """

    class Alone:
        """Errors of Eigen et al. (arXiv:1406.2283)."""

    assert summary_of(Cited) == "Do it; at once."
    assert summary_of(Alone) == "Errors of Eigen et al. (arXiv:1406.2283)."


def test_needs_that_come_with_arguments() -> None:
    class Loss:
        needs = frozenset({"supports"})

        def __init__(self, use_hint: bool = False, mask: Literal["a", "b"] | None = None, broken: bool = False): ...

        @classmethod
        def needs_with(cls, kwargs: dict[str, Any]) -> frozenset[str]:
            more = {"hints", "img_recon"} if kwargs["use_hint"] or kwargs["broken"] else set()
            return cls.needs | more | ({"mask"} if kwargs["mask"] else set())

        @classmethod
        def validate_config(cls, kwargs: dict[str, Any]) -> list[str]:
            return ["broken must be false"] if kwargs["broken"] else []

    fields = {
        "use_hint": Field(bool, False),
        "mask": Field(Literal["a", "b"] | None, None),
        "broken": Field(bool, False),
    }
    assert needs_of(Loss, fields) == (
        "support frames (set dataset.supp_idxs, e.g. [-1, 1], and add net.pose for offsets other than 0);"
        " with use_hint=true depth hints (set dataset.use_hints: true), the loss img_recon, whose photometric error it"
        " uses (add loss.img_recon); with mask=a or mask=b"
        " a predicted mask (set net.depth.mask_name and net.depth.num_ch_mask)"
    )
    assert needs_of(object, {}) == ""


def test_defaults_are_shown_as_yaml() -> None:
    defaults = [(0, 1), None, True, "ssim", 1e-7, REQUIRED]
    assert [default_of(Field(Any, value)) for value in defaults] == [
        "[0, 1]",
        "null",
        "true",
        "ssim",
        "1e-07",
        "required",
    ]


def test_common_arguments() -> None:
    a, b = Field(int, 1, "a"), Field(int, 2, "b")
    several = [Entry("x.a", "", "", {"a": a, "b": b}), Entry("x.b", "", "", {"b": a, "a": a})]
    assert common_fields(several) == {"a": a}
    assert common_fields(several[:1]) == {}


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("loss.img_recon", ["loss.img_recon"]),
        ("losses.img_recon", ["loss.img_recon"]),
        ("img_recon", ["loss.img_recon"]),
        ("network.pose", ["net.pose"]),
        ("eigen", ["metrics.eigen"]),
        ("scheduler", [f"scheduler.{name}" for name in SCHEDULERS]),
        ("decoders", [f"decoder.{name}" for name in DECODERS.names()]),
        ("optimizers", []),
    ],
)
def test_parts_of_it(query: str, keys: list[str]) -> None:
    chapters = select(catalogue(), [query])
    assert len(chapters) == 1
    assert [entry.key for entry in chapters[0].entries] == keys


@pytest.mark.parametrize(
    ("query", "near"),
    [("los.img_recn", "loss.img_recon"), ("img_recn", "img_recon"), ("hrdepht", "hrdepth"), ("loses", "losses")],
)
def test_unknown_parts(query: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"'{query}' is not in the catalogue\. Did you mean '{near}'\? Chapters: net"):
        select(catalogue(), ["losses", query])


# Misspelt names and keywords of every entry


def misspelt(name: str) -> str:
    """Leave out the second letter, or double the only one."""
    return name[0] + name[2:] if len(name) > 1 else 2 * name


@pytest.mark.parametrize("kind", REGISTRIES)
def test_registries_name_the_nearest(kind: str) -> None:
    registry: Registry = REGISTRIES[kind]
    for name in registry.names():
        with pytest.raises(UnknownName, match=rf"is not a {registry.kind}\. Did you mean '{name}'\?"):
            registry.create(misspelt(name))
        for key in registry.parameters(name):
            wrong = rf"{registry.kind} '{name}' has no argument '{misspelt(key)}'\. Did you mean '{key}'\?"
            with pytest.raises(TypeError, match=wrong):
                registry.create(name, **{misspelt(key): 1})


def problems(changes: dict[str, dict[str, Any]]) -> str:
    data = load_config(ROOT / "cfg" / "synthetic" / "default.yaml").to_dict()
    for section, settings in changes.items():
        data[section] |= settings
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(data)
    return str(caught.value)


@pytest.mark.parametrize(("section", "kind"), [("net", "network"), ("loss", "loss")])
def test_configurations_name_the_nearest_entry_and_keyword(section: str, kind: str) -> None:
    registry = REGISTRIES[section]
    report = problems({section: {misspelt(name): {} for name in registry.names()}})
    for name in registry.names():
        assert f"{section}.{misspelt(name)} is not a {kind}. Did you mean '{name}'?" in report
    report = problems({section: {n: {misspelt(key): 1 for key in registry.parameters(n)} for n in registry.names()}})
    for name in registry.names():
        for key in registry.parameters(name):
            owner = f"{section}.{name}.{misspelt(key)} is not an argument of {kind} '{name}'"
            assert f"{owner}. Did you mean '{key}'?" in report


def test_configurations_name_the_nearest_decoder() -> None:
    for name in DECODERS.names():
        options = {"dec_name": misspelt(name), "pretrained": False}
        report = problems({"net": {"depth": options, "autoencoder": options}})
        for network in ("depth", "autoencoder"):
            hint = f"net.{network}.dec_name {misspelt(name)!r} is not a decoder. Did you mean '{name}'?"
            assert hint in report


def test_configurations_name_the_nearest_dataset_and_keyword() -> None:
    for name in DATASETS.names():
        hint = f"dataset.type: {misspelt(name)!r} is not a dataset. Did you mean '{name}'?"
        assert hint in problems({"dataset": {"type": misspelt(name)}})
    keys = [key for key in DATASETS.parameters("synthetic") if key not in ("seed", "mode")]
    report = problems({"dataset": {misspelt(key): 1 for key in keys}})
    for key in keys:
        assert f"dataset.{misspelt(key)} is not an argument of dataset" in report
        assert f"Did you mean '{key}'?" in report
