"""Building a run: unused networks, batches that cannot be shared, monitors, launchers, settings that may change."""

from __future__ import annotations

import math
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.world import ROOT
from trainer.build import build_dataset, build_loader, build_networks, build_objective
from trainer.checkpoint.encoding import to_json
from trainer.checkpoint.resume import check_resume, other_validation
from trainer.checkpoint.saved import Saved
from trainer.config import Config, load_config
from trainer.losses import LOSSES
from trainer.runtime.errors import UserError
from trainer.training import setup
from trainer.training.run import _settings, check_monitors
from trainer.training.setup import build_accelerator, build_schedule

SMALL = ("net.depth.enc_name=resnet10t", "net.pose.enc_name=resnet10t", "dataset.size=[96,64]")


def config(*overrides: str) -> Config:
    return load_config(ROOT / "cfg/synthetic/default.yaml", overrides=[*SMALL, *overrides])


def test_stereo_alone_builds_no_pose_network() -> None:
    assert list(build_networks(config("dataset.supp_idxs=[0]"))) == ["depth"]
    assert list(build_networks(config("dataset.supp_idxs=[-1,0]"))) == ["depth", "pose"]


@pytest.mark.parametrize(
    ("overrides", "disp"),
    [
        (["dataset.supp_idxs=[-1,1]"], 0.5),  # video alone fixes no scale
        (["dataset.supp_idxs=[0]"], 0.06),
        (["dataset.supp_idxs=[-1,1,0]"], 0.06),
        (["dataset.supp_idxs=[-1,1]", "loss.speed.weight=0.1", "dataset.use_speed=true"], 0.06),
        (["dataset.supp_idxs=[-1,1]", "loss.camera_height.weight=0.1"], 0.06),
        (["dataset.supp_idxs=[0]", "net.depth.init_disp=0.3"], 0.3),
        (["dataset.supp_idxs=[0]", "net.depth.activation=relu"], 0.1),
        (["dataset.supp_idxs=[0]", "net.depth.dec_name=ddvnet", "net.depth.out_scales=[0,1,2,3]"], None),  # no start
    ],
)
def test_a_new_network_starts_far_away_only_where_the_scale_is_known(overrides: list[str], disp: float | None) -> None:
    torch.manual_seed(0)
    networks = build_networks(config("net.depth.enc_name=test_resnet", "net.pose.enc_name=test_resnet", *overrides))
    mean = networks["depth"](torch.rand(1, 3, 64, 96))["disp"][0].mean().item()
    assert disp is None or mean == pytest.approx(disp, rel=0.4)


def test_a_relu_disparity_has_no_limits_of_depth() -> None:
    relu = ("dataset.supp_idxs=[0]", "net.depth.activation=relu")
    cfg = config(*relu)
    objective, settings = build_objective(cfg), _settings(cfg, seed=0, world=1)
    assert (objective.min_depth, objective.max_depth) == (1.0, None)
    assert (settings.min_depth, settings.max_depth) == (0.0, math.inf)
    assert not [line for line in cfg.warnings if "depth" in line]
    (warning,) = (line for line in config(*relu, "trainer.max_depth=50").warnings if "depth" in line)
    assert warning == "trainer.max_depth has no effect: with net.depth.activation: relu depth is 1 / disparity"


@pytest.mark.parametrize(
    ("schedule", "length", "note"),
    [
        ("{type: cos, T_max: ~}", 2, ""),  # epochs
        ("{type: cos, T_max: ~, by: step}", 8, ""),
        ("{type: cos, T_max: 2, by: step}", 2, "scheduler.T_max: 2 is less than the 8 steps of the run: by: step"),
        ("{type: cos, T_max: ~, warmup: 8}", 2, "scheduler.warmup: 8 epochs are not over in this run of 2"),
    ],
)
def test_a_schedule_is_as_long_as_the_run(schedule: str, length: int, note: str) -> None:
    """Two epochs of four steps."""
    notes: list[str] = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    built = build_schedule(config(f"scheduler={schedule}", "trainer.max_epochs=2"), optimizer, 4, notes)
    assert getattr(built, "schedule", built).T_max == length
    assert len(notes) == bool(note)
    assert all(line.startswith(note) for line in notes)


def test_frozen_random_weights_under_adapters_are_a_warning() -> None:
    adapted = "net.depth={enc_name: test_vit, pretrained: false, adapter: {type: lora}}"
    assert config(adapted).warnings[0].startswith("net.depth.adapter: the frozen weights are random numbers")
    assert not config(adapted, "trainer.load_ckpt=base.safetensors").warnings
    with pytest.raises(UserError, match=r"net\.depth\.adapter: type: 'lra' is not an adapter. Did you mean 'lora'"):
        config("net.depth={enc_name: test_vit, adapter: {type: lra}}")


def test_weights_from_a_checkpoint_need_no_download() -> None:
    cfg = config("net.depth.pretrained=true", "dataset.supp_idxs=[0]")
    assert build_networks(cfg, given=cfg.net)["depth"] is not None


def test_networks_that_a_checkpoint_lacks_still_get_their_pretrained_weights(monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cfg = config("net.depth.pretrained=true", "net.pose.pretrained=true")
    with pytest.raises(UserError, match=r"^net\.pose: The pretrained weights of the encoder resnet10t"):
        build_networks(cfg, given=["depth"])
    with pytest.raises(UserError, match=r"^net\.depth, net\.pose: The pre[^|]*set net\.<network>\.pretrained: false"):
        build_networks(cfg)  # all at once


def test_an_argument_that_a_loss_refuses_is_the_users_mistake(monkeypatch) -> None:
    class Picky(nn.Module):
        def __init__(self, eps: float = 1.0):
            raise ValueError(f"eps must be above 0, got {eps}")

    assert LOSSES.get("disp_smooth")  # discovers the losses, which would take its place otherwise
    monkeypatch.setitem(LOSSES._entries, "disp_smooth", Picky)
    cfg = config("loss.disp_smooth.eps=-1", "loss.disp_smooth.use_edges=~")
    with pytest.raises(UserError, match=r"loss: eps must be above 0, got -1"):
        build_objective(cfg)


def loader(cfg: Config, mode: str, world: int) -> Any:
    return build_loader(cfg, mode, build_dataset(cfg, mode), seed=1, rank=0, world=world)


def test_a_last_batch_that_two_processes_cannot_share_is_refused() -> None:
    cfg = config("dataset.train.num_items=10", "loader.train.drop_last=false")
    assert len(loader(cfg, "train", world=1)) == 3
    with pytest.raises(UserError, match=r"drop_last: false leaves a batch of 2 items, which 2 processes"):
        loader(cfg, "train", world=2)


def test_validation_sees_every_item_whatever_training_drops() -> None:
    cfg = config("loader.drop_last=true", "dataset.val.num_items=6")
    assert len(loader(cfg, "val", world=1)) == 2


def test_a_loss_cannot_be_watched_where_nothing_is_compared() -> None:
    val = build_dataset(config("dataset.val.supp_idxs=~", "dataset.supp_idxs=[0]"), "val")
    check_monitors({"trainer.monitor": "AbsRel"}, ["img_recon"], val)
    wanted = {"trainer.monitor": "loss", "scheduler.monitor": "AbsRle", "trainer.early_stopping.monitor": None}
    problems = r"trainer.monitor: loss needs supports, but dataset.val.supp_idxs is empty.*\n.*mean 'AbsRel'"
    with pytest.raises(UserError, match=problems):
        check_monitors(wanted, ["img_recon"], val)


class _Built(Exception):
    """Raised in the place of Accelerate, with what it was given."""


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Call it with overrides; returns the arguments that Accelerate gets."""

    def refuse(**kwargs: Any) -> None:
        raise _Built(kwargs)

    def arguments(*overrides: str) -> dict[str, Any]:
        with pytest.raises(_Built) as built:
            build_accelerator(config(*overrides), tmp_path)
        return built.value.args[0]

    monkeypatch.setattr(setup, "Accelerator", refuse)
    return arguments


@pytest.mark.parametrize("minutes", [0.05, 10, 15])
def test_the_time_out_reaches_the_process_group(given: Any, minutes: float) -> None:
    """10 minutes, too, which Accelerate would take for no wish at all, and gloo then waits for 30."""
    (_, group) = given(f"trainer.timeout_minutes={minutes}")["kwargs_handlers"]
    extra = group.to_kwargs()["timeout"] - timedelta(minutes=minutes)
    assert timedelta(0) < extra < timedelta(seconds=1)


def test_accelerate_never_compiles(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for launcher in ("no", "NO", "INDUCTOR"):
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", launcher)
        assert given("trainer.compile=true")["dynamo_backend"] == "no"


@pytest.mark.parametrize("name", ["is_npu_available", "is_hpu_available", "is_xpu_available"])
def test_no_kind_of_accelerator_is_passed_over_for_the_cpu(given: Any, monkeypatch: pytest.MonkeyPatch, name) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for known in ("is_xpu_available", "is_npu_available", "is_hpu_available", "is_mlu_available", "is_musa_available"):
        monkeypatch.setattr(setup, known, lambda: False)
    assert given()["cpu"]
    monkeypatch.setattr(setup, name, lambda: True)
    assert not given()["cpu"]


@pytest.fixture
def _backends() -> Any:
    """Give torch back what it computes with."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_backends")
def test_32_bit_are_32_bit_unless_less_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    for chosen, precision, allowed in (("medium", "medium", True), ("high", "high", True), ("null", "highest", False)):
        setup.set_backends(config(f"trainer.matmul_precision={chosen}"))
        found = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        assert found == (precision, allowed)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    setup.set_backends(config("trainer.deterministic=true"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(("given", "fuse"), [("on", "on"), ("off", "off"), ("true", "on"), ("auto", "auto")])
def test_on_and_off_of_yaml_are_no_booleans(given: str, fuse: str) -> None:
    assert config(f"trainer.fuse={given}").trainer.fuse == fuse


def test_processes_that_do_not_meet_get_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wait(**kwargs: Any) -> None:
        raise dist.DistStoreError("Timed out after 6 seconds waiting for clients. 1/2 clients joined.")

    monkeypatch.setattr(setup, "Accelerator", wait)
    with pytest.raises(UserError, match=r"did not meet within 0\.1 minutes: Timed out .* 1/2 clients joined"):
        build_accelerator(config("trainer.timeout_minutes=0.1"), tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "compiles", "message"),
    [
        ("GRADIENT_ACCUMULATION_STEPS", "4", "false", r"_steps: 4\. .*trainer\.accumulate_grad"),
        ("USE_FSDP", "true", "false", "uses FSDP, which this trainer does not support"),
        ("USE_DEEPSPEED", "true", "false", "uses DEEPSPEED, which this trainer does not support"),
        ("DYNAMO_BACKEND", "INDUCTOR", "false", r"is off, .* dynamo_backend: inductor.*--set .*backend=inductor"),
        ("DYNAMO_BACKEND", "eager", "true", r"is inductor, .* dynamo_backend: eager.*--set .*backend=eager"),
    ],
)
def test_a_launcher_that_contradicts_the_run_is_refused(
    name: str, value: str, compiles: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UserError, match=message):
        build_accelerator(config(f"trainer.compile={compiles}"), tmp_path)


def continued(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The notes when a run with the keys `old` of `trainer` continues with `new`."""
    hparams = {"seed": 1, "config": {"trainer": {"max_epochs": 2, **old}}}
    saved = Saved(Path("last"), {}, {"hparams": to_json(hparams)})
    defaults = {f"config.{key}": value for key, value in config().defaults().items()}
    now = {"seed": 1, "config": {"trainer": {"max_epochs": 2, **new}}}
    return check_resume(saved, now, allowed=True, defaults=defaults)


def test_a_run_that_is_older_than_a_key_continues_without_a_word() -> None:
    assert continued({}, {"ema": None, "nonfinite": "stop", "timeout_minutes": 15.0, "freeze": []}) == []
    assert continued({}, {"nonfinite": "skip"}) == [
        "continuing with a changed setting: config.trainer.nonfinite: (absent) -> skip"
    ]
    with pytest.raises(UserError, match=r"config\.trainer\.freeze: \(absent\) -> \[\"pose\"\]"):
        continued({}, {"freeze": ["pose"]})


def test_every_key_that_is_not_given_counts_as_its_default_where_a_run_is_older() -> None:
    """In the sections that make an experiment: a file without any optional key of these has been trained on them."""
    cfg = config()
    defaults, resolved = cfg.defaults(), cfg.to_dict()
    places = {"dataset": resolved["dataset"], "trainer": resolved["trainer"]}
    places |= {f"{part}.{name}": keys for part in ("net", "loss") for name, keys in resolved[part].items()}
    required = {"type", "train", "val", "test", "max_epochs", "weight"}  # or as old as the section
    for place, keys in places.items():
        assert [k for k in keys if f"{place}.{k}" not in defaults and k not in required] == [], place


def known(number: int, first: str) -> dict[str, Any]:
    return {"items": number, "first": first, "names": f"{number:08x}"}


@pytest.mark.parametrize("path", ["/b", "/a"])
def test_other_items_are_another_experiment_wherever_they_are(path: str) -> None:
    def settings(path: str, **data: Any) -> dict[str, Any]:
        return {"seed": 1, "config": {"dataset": {"type": "folder", "path": path}}, **data}

    before = settings("/a", data={"train": known(24, "drive/1"), "val": known(2, "drive/20")})
    saved = Saved(Path("last"), {}, {"hparams": to_json(before)})
    now = {"train": known(24, "drive/1"), "val": known(3, "drive/20")}
    moved = [f"continuing with a changed setting: config.dataset.path: /a -> {path}"] * (path != "/a")
    assert check_resume(saved, settings(path, data=now), allowed=True) == moved
    assert check_resume(saved, settings(path), allowed=True) == moved, "nothing is known of them"
    assert re.search(
        "2, the first drive/20 then; 3, .*becomes the best", other_validation(saved, settings(path, data=now))
    )
    assert other_validation(saved, settings(path, data=before["data"])) == other_validation(saved, settings(path)) == ""

    why = "dataset.path: /a -> /b" if moved else "with the same settings: files were added"
    told = rf"other items: 24, the first drive/1 then; 33, the first park/1 now \({why}.*another --name"
    with pytest.raises(UserError, match=told):
        check_resume(saved, settings(path, data={"train": known(33, "park/1")}), allowed=True)
    other_type = {
        "seed": 1,
        "config": {"dataset": {"type": "kitti", "split": "eigen"}},
        "data": {"train": known(9, "")},
    }
    with pytest.raises(
        UserError, match=r"then -> now\):\n  config.dataset.type: folder -> kitti\nUse the old"
    ) as error:
        check_resume(saved, other_type, allowed=True)
    assert "data." not in str(error.value)


def test_averages_are_fixed_once_a_run_has_begun() -> None:
    with pytest.raises(UserError, match=r"config\.trainer\.ema\.decay: 0\.9 -> 0\.99"):
        continued({"ema": {"decay": 0.9}}, {"ema": {"decay": 0.99}})
    with pytest.raises(UserError, match=r"start a new run beside this one with -n NAME or -v VERSION"):
        continued({"ema": {"decay": 0.9}}, {"ema": None})
    with pytest.raises(UserError, match=r"another --version with --set trainer\.load_ckpt=last"):  # the way out
        continued({"ema": {"decay": 0.9}}, {"ema": None})
    assert continued({"early_stopping": {"patience": 2}}, {"early_stopping": {"patience": 4}})
