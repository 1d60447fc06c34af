"""The main job as a user runs it: it finishes, continues exactly after any end, refuses bad input in a sentence."""

from __future__ import annotations

import bdb
import json
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.launch.forks import Forked
from tests.runs import (
    assert_same_run,
    ckpt,
    folder,
    kill_after,
    last_step,
    launch_two,
    scalars,
    start,
    state,
    wait_for_step,
)
from tests.world import LAUNCHER, call, command, copied_run, environment, fork, refused, train_args
from trainer.checkpoint import load_capsule, load_objective
from trainer.checkpoint.safefile import read, read_metadata, write
from trainer.checkpoint.trained_on import read_trained_on
from trainer.commands.train_dev import scratch
from trainer.runtime.environment import emulates_bf16
from trainer.runtime.seeding import TRAINING, seed_everything
from trainer.training.loop import Loop

pytestmark = pytest.mark.slow

EVERY_STEP = "trainer.save_every_n_steps=1"
QUICK = ("dataset.val.num_items=2",)


def texts(run: Path, tag: str) -> list[str]:
    """All texts written under a tag."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return [e.tensor_proto.string_val[0].decode() for e in events.Tensors(f"{tag}/text_summary")]


def pictures(run: Path) -> dict[str, list[int]]:
    """The steps at which each picture was written."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def assert_same_weights(ours: Path, theirs: Path) -> None:
    """All tensors of `best` and `last` of two runs are the same; how often they were saved is not."""
    for kind in ("best", "last"):
        a, b = load_file(ckpt(ours, kind)), load_file(ckpt(theirs, kind))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), kind


def test_a_run_leaves_what_it_promises(trained_run: Path) -> None:
    run = folder(trained_run)
    assert state(trained_run)["state"] == "finished"
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert {p.name for p in run.iterdir() if p.is_dir()} >= {"ckpts", "results"}
    weights = load_file(ckpt(trained_run, "best"))
    assert weights
    assert all(name.startswith("networks.") for name in weights)
    meta = read_metadata(ckpt(trained_run, "last"))
    assert meta["step"] == "8"
    assert json.loads(meta["hparams"])["config"]["net"]["depth"]["enc_name"] == "test_resnet"
    known = json.loads(meta["hparams"])["data"]
    assert (known["train"]["items"], known["val"]["items"]) == (8, 4)
    assert known["train"]["first"].startswith("synthetic/train/scene 0/frame 0")
    assert "enc_name: test_resnet" in (run / "hparams.yaml").read_text()
    logged = scalars(run)
    steps = {tag: [step for step, _ in logged[tag]] for tag in logged}
    assert steps["train_losses/loss"] == steps["train_losses/loss_img_recon"] == [2, 4, 6, 8]
    assert steps["train/AbsRel"] == steps["epoch"] == [2, 4, 6, 8]
    assert steps["lr/depth"] == steps["lr/pose"] == [2, 4, 6, 8]  # once, though a validation follows a step
    assert steps["best/AbsRel"] == [4, 8]
    assert steps["val/AbsRel"] == steps["val_losses/loss"] == [4, 8]
    shown = pictures(run)
    assert shown["train/overview"] == shown["val/overview"] == shown["train_disp/target_0"] == [4, 8]
    assert not [tag for tag in shown if "lidar" in tag]
    assert texts(run, "train_items")[-1].count("synthetic/train/scene") == 2
    assert texts(run, "val_items")[-1].count("synthetic/val/scene") == 2


def test_the_same_command_again_finds_it_finished(trained_run: Path, tmp_path: Path) -> None:
    out = copied_run(trained_run, tmp_path / "again")
    done = call(*train_args(out))
    assert done.returncode == 0, done.stderr
    assert "had finished before: nothing was trained" in done.stdout
    assert_same_run(out, trained_run)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_bytes(
    trained_run: Path, tmp_path: Path, workers: int
) -> None:
    slow = f"loader.train.num_workers={workers}"  # must not matter for the result, and is allowed to change
    kill_after(5, tmp_path, slow)
    done = call(*train_args(tmp_path))
    assert done.returncode == 0, done.stderr
    assert_same_weights(tmp_path, trained_run)
    steps = [step for step, _ in scalars(folder(tmp_path))["train_losses/loss"]]
    assert steps == [2, 4, 6, 8], "TensorBoard must not show a step twice"


class Died(BaseException):
    """What a kill is to a command of this process."""


@pytest.mark.parametrize("moment", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_dying_between_best_and_last_it_ends_with_the_same_bytes(
    trained_run: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just after `best` was replaced, and just before `last` is, which names it."""
    replace, renamed, args = os.replace, [], train_args(tmp_path, "trainer.log_images=all")

    def dying(source: Path, target: Path) -> None:
        renamed.append(Path(target).name)
        if moment == "before" and renamed[-2:] == ["best.safetensors", "last.safetensors"]:
            raise Died
        replace(source, target)
        if moment == "after" and renamed[-1] == "best.safetensors":
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Died):
            call(*args)
    assert read_metadata(ckpt(tmp_path, "best"))["epoch"] == "1" != read_metadata(ckpt(tmp_path, "last"))["epoch"]
    done = call(*args)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, trained_run)


def test_a_run_stopped_and_killed_shows_every_number_once_and_leaves_pictures(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch; then killed between the last step of an epoch and its validation."""
    args = train_args(tmp_path, "trainer.log_images=true")
    hook = register_optimizer_step_post_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        stopped = call(*args)
    finally:
        hook.remove()
    assert stopped.returncode == 143, stopped.stderr
    assert pictures(folder(tmp_path)) == {"train/overview": [2], "val/overview": [2]}
    assert stopped.stdout.startswith(f"run       {folder(tmp_path)}: new\n")

    def dying(loop: Loop) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "validate", dying)
        with pytest.raises(Died):
            call(*args)
    done = call(*args)
    assert done.returncode == 0, done.stderr
    assert f"run       {folder(tmp_path)}: continued at step 4, epoch 1\n" in done.stdout
    assert_same_weights(tmp_path, trained_run)
    for tag, points in scalars(folder(tmp_path)).items():
        steps = [step for step, _ in points]
        assert len(steps) == len(set(steps)), tag
    assert pictures(folder(tmp_path)) == {"train/overview": [2, 4, 8], "val/overview": [2, 4, 8]}


def test_the_best_of_another_run_is_noticed(trained_run: Path, tmp_path: Path) -> None:
    out = copied_run(trained_run, tmp_path / "mixed")
    tensors, metadata = read(ckpt(out, "best"))
    ckpt(out, "best").unlink()  # a link
    hparams = json.loads(metadata["hparams"])
    write(ckpt(out, "best"), tensors, {**metadata, "hparams": json.dumps({**hparams, "seed": 43})})
    words = ("is not the `best` of this run", "seed 43", "Restore the one that was there, or delete this one")
    refused(call(*train_args(out)), *words)
    refused(call("launch/evaluate.py", "--ckpt", folder(out)), *words)
    ckpt(out, "best").unlink()
    assert call(*train_args(out)).returncode == 0


def test_a_second_run_is_refused_and_sigterm_saves_and_leaves_with_143(trained_run: Path, tmp_path: Path) -> None:
    process = Forked(train_args(tmp_path, EVERY_STEP), environment(HF_HOME=str(tmp_path)), tmp_path / "output.txt")
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGSTOP)  # so that it cannot end before
    refused(call(*train_args(tmp_path)), "another run is writing here", str(process.pid))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    output = process.communicate(timeout=60)[0]
    assert process.poll() == 143, output
    assert state(tmp_path)["state"] == "preempted"
    assert last_step(tmp_path) == state(tmp_path)["step"] < 8
    assert call(*train_args(tmp_path)).returncode == 0
    assert_same_weights(tmp_path, trained_run)


@pytest.mark.long
def test_accumulation_and_limits_continue_exactly(tmp_path: Path) -> None:
    """Three micro-batches a step with a tail of one, in an epoch cut short: killed in the middle and continued."""
    options = ("dataset.train.num_items=6", "loader.batch_size=1", "trainer.limit_train_batches=4")
    options += ("trainer.accumulate_grad_batches=3", "trainer.save_every_n_steps=3", *QUICK)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert call(*train_args(straight, *options)).returncode == 0
    kill_after(3, killed, *options)  # two steps an epoch, so the second is under way
    assert call(*train_args(killed, *options)).returncode == 0
    assert_same_run(killed, straight)


def test_sigterm_to_the_launcher_stops_both_processes_at_the_same_step(tmp_path: Path) -> None:
    process = start(tmp_path, EVERY_STEP, "trainer.max_epochs=50", launcher=LAUNCHER)
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=90)[0]
    assert state(tmp_path)["state"] == "preempted", output[-2000:]
    assert last_step(tmp_path) == state(tmp_path)["step"]


def test_two_processes_are_the_same_experiment(two_processes: Path, trained_run: Path) -> None:
    """Statistics of BatchNorm, gradients and validation cover the global batch, so the curves agree."""
    two, one = scalars(folder(two_processes)), scalars(folder(trained_run))
    losses = [tag for tag in one if tag.startswith("train_losses/")]
    assert losses
    for tag in losses:  # later steps drift apart: sums in another order, amplified by min and abs
        at = dict(two[tag])
        assert at[2] == pytest.approx(one[tag][0][1], rel=1e-4), tag
        assert at[8] == pytest.approx(one[tag][-1][1], rel=0.05), tag
    assert two["val/AbsRel"][0][1] == pytest.approx(one["val/AbsRel"][0][1], rel=0.02)
    assert state(two_processes)["state"] == "finished"


def test_a_user_error_is_said_once_by_two_processes(tmp_path: Path) -> None:
    done = launch_two(tmp_path, "loss.img_recn.weight=1")
    assert done.returncode == 1
    assert done.stderr.count("Did you mean 'img_recon'?") == 1


@pytest.mark.long
def test_bare_torchrun_works_too(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = command(*launcher, *train_args(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_step(tmp_path) == 8


def test_a_loss_that_is_not_finite_stops_with_a_capsule_that_replays(tmp_path: Path) -> None:
    done = call(*train_args(tmp_path, "optimizer.lr=1e20"))
    assert done.returncode == 1
    assert "the loss is not finite in epoch 1, step " in done.stderr
    assert state(tmp_path)["state"] == "failed"
    (capsule,) = (folder(tmp_path) / "capsules").iterdir()
    assert str(capsule) in done.stderr
    failed, objective = load_capsule(capsule), load_objective(capsule)
    seed_everything(failed.seed, TRAINING, failed.position.step, failed.micro_batch, failed.rank)
    assert not torch.isfinite(objective.train()(failed.batch).loss)
    told = call("launch/replay.py", capsule)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^first: the (output|weights)", told.stdout, re.MULTILINE)


def test_bf16_accumulation_and_clipping_run(tmp_path: Path) -> None:
    options = ("trainer.precision=bf16", "trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=1")
    options += ("dataset.train.num_items=4", "loader.batch_size=1", "trainer.max_epochs=1", *QUICK)
    done = call(*train_args(tmp_path, *options))
    assert done.returncode == 0, done.stderr
    assert ("this processor has no instructions" in done.stdout + done.stderr) is emulates_bf16("cpu")
    assert last_step(tmp_path) == 2  # of 4 micro-batches: 3 + 1
    assert all(w.dtype != torch.bfloat16 for w in load_file(ckpt(tmp_path, "last")).values())


@contextmanager
def files_up_to(size: int):
    """Let this process write no file of more bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(trained_run: Path, tmp_path: Path) -> None:
    out = copied_run(trained_run, tmp_path / "full")
    before = ckpt(out, "last").read_bytes()
    with files_up_to(len(before) // 2):
        done = call(*train_args(out, "trainer.max_epochs=3"))
    assert done.returncode == 1
    assert "last.safetensors" in done.stderr
    assert ckpt(out, "last").read_bytes() == before


def test_the_file_of_the_first_weights_is_not_needed_again(tmp_path: Path) -> None:
    file, out = tmp_path / "encoder.safetensors", tmp_path / "out"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    starts = [f"net.{net}.pretrained={file}" for net in ("depth", "pose")]
    done = fork(*train_args(out, *starts, *QUICK, "trainer.max_epochs=1"))
    assert done.returncode == 0, done.stderr
    file.unlink()
    done = fork(*train_args(out, *starts, *QUICK))
    assert done.returncode == 0, done.stderr
    assert last_step(out) == 8
    load_objective(folder(out))
    assert not read_trained_on(ckpt(out, "last")).is_whole  # nobody knows what the file was trained on
    refused(fork(*train_args(tmp_path / "new", *starts)), f"{file}: no such file")


BAD = {
    "unknown key": ("loss.disp_smoth.weight=1", "Did you mean 'disp_smooth'?"),
    "wrong type": ("optimizer.lr=fast", "optimizer.lr"),
    "no such encoder": ("net.depth.enc_name=resnt18", "resnet18"),
    "fp16 on a CPU": ("trainer.precision=16", "bf16"),
    "batch larger than the data": ("loader.batch_size=400", "400"),
    "monitor that is not tracked": ("trainer.monitor=AbsRl", "Did you mean 'AbsRel'?"),
    "no ground truth for the monitor": ("dataset.use_depth=false", "use_depth"),
    "weights that cannot be downloaded": ("net.depth={enc_name: resnet10t, pretrained: true}", "pretrained: false"),
    "no such file of weights": ("net.pose.pretrained=nowhere.pth", "net.pose: nowhere.pth: no such file"),
    "no such checkpoint": ("trainer.load_ckpt=nowhere.safetensors", "nowhere.safetensors"),
    "unknown tracker": ("trainer.trackers=[tensorbord]", "tensorboard"),
    "freeze nothing": ("trainer.freeze=[depth.encoder.layr1]", "Did you mean 'depth.encoder.layer1'?"),
    "freeze all": ("trainer.freeze=[depth,pose]", "leaves nothing to train"),
    "stop by nothing": ("trainer.early_stopping.monitor=AbsRle", "Did you mean 'AbsRel'?"),
    "unknown compiler": ("trainer.compile.backend=inductr", "Did you mean 'inductor'?"),
    "key of an average": ("trainer.swa.strat=1", "Did you mean 'start'?"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case: str, tmp_path: Path) -> None:
    override, expected = BAD[case]
    refused(call(*train_args(tmp_path, override)), expected)


def test_missing_file_and_impossible_folder(tmp_path: Path) -> None:
    missing = [a.replace("monodepth2_MS", "monodepth2_XS") for a in train_args(tmp_path)]
    refused(call(*missing), "monodepth2_XS.yaml")
    (tmp_path / "file").write_text("")
    refused(call(*train_args(tmp_path / "file")), str(tmp_path / "file"))


def test_a_page_without_its_data_names_one_that_needs_none(tmp_path: Path) -> None:
    done = call("launch/train.py", "-c", "kitti/monodepth2_MS", "-o", tmp_path, MONODEPTH_DATA=str(tmp_path))
    refused(done, "KITTI raw data was not found", "synthetic/monodepth2_MS needs no data")


def test_changes_that_would_break_the_experiment_are_refused(trained_run: Path, tmp_path: Path) -> None:
    out = copied_run(trained_run, tmp_path / "changed")
    refused(call(*train_args(out, "loader.batch_size=1", "trainer.max_epochs=3")), "loader.batch_size")


def test_checkpoint_of_another_architecture_and_damaged_ones(trained_run: Path, tmp_path: Path) -> None:
    load = f"trainer.load_ckpt={ckpt(trained_run, 'best')}"
    done = call(*train_args(tmp_path, load, "net.depth.enc_name=test_efficientnet"))
    refused(done, "networks.depth.encoder")
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=1")
    assert call(*train_args(tmp_path, load, *short, version="2")).returncode == 0

    broken = bytearray(ckpt(trained_run, "best").read_bytes())
    broken[-100] ^= 1
    for name, content in (("flipped", bytes(broken)), ("cut", bytes(broken[: len(broken) // 2]))):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        refused(call(*train_args(tmp_path, f"trainer.load_ckpt={path}", version=name)), str(path))


def test_train_dev_is_small_and_stops_at_a_breakpoint(tmp_path: Path) -> None:
    """`breakpoint()` inside the objective talks to the terminal, and training goes on afterwards."""
    small = train_args(tmp_path)
    code = (
        "import io, sys; sys.argv[0] = 'train_dev'\n"
        "sys.stdin = io.StringIO('p batch[\"target\"].shape\\nc\\n')\n"
        "from trainer.objective import Objective\n"
        "forward, calls = Objective.forward, []\n"
        "def stop(self, batch):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2: breakpoint()\n"
        "    return forward(self, batch)\n"
        "Objective.forward = stop\n"
        "from trainer.commands.train_dev import main\n"
        "sys.exit(main())\n"
    )
    done = fork(
        *("-c", code, *small[1:5], "-o", str(tmp_path), "-v", "1"),
        *("--grad-norm", "--detect-anomaly", "--epochs", "1", "--batches", "3", "--set"),
        *small[small.index("--set") + 1 :],
        *("trainer.log_every_n_steps=1", "trainer.max_epochs=1", *QUICK),
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 3, 64, 64])" in done.stdout
    logged = scalars(tmp_path / "dev" / "1")
    assert done.stdout.startswith(f"folder: {tmp_path / 'dev' / '1'}\n")
    assert re.search(r"step 1/3  train loss [\d.e-]+  grad [\d.e-]+\n", done.stderr)
    assert [step for step, _ in logged["train_grad_norm/depth"]] == [1, 2, 3]
    assert logged["train_grad_norm/total"][0][1] >= logged["train_grad_norm/pose"][0][1] > 0


def test_quitting_the_debugger_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quitting(loop: Loop, batches: object) -> None:
        raise bdb.BdbQuit

    monkeypatch.setattr(Loop, "step", quitting)
    small = train_args(tmp_path)
    done = call("launch/train_dev.py", *small[1:5], "-o", tmp_path, "--set", *small[small.index("--set") + 1 :])
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "stopped in the debugger"
    assert "Traceback" not in done.stderr


def test_several_people_debug_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for user in ("ada", "DOMAIN\\grace"):
        monkeypatch.setattr("getpass.getuser", lambda user=user: user)
        folders.append(scratch().name)
    monkeypatch.setattr("getpass.getuser", lambda: {}["nobody"])
    assert [*folders, scratch().name] == ["monodepth_ada", "monodepth_DOMAIN_grace", f"monodepth_{os.getuid()}"]


def test_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("monodepth")
    if not script.exists():
        pytest.skip("the project is not installed in this environment")
    done = subprocess.run([script, "train", "--help"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0
    assert "--cfg-default" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory."), KeyboardInterrupt()])
def test_out_of_memory_or_a_second_ctrl_c_in_a_step_lose_nothing(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    from trainer.objective import Objective

    forward, calls = Objective.forward, iter([True])

    def fail(*args: object) -> object:
        if next(calls, False):
            return forward(*args)  # a step is taken, and not saved
        raise error

    before = ckpt(copied_run(trained_run, tmp_path / "out"), "last").read_bytes()
    monkeypatch.setattr(Objective, "forward", fail)
    monkeypatch.setattr("trainer.commands.jobs.train.leave", sys.exit)
    done = call(*train_args(tmp_path / "out", "trainer.max_epochs=3"))
    is_memory, steps = isinstance(error, RuntimeError), state(trained_run)["step"]
    told = (
        "error: the memory of the device is used up. Lower"
        if is_memory
        else f"stopped after step {steps + 1} without saving; "
    )
    assert (done.returncode, state(tmp_path / "out")["state"]) == ((1, "failed") if is_memory else (130, "preempted"))
    held = last_step(tmp_path / "out")
    assert [line[: len(told)] for line in done.stderr.splitlines()] == [told]
    assert f"; `last` holds step {held}, the same command continues there\n" in done.stderr
    assert state(tmp_path / "out")["step"] == held
    assert ckpt(tmp_path / "out", "last").read_bytes() == before
