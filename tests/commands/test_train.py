"""The main job as a user runs it: it finishes, continues exactly after any end, refuses bad input in a sentence."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.world import ROOT, command, environment, train_args
from trainer.checkpoint.safefile import read_metadata

pytestmark = pytest.mark.slow


def folder(out: Path) -> Path:
    return out / "run" / "1"


def ckpt(out: Path, kind: str) -> Path:
    return folder(out) / "ckpts" / f"{kind}.safetensors"


def state(out: Path) -> dict:
    return json.loads((folder(out) / "state.json").read_text())


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalars of a run as TensorBoard would show them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def texts(run: Path, tag: str) -> list[str]:
    """All texts written under a tag."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return [e.tensor_proto.string_val[0].decode() for e in events.Tensors(f"{tag}/text_summary")]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """`best` and `last` of two runs are the same, byte for byte."""
    for kind in ("best", "last"):
        assert ckpt(ours, kind).read_bytes() == ckpt(theirs, kind).read_bytes(), kind


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed")
    done = command(*train_args(out))
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    run = folder(finished)
    assert state(finished)["state"] == "finished"
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert {p.name for p in run.iterdir() if p.is_dir()} >= {"ckpts", "results"}
    weights = load_file(ckpt(finished, "best"))
    assert weights
    assert all(name.startswith("networks.") for name in weights)
    meta = read_metadata(ckpt(finished, "last"))
    assert meta["step"] == "8"
    assert json.loads(meta["hparams"])["config"]["net"]["depth"]["enc_name"] == "resnet10t"
    assert "enc_name: resnet10t" in (run / "hparams.yaml").read_text()
    logged = scalars(run)
    assert [step for step, _ in logged["train_losses/loss"]] == [2, 4, 6, 8]
    assert texts(run, "train_items")[-1].count("synthetic/train/scene") == 4
    assert texts(run, "val_items")[-1].count("synthetic/val/scene") == 2
    assert [step for step, _ in logged["val_metrics/AbsRel"]] == [4, 8]
    assert [step for step, _ in logged["lr-Adam"]] == [2, 4, 6, 8]  # once, though a validation follows a step
    assert {
        "train_losses/loss_img_recon",
        "train_metrics/AbsRel",
        "val_losses/loss",
        "lr-Adam",
        "epoch",
    } <= set(logged)


def test_the_same_command_again_finds_it_finished(finished: Path) -> None:
    before = ckpt(finished, "last").read_bytes()
    done = command(*train_args(finished))
    assert done.returncode == 0, done.stderr
    assert "had finished before: nothing was trained" in done.stdout
    assert ckpt(finished, "last").read_bytes() == before


def start(out: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *train_args(out, *overrides)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Return when `last` holds at least `step` optimizer steps."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if int(read_metadata(ckpt(out, "last"))["step"]) >= step:
                return
        except Exception:  # not there yet
            pass
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"never reached step {step}: {process.communicate()[0][-2000:]}")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, workers: int
) -> None:
    slow = f"loader.train.num_workers={workers}"  # must not matter for the result, and is allowed to change
    process = start(tmp_path, "trainer.save_every_n_steps=1", slow)
    wait_for_step(process, tmp_path, 5)
    process.kill()
    process.communicate()
    reached = int(read_metadata(ckpt(tmp_path, "last"))["step"])
    assert reached < 8, "killed too late to show anything"
    done = command(*train_args(tmp_path))
    assert done.returncode == 0, done.stderr
    for kind in ("best", "last"):
        ours, theirs = load_file(ckpt(tmp_path, kind)), load_file(ckpt(finished, kind))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), kind
    steps = [step for step, _ in scalars(folder(tmp_path))["train_losses/loss"]]
    assert steps == [2, 4, 6, 8], "TensorBoard must not show a step twice"


@pytest.mark.long
def test_killed_without_step_saves_the_files_are_the_same(finished: Path, tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for_step(process, tmp_path, 4)  # the end of the first epoch
    process.kill()
    process.communicate()
    assert command(*train_args(tmp_path)).returncode == 0
    assert_same_run(tmp_path, finished)


def test_sigterm_saves_and_leaves_with_143(finished: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "trainer.save_every_n_steps=1")
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    assert state(tmp_path)["state"] == "preempted"
    assert int(read_metadata(ckpt(tmp_path, "last"))["step"]) == state(tmp_path)["step"]
    assert command(*train_args(tmp_path)).returncode == 0
    ours, theirs = load_file(ckpt(tmp_path, "last")), load_file(ckpt(finished, "last"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_accumulation_and_limits_continue_exactly(tmp_path: Path) -> None:
    """Three micro-batches a step with a tail of one, in an epoch cut short: killed in the middle and continued."""
    options = (
        "dataset.train.num_items=24",
        "trainer.limit_train_batches=4",
        "trainer.accumulate_grad_batches=3",
    )
    options += ("trainer.max_epochs=4", "trainer.save_every_n_steps=1", "loader.batch_size=2")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert command(*train_args(straight, *options)).returncode == 0
    process = start(killed, *options)
    wait_for_step(process, killed, 3)  # two steps an epoch, so the second is under way
    process.kill()
    process.communicate()
    assert int(read_metadata(ckpt(killed, "last"))["step"]) < 8
    assert command(*train_args(killed, *options)).returncode == 0
    assert_same_run(killed, straight)


def test_sigterm_to_the_launcher_stops_both_processes_at_the_same_step(tmp_path: Path) -> None:
    options = ("trainer.save_every_n_steps=1", "trainer.max_epochs=50")
    launcher = (
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        "launch/accelerate/cpu_x2.yaml",
    )
    process = subprocess.Popen(
        [sys.executable, *launcher, *train_args(tmp_path, *options)],
        cwd=ROOT,
        env=environment(HF_HOME=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=90)[0]
    assert state(tmp_path)["state"] == "preempted", output[-2000:]
    assert int(read_metadata(ckpt(tmp_path, "last"))["step"]) == state(tmp_path)["step"]
    done = launch_two(tmp_path, *options[:1], f"trainer.max_epochs={state(tmp_path)['epoch'] + 1}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert state(tmp_path)["state"] == "finished"


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer.save_every_n_steps=1", "trainer.max_epochs=50")
    wait_for_step(process, tmp_path, 1)
    try:
        done = command(*train_args(tmp_path))
        assert done.returncode == 2
        assert str(process.pid) in done.stderr
        assert "Traceback" not in done.stderr
        assert process.poll() is None, "the first run must not be disturbed"
    finally:
        process.kill()
        process.communicate()


def launch_two(out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    launcher = (
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        "launch/accelerate/cpu_x2.yaml",
    )
    return command(*launcher, *train_args(out, *overrides), HF_HOME=str(out))


def test_two_processes_are_the_same_experiment(tmp_path: Path) -> None:
    """Statistics of BatchNorm, gradients and validation cover the global batch, so the curves agree."""
    ours, theirs = tmp_path / "two", tmp_path / "one"
    done = launch_two(ours, "trainer.log_every_n_steps=1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert command(*train_args(theirs, "trainer.log_every_n_steps=1")).returncode == 0
    two, one = scalars(folder(ours)), scalars(folder(theirs))
    losses = [tag for tag in one if tag.startswith("train_losses/")]
    assert losses
    for tag in losses:  # later steps drift apart: sums in another order, amplified by min and abs
        assert two[tag][0][1] == pytest.approx(one[tag][0][1], rel=1e-5), tag
        assert two[tag][-1][1] == pytest.approx(one[tag][-1][1], rel=0.05), tag
    assert two["val_metrics/AbsRel"][0][1] == pytest.approx(one["val_metrics/AbsRel"][0][1], rel=0.02)
    assert state(ours)["state"] == "finished"


def test_a_user_error_is_said_once_by_two_processes(tmp_path: Path) -> None:
    done = launch_two(tmp_path, "loss.img_recn.weight=1")
    assert done.returncode == 1
    assert done.stderr.count("Did you mean 'img_recon'?") == 1


@pytest.mark.long
def test_bare_torchrun_works_too(tmp_path: Path) -> None:
    done = command(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *train_args(tmp_path)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(read_metadata(ckpt(tmp_path, "last"))["step"]) == 8


def test_a_loss_that_is_not_finite_stops_with_a_capsule_that_replays(tmp_path: Path) -> None:
    done = command(*train_args(tmp_path, "optimizer.lr=1e20"))
    assert done.returncode == 1
    assert "the loss is not finite in epoch 1, step " in done.stderr
    assert "Traceback" not in done.stderr
    assert state(tmp_path)["state"] == "failed"
    (capsule,) = (folder(tmp_path) / "capsules").iterdir()
    assert str(capsule) in done.stderr
    from trainer.checkpoint import load_capsule, load_objective
    from trainer.runtime.seeding import TRAINING, seed_everything

    failed, objective = load_capsule(capsule), load_objective(capsule)
    seed_everything(failed.seed, TRAINING, failed.position.step, failed.micro_batch, failed.rank)
    assert not torch.isfinite(objective.train()(failed.batch).loss)
    told = command("launch/replay.py", capsule)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^first: the (output|weights)", told.stdout, re.MULTILINE)


def test_bf16_accumulation_and_clipping_run(tmp_path: Path) -> None:
    done = command(
        *train_args(
            tmp_path,
            "trainer.precision=bf16",
            "trainer.accumulate_grad_batches=3",
            "trainer.gradient_clip_val=1",
        )
    )
    assert done.returncode == 0, done.stderr
    assert read_metadata(ckpt(tmp_path, "last"))["step"] == "4"  # two epochs of 4 micro-batches: 3 + 1 each
    weights = load_file(ckpt(tmp_path, "last"))
    assert all(w.dtype != torch.bfloat16 for w in weights.values())


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    assert command(*train_args(tmp_path, "trainer.max_epochs=1")).returncode == 0
    before = ckpt(tmp_path, "last").read_bytes()
    limit = len(before) // 2

    done = subprocess.run(
        [sys.executable, *train_args(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert "last.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert ckpt(tmp_path, "last").read_bytes() == before


BAD = {
    "unknown key": (["loss.disp_smoth.weight=1"], "Did you mean 'disp_smooth'?"),
    "wrong type": (["optimizer.lr=fast"], "optimizer.lr"),
    "no such encoder": (["net.depth.enc_name=resnt18"], "resnet18"),
    "fp16 on a CPU": (["trainer.precision=16"], "bf16"),
    "batch larger than the data": (["loader.batch_size=400"], "400"),
    "monitor that is not tracked": (["trainer.monitor=AbsRl"], "Did you mean 'AbsRel'?"),
    "no ground truth for the monitor": (["dataset.use_depth=false"], "use_depth"),
    "weights that cannot be downloaded": (["net.depth.pretrained=true"], "pretrained: false"),
    "no such checkpoint": (["trainer.load_ckpt=nowhere.safetensors"], "nowhere.safetensors"),
    "unknown tracker": (["trainer.trackers=[tensorbord]"], "tensorboard"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case: str, tmp_path: Path) -> None:
    overrides, expected = BAD[case]
    done = command(*train_args(tmp_path, *overrides), HF_HUB_OFFLINE="1")
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_file_and_impossible_folder(tmp_path: Path) -> None:
    args = train_args(tmp_path)
    missing = [a.replace("monodepth2_MS", "monodepth2_XS") for a in args]
    done = command(*missing)
    assert (done.returncode, "monodepth2_XS.yaml" in done.stderr) == (2, True)
    (tmp_path / "file").write_text("")
    done = command(*train_args(tmp_path / "file"))
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_changes_that_would_break_the_experiment_are_refused(finished: Path) -> None:
    done = command(*train_args(finished, "loader.batch_size=2", "trainer.max_epochs=3"))
    assert done.returncode == 2
    assert "loader.batch_size" in done.stderr


def test_checkpoint_of_another_architecture_and_damaged_ones(finished: Path, tmp_path: Path) -> None:
    load = f"trainer.load_ckpt={ckpt(finished, 'best')}"
    done = command(*train_args(tmp_path, load, "net.depth.enc_name=resnet14t"))
    assert done.returncode == 2
    assert "networks.depth.encoder" in done.stderr
    assert command(*train_args(tmp_path, load, version="2")).returncode == 0

    broken = bytearray(ckpt(finished, "best").read_bytes())
    broken[-100] ^= 1
    for name, content in (("flipped", bytes(broken)), ("cut", bytes(broken[: len(broken) // 2]))):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        done = command(*train_args(tmp_path, f"trainer.load_ckpt={path}", version=name))
        assert done.returncode == 2
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr


def test_train_dev_is_small_and_stops_at_a_breakpoint(tmp_path: Path) -> None:
    """`breakpoint()` inside the objective talks to the terminal, and training goes on afterwards."""
    small = train_args(tmp_path)
    code = (
        "import sys; sys.argv[0] = 'train_dev'\n"
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
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, *small[1:5], "-o", str(tmp_path), "-v", "1"),
            *("--grad-norm", "--detect-anomaly", "--epochs", "1", "--batches", "3", "--set"),
            *small[small.index("--set") + 1 :],
            *("trainer.log_every_n_steps=1", "trainer.max_epochs=1"),
        ],
        input="p batch['target'].shape\nc\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([4, 3, 64, 96])" in done.stdout
    logged = scalars(tmp_path / "dev" / "1")
    assert [step for step, _ in logged["train_grad_norm/depth"]] == [1, 2, 3]
    assert logged["train_grad_norm/total"][0][1] >= logged["train_grad_norm/pose"][0][1] > 0


def test_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("train")
    if not script.exists():
        pytest.skip("the project is not installed in this environment")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, env={**os.environ}, cwd="/")
    assert done.returncode == 0
    assert "--cfg-default" in done.stdout
