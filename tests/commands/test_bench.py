"""The benchmarks run, their numbers add up, and what they are printed as can be read."""

from __future__ import annotations

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

import models_zoo
from tests.data.shards.made import folder, write
from trainer.checkpoint.state import TrainState
from trainer.commands import bench
from trainer.commands.jobs import (
    bench_all,
    bench_data,
    bench_export,
    bench_loop,
    bench_scale,
    bench_start,
    bench_step,
    launches,
)
from trainer.commands.jobs.measuring import CLOCKS, ratio, result, rows
from trainer.commands.jobs.naive_step import NaiveObjective
from trainer.commands.jobs.timings import Stopwatch, read_table
from trainer.predict.formats import check

TINY = ("step", "--size", "64", "64", "--batch-size", "1", "--rounds", "1", "--encoder", "test_resnet")


@pytest.mark.parametrize("options", [(), ("--precision", "bf16", "--no-channels-last")])
def test_a_tiny_step_is_measured_in_parts(options, capsys):
    assert bench.main([*TINY, *options]) == 0
    printed = capsys.readouterr().out
    assert "64x64: step" in printed
    assert "A/A" in printed
    assert all(part in printed for part in bench_step.PARTS)
    assert "launches of a step" in printed


def test_the_parts_make_up_the_step():
    times = bench_step.measure(bench.parse(TINY), 64, 64)
    for clock in CLOCKS:
        (first,), (second,) = times["step"][clock], times["step again"][clock]
        assert sum(sum(times[part][clock]) for part in bench_step.PARTS) == pytest.approx(first + second)


@pytest.mark.parametrize("trained", [True, False])
def test_the_published_formulation_has_the_same_gradients(trained):
    """In float64, with the statistics of the pose network fixed: it sees pairs one by one, ours sees them together."""
    args = bench.parse(TINY)
    torch.manual_seed(0)
    ours = bench_step.make_objective(args).double()
    ours.losses["img_recon"].automask_noise = 0.0
    naive = NaiveObjective(ours, noise=0.0).train(trained)
    ours.train(trained).networks["pose"].eval()
    batch = {key: value.double() for key, value in bench_step.make_batch(2, 96, 64, "cpu").items()}
    gradients = []
    for model in (ours, naive):
        ours.zero_grad(set_to_none=True)
        model(batch).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        assert (gradients[1][name] - gradient).norm() <= 1e-10 * gradient.norm(), name
    assert gradients[0].keys() == gradients[1].keys()


def test_steps_are_taken_on_request(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("run 2\nrun\nrun 0\n\nrun 1\nquit\nrun 9\n"))
    assert bench.main([*TINY, "--serve", "--naive"]) == 0
    ready, *answers = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready == {"ready": True, "rss_before_mb": ready["rss_before_mb"]}
    taken = [{key: len(answer[key]) for key in CLOCKS} for answer in answers if "error" not in answer]
    assert taken == [{"wall": 2, "cpu": 2}, {"wall": 1, "cpu": 1}]
    assert all(answer["peak_rss_mb"] > ready["rss_before_mb"] > 0 for answer in answers if "error" not in answer)
    wrong = "expected `run N` or `quit`, got"
    whole = "expected a whole number from 1 to 1,000,000, got '0'"
    assert [answer.get("error") for answer in answers] == [None, f"{wrong} 'run'", whole, f"{wrong} ''", None]


def test_the_published_formulation_has_no_16_bit(capsys):
    assert bench.main([*TINY, "--naive", "--precision", "bf16"]) == 2
    assert "--naive has no networks in bf16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("step", "--encoder", "resnet19"), "enc_name 'resnet19' is not a model of timm"),
        (("save", "--folder", "/no/such/folder"), "--folder /no/such/folder: is no folder"),
        (("eval", "--encoder", "test_resnet", "--metrics", "eigne"), "'eigne' is not a known metric set"),
        (("data", "--path", "/no/such/folder"), "/no/such/folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, told, capsys):
    assert bench.main([*words, "--rounds", "1"]) == 2
    assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.parse(["step", "--size", "100", "64"])
    told = "argument --size: expected width and height from 64 to 8,192, multiples of 32, as in 640x192, got '100x64'"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("size", [["96x64"], ["96X64"], ["96,64"], ["96", "64"]])
def test_a_size_is_one_word_or_two(size):
    args = bench.parse(["eval", "--size", *size, "--items", "2", "--truth", *size])
    assert (args.size, args.truth, args.items) == ((96, 64), (96, 64), 2)


DESCRIBED = ("bench", "command", "machine", "versions", "threads", "settings", "results", "peak_memory_mb")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (TINY, {"64x64 step": "ms", "64x64 backward": "ms", "64x64 A/A": "ratio"}),
        (
            ("data", "--items", "1", "--size", "64", "64", "--pictures", "96", "64"),
            {"JPEG, plain": "triplets/s", "PNG, augmented": "triplets/s", "PNG, as published / augmented": "ratio"},
        ),
        (("save", "--encoder", "test_resnet"), {"save": "ms", "torch.load": "ms", "save / torch.save": "ratio"}),
        (
            ("eval", "--encoder", "test_resnet", "--items", "2", "--size", "64", "64", "--truth", "96", "64"),
            {"bare": "pictures/s", "evaluation": "pictures/s", "evaluation / bare": "ratio"},
        ),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else None,
)
def test_numbers_are_printed_as_one_json_object(words, expected, capsys):
    assert bench.main([*words, "--rounds", "1", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert set(DESCRIBED) <= described.keys()
    assert described["bench"] == words[0]
    assert described["threads"] == 1
    assert described["versions"]["torch"] == torch.__version__
    assert described["machine"]["cores"] >= 1
    for name, unit in expected.items():
        found = described["results"][name]
        assert found["unit"] == unit
        for clock in CLOCKS:
            assert 0 < found[clock]["low"] <= found[clock]["median"] <= found[clock]["high"]


def test_published_items_hold_every_frame_at_four_scales_with_and_without_jitter(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    of_seeds = [bench_data.published_item(paths, (96, 64), seed) for seed in range(8)]
    for plain, for_networks in of_seeds:
        assert [tuple(image.shape) for image in plain] == [(3, 64 >> s, 96 >> s) for _ in paths for s in range(4)]
        assert len(for_networks) == len(plain)
    first = torch.from_numpy(np.array(Image.open(paths[0]))).permute(2, 0, 1) / 255
    assert {torch.equal(plain[0], first) for plain, _ in of_seeds} == {True, False}  # the size is that of the file
    assert all(torch.equal(plain[0], first) or torch.equal(plain[0], first.flip(-1)) for plain, _ in of_seeds)
    assert {torch.equal(plain[0], jittered[0]) for plain, jittered in of_seeds} == {True, False}


def test_shards_are_read_beside_the_files_they_were_written_from(tmp_path, capsys):
    out = write(folder(tmp_path / "frames", 5), tmp_path / "shards")
    words = ["data", "--path", str(tmp_path / "frames"), "--shards", str(out), "--items", "3", "--size", "32", "16"]
    assert bench.main([*words, "--rounds", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results[f"shards of {out}"]["unit"] == "triplets/s"
    assert bench.main(["data", "--shards", str(tmp_path), "--rounds", "1"]) == 2
    assert "no train.json and train.npz" in capsys.readouterr().err


def test_pictures_of_ones_own_are_read(tmp_path, capsys):
    for number in range(3):
        Image.new("RGB", (96, 64), (number, 80, 160)).save(tmp_path / f"{number}.png")
    assert bench.main(["data", "--path", str(tmp_path), "--items", "1", "--size", "64", "64", "--rounds", "1"]) == 0
    assert "--path, augmented, triplets/s" in capsys.readouterr().out
    (tmp_path / "0.png").unlink()
    assert bench.main(["data", "--path", str(tmp_path), "--items", "1", "--size", "64", "64", "--rounds", "1"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_spreads_and_ratios_are_those_of_the_rounds():
    a, b = {"wall": [0.002, 0.004, 0.009]}, {"wall": [0.001, 0.004, 0.003]}
    assert result(a) == {"unit": "ms", "rounds": 3, "wall": pytest.approx({"median": 4.0, "low": 2.0, "high": 9.0})}
    assert ratio(a, b)["wall"] == pytest.approx({"median": 2.0, "low": 1.0, "high": 3.0})
    assert rows({"x": result(a)})[1] == ["x, ms", "4 (2 to 9)", ""]


def test_starts_are_read_from_what_they_print(monkeypatch, capsys):
    clock, cpu = iter([100, 100, 107, 108] * 3), iter([2.5, 3] * 3)

    def ended(command, **options):
        watch = Stopwatch(age=4.0, clock=lambda: next(clock), cpu_clock=lambda: next(cpu))
        for part in ("imports", "networks"):
            watch.lap(part)
        next(clock)
        assert command[-1] == "trainer.trackers=[]"
        return SimpleNamespace(returncode=0, stdout=f"12:00 {watch.table()}\nfinished\n", stderr="")

    monkeypatch.setattr(bench_start.subprocess, "run", ended)
    assert bench.main(["start", "--rounds", "2", "--json", "--set", "trainer.trackers=[]"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert {part: (of["wall"]["median"], of["cpu"]["median"]) for part, of in results.items()} == {
        "imports": (4.0, 2.5),
        "networks": (7.0, 0.5),
        "total": (11.0, 3.0),
    }
    assert read_table("no table") == {}
    failed = SimpleNamespace(returncode=2, stdout="", stderr="note\nerror: no such page\n")
    monkeypatch.setattr(bench_start.subprocess, "run", lambda *args, **options: failed)
    assert bench.main(["start", "--rounds", "1"]) == 2
    assert "`monodepth train` ended with 2: error: no such page" in capsys.readouterr().err


def test_the_page_has_a_table_for_each_benchmark(monkeypatch, tmp_path, capsys):
    class Server:
        def __init__(self, words):
            self.seconds = 0.4 if "--naive" in words else 0.1

        def ask(self, line):
            assert line == "run 1"
            return {"wall": [self.seconds], "cpu": [self.seconds], "peak_rss_mb": 4e3 * self.seconds}

        def close(self):
            pass

    asked = []

    def measured(words):
        args = bench.parse(words)  # all of them are options
        asked.append(args.what)
        if args.what == "scale":  # arithmetic and counts, no times
            return {"tables": {"on paper": [["processes", "step ms"], ["8", "113"]], "counted": [["calls"], ["86"]]}}
        return {"results": {f"of {args.what}": result({"wall": [0.1], "cpu": [0.1]})}}

    monkeypatch.setattr(bench_all, "Server", Server)
    monkeypatch.setattr(bench_all, "_measured", measured)
    page = tmp_path / "docs" / "benchmarks.md"
    for quick in ([], ["--quick"]):
        monkeypatch.setattr(bench_all, "emulates_bf16", lambda device, quick=quick: bool(quick))
        assert bench.main(["all", "--out", str(page), "--rounds", "2", *quick]) == 0
        text = page.read_text()
        assert ("made with `--quick`" in text) == bool(quick)
        assert "ordinary memory layout / published, ratio | 0.25 (0.25 to 0.25) | 0.25 (0.25 to 0.25) |" in text
        assert ("| bf16 networks | 400 | 0.25 |" in text) is not bool(quick)
        assert ("no instructions for bf16" in text) is bool(quick)
        assert all(f"| of {what}, ms | 100 (100 to 100) |" in text for what in asked if what != "scale")
        assert "on paper:\n\n| processes | step ms |\n|---|---|\n| 8 | 113 |\n\ncounted:\n\n| calls |" in text
    assert asked == 2 * ["step", "data", "save", "start", "loop", "eval", "predict", "scale"]
    capsys.readouterr()
    monkeypatch.undo()
    failed = SimpleNamespace(returncode=1, stdout="", stderr="Killed\n")
    monkeypatch.setattr(bench_all, "_steps", lambda args: ["## A training step"])
    monkeypatch.setattr(bench_all.subprocess, "run", lambda *args, **options: failed)
    assert bench.main(["all", "--out", str(page)]) == 2
    assert "ended with 1: Killed" in capsys.readouterr().err
    *_, step, end = page.read_text().strip().split("\n\n")  # what was measured before is kept
    assert step == "## A training step"
    assert end.startswith("**Not finished")


def test_views_and_new_memory_launch_nothing():
    counter = launches.LaunchCounter()
    x = torch.rand(2, 3, requires_grad=True)
    with counter:
        x.detach().t()[0].unsqueeze(0).expand(2, 2), torch.empty_like(x)
        assert counter.launches.total() == 0
        (x * 2).sum().backward()  # two forward; the ones that backward starts from, and a product
        assert counter.launches == {"mul": 2, "sum": 1, "ones_like": 1}
        assert counter.waits == 0
        float(x.detach().sum())
        x.new_tensor([1.0])
    assert counter.waits == 2


@pytest.mark.parametrize(("fuse", "most"), [("off", 4600), ("on", 1300)])
def test_a_step_with_stereo_has_few_launches(fuse, most):
    """Networks, losses forward and backward, and Adam, before anything is compiled."""
    counts = bench_step.launches(bench.parse(["step"]), fuse)
    assert tuple(counts) == bench_step.PARTS
    assert counts["optimizer"] == 2
    assert sum(counts.values()) <= most, counts


@pytest.mark.parametrize("option", ["--rounds", "--threads", "--batch-size"])
def test_nothing_is_measured_zero_times(option, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.parse(["step", option, "0"])
    assert stop.value.code == 2
    assert f"argument {option}: expected a whole number from 1 to" in capsys.readouterr().err


SMALL = (
    *("dataset.size=[64,64]", "dataset.train.num_items=2", "dataset.val.num_items=1", "loader.batch_size=1"),
    *("loader.num_workers=0", "net.depth={enc_name: test_resnet, out_scales: [0]}", "net.pose.enc_name=test_resnet"),
    "trainer.log_every_n_steps=1",
)


@pytest.mark.slow
def test_the_loop_is_measured_beside_a_bare_one(capsys):
    assert bench.main(["loop", "--rounds", "1", "--loader", "--set", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "1 rounds of 1 steps" in printed
    for title in ("batches in memory", "batches from the loader"):
        table = printed[printed.index(title) :].splitlines()
        assert table[0].split()[-4:] == ["bare", "loop", "loop/bare", "A/A"]
        for row, clock in zip(table[1:3], ("wall clock", "CPU time"), strict=True):
            assert row.strip().startswith(clock)
            bare, loop, ratio, control = map(float, row.split()[-4:])
            assert min(bare, loop, ratio, control) > 0
    for what in ("seed_everything", "save `last`", "validation"):
        assert what in printed


def test_a_round_must_hold_whole_intervals_between_scalars(capsys):
    assert bench.main(["loop", "--steps", "3", "--set", *SMALL, "trainer.log_every_n_steps=2"]) == 2
    assert "use a multiple of trainer.log_every_n_steps (2)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_loop_is_described_as_json(capsys):
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision of the test before
    assert bench.main(["loop", "--rounds", "1", "--precision", "bf16", "--json", "--set", *SMALL]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    names = ("bare", "loop", "bare again", "loop / bare", "A/A")
    assert list(results) == [f"batches in memory, {name}" for name in names]


def test_sides_take_turns_and_share_the_work():
    """Every side sees every batch of a round; the warm-up round is not counted."""
    took = []

    class Loop:
        train_loader = SimpleNamespace(dataset=None)
        state = TrainState()

        def epoch(self):
            return iter(self.train_loader)

        def step(self, batch):
            took.append(("loop", batch))

    bare = SimpleNamespace(
        train=lambda batches: took.extend(("bare", batch) for batch in batches), device=torch.device("cpu")
    )
    sums = bench_loop.take_turns(Loop(), bare, [1, 2], rounds=1, steps=2)
    one_round = [(side, batch) for batch in (1, 2) for side in ("bare", "loop", "bare")]
    assert took == 2 * one_round
    assert {len(seconds) for seconds in sums.values()} == {1}
    assert set(sums) == {(clock, side) for clock in bench_loop.CLOCKS for side in bench_loop.SIDES}


def test_the_table_of_exported_networks(monkeypatch, capsys):
    def measure(encoder, decoder, interface, args):
        if decoder == "ddvnet":
            raise ValueError("it has no such form\nat all")
        assert (interface.size, interface.precision) == ((64, 64), "16")
        return bench_export.Row(2e-7, 1.25, 3.0, 6.0)

    monkeypatch.setattr(bench_export, "measure", measure)
    monkeypatch.setattr(bench_export.onnx_file, "packages", lambda: (None, SimpleNamespace(__version__="1.2")))
    options = (
        "--encoders",
        "test_resnet",
        "--decoders",
        "hrdepth",
        "ddvnet",
        "--size",
        "64",
        "64",
        "--precision",
        "16",
    )
    assert bench.main(["export", *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("64x64, 16 bit, 1 thread(s), 5 rounds, onnxruntime 1.2")
    assert "| test_resnet | hrdepth | 2e-07 | 1.2 | 3.0 | 6.0 | 0.50 |" in printed
    assert "| test_resnet | ddvnet | no: ValueError: it has no such form | | | | |" in printed
    assert bench.main(["export", "--decoders", "hrdeepth"]) == 2
    assert "'hrdeepth' is not a decoder. Did you mean 'hrdepth'" in capsys.readouterr().err


def test_untrained_networks_have_contrast():
    """Logits have a mean of 0, so disparity one of 1/2, and vary more than those of a new network."""
    network = bench_export.random_network("test_resnet", "hrdepth")
    torch.manual_seed(0)
    options = {"enc_name": "test_resnet", "dec_name": "hrdepth", "init_disp": 0.5}
    new = models_zoo.create("depth", pretrained=False, **options).eval()
    with torch.no_grad():
        frames = check.generated_frames((96, 64), count=1) / 255
        disp, plain = (depth(frames)["disp"][0] for depth in (network.depth, new))
    assert float(disp.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(disp.std() / plain.std()) == pytest.approx(bench_export.GAIN, rel=0.1)


def test_the_model_of_many_processes_by_hand():
    # 100 MB to 2 processes: each sends half twice, 8e8 bit at 1e11 bit/s; 2 messages of 20 us.
    assert bench_scale.sum_ms(100, 2, 100, 20) == pytest.approx(8 + 0.04)
    assert bench_scale.sum_ms(100, 1, 100, 20) == 0
    assert bench_scale.sum_ms(0, 1024, 100, 20) == pytest.approx(2 * 10 * 0.02)  # a tree of ten floors, up and down
    of = bench_scale.Cluster(step_ms=90, gbps=100, latency_us=0, item_kb=500, items=4, gradient_mb=1000, norms=10)
    alone, two = bench_scale.on_paper(of, 1), bench_scale.on_paper(of, 2)
    assert (alone["step_ms"], alone["efficiency"]) == (90, 1)
    assert two["gradients_ms"] == pytest.approx(80)
    assert two["not_hidden_ms"] == pytest.approx(80 - 60)  # two thirds of the step are the backward pass
    assert two["read_gb_per_s"] == pytest.approx(2 * 4 * 500e3 / 0.110 / 1e9)
    little = dataclasses.replace(of, gradient_mb=30)
    assert bench_scale.on_paper(little, 2)["not_hidden_ms"] == pytest.approx(2)  # the last bucket, 25 MB


def test_one_process_of_many_is_simulated_by_the_real_trainer(capsys):
    tiny = ("net.depth.enc_name=test_resnet", "net.pose.enc_name=test_resnet")
    assert bench.main(["scale", "--processes", "300", "--json", "--set", *tiny]) == 0
    described = json.loads(capsys.readouterr().out)
    (of,), (paper, simulated) = described["simulated"], described["tables"].values()
    assert [table[0][0] for table in (paper, simulated)] == ["processes", "processes"]
    assert [table[1][0] for table in (paper, simulated)] == ["300", "300"]
    networks = [models_zoo.create(name, enc_name="test_resnet", pretrained=False) for name in ("depth", "pose")]
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for network in networks for module in network.modules())
    step = of["sent"]["step"]
    assert step["BatchNorm"]["calls"] == 2 * norms  # once forward, once backward
    assert step["gradients"]["mb"] == pytest.approx(sum(of["gradient_mb"].values()), rel=1e-3)
    assert step["other"]["calls"] == 1  # the verdict on the step
    assert of["sampler_mb"] < 5


def test_a_checkpoint_is_read_only_where_there_is_one(monkeypatch) -> None:
    said = []
    monkeypatch.setattr("trainer.commands.jobs.timings.doing", lambda what, keep=False: said.append(what))
    watch = Stopwatch(age=0.0)
    watch.lap("optimizer, networks in place")
    watch.starts_anew()
    watch.lap("optimizer, networks in place")
    assert said == ["reading the last checkpoint", "preparing the first epoch"]
