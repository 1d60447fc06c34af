"""Does it learn? Train small networks on made-up KITTI drives from many starts, and print AbsRel as a Markdown table.

    python benchmarks/learning.py --out /tmp/learning --jobs 2                      # all rows, three seeds: hours
    python benchmarks/learning.py --out /tmp/learning --rows "M" "M, always masked" --seeds 42

Rendered streets (`monodepth prepare synthetic`, see `prepare`): 40 drives to train on, 40 others to score, frame 1 of
each; median scale; the best constant depth reaches 0.48. Networks see 96x64 pixels, batch 4, Adam, augmentation; what a
row does not set is as in cfg/kitti. The same command continues what was interrupted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PAGES = Path(__file__).resolve().parent.parent / "cfg"
MARKS = (100, 200, 400, 1000, 1500)  # steps after which a run is scored

LITE = "tf_efficientnet_lite0"
SCRATCH = ["net.depth.pretrained=false", "net.pose.pretrained=false"]
IMAGENET = [f"net.depth={{enc_name: {LITE}, pretrained: true}}", f"net.pose={{enc_name: {LITE}, pretrained: true}}"]
VIDEO, BOTH = ["dataset.supp_idxs=[-1,1]"], ["dataset.supp_idxs=[-1,1,0]"]
STEREO = ["dataset.supp_idxs=[0]", "net.pose=null"]
ALWAYS, NEVER = ["loss.img_recon.automask_below=null"], ["loss.img_recon.use_automask=false"]
MOVING = ["dataset.root={out}/moving", "dataset.val.root={out}/moving_test"]

ROWS: dict[str, list[str]] = {
    "M": SCRATCH + VIDEO,
    "M, always masked": SCRATCH + VIDEO + ALWAYS,
    "M, always masked, disparity 0.06": [*SCRATCH, *VIDEO, *ALWAYS, "net.depth.init_disp=0.06"],
    "M, never masked": SCRATCH + VIDEO + NEVER,
    "M, moving and standing": SCRATCH + VIDEO + MOVING,
    "M, moving and standing, always masked": SCRATCH + VIDEO + MOVING + ALWAYS,
    "M, moving and standing, never masked": SCRATCH + VIDEO + MOVING + NEVER,
    "S": SCRATCH[:1] + STEREO,
    "S, always masked": SCRATCH[:1] + STEREO + ALWAYS,
    "S, never masked": SCRATCH[:1] + STEREO + NEVER,
    "MS": SCRATCH + BOTH,
    "MS, always masked": SCRATCH + BOTH + ALWAYS,
    "MS, never masked": SCRATCH + BOTH + NEVER,
    "M, ImageNet": IMAGENET + VIDEO,
    "M, ImageNet, always masked": IMAGENET + VIDEO + ALWAYS,
    "M, ImageNet, never masked": IMAGENET + VIDEO + NEVER,
    "S, ImageNet": IMAGENET[:1] + STEREO,
    "MS, ImageNet": IMAGENET + BOTH,
}


def monodepth(*words: str) -> None:
    """Run a command of this project with one thread; its output goes with the exception when it fails."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "trainer.commands", *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"monodepth {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def prepare(out: Path) -> None:
    """Render what the rows train and are scored on, and write their split."""
    moves = ["--moving-objects", "4"]
    for name, drives, seed, more in (
        ("still", 60, 11, []),
        ("still_test", 40, 77, []),
        ("moving", 60, 11, [*moves, "--standing", "0.2"]),
        ("moving_test", 40, 77, moves),
    ):
        size = ["--frames", "12" if drives == 60 else "3", "--size", "398x120", "--annotated", "--no-lidar"]
        monodepth(
            "prepare", "synthetic", "--out", str(out / name), f"--drives={drives}", f"--seed={seed}", *size, *more
        )
        folder = out / name / "splits" / "learning"
        folder.mkdir(parents=True, exist_ok=True)
        scored = [f"2011_09_26/2011_09_26_drive_{number:04}_sync" for number in range(1, 41)]
        trained = [f"{drive} {frame} {camera}" for drive in scored for frame in range(1, 11) for camera in "lr"]
        for mode, lines in (("train", trained), ("val", [f"{drive} 1 l" for drive in scored])):
            (folder / f"{mode}_files.txt").write_text("".join(f"{line}\n" for line in lines))


def train(out: Path, row: str, seed: int, rate: str, steps: int, more: list[str]) -> dict[int, float]:
    """Train one run to `steps`, or go on with it; return AbsRel by step."""
    name = f"{row}, {rate}".translate(str.maketrans(", ", "-_"))
    data = [f"dataset.root={out}/still", f"dataset.val.root={out}/still_test"]
    settings = [s.format(out=out) if s.startswith("dataset") else s for s in ROWS[row]]
    size = ["dataset.size=[96,64]", "loader.batch_size=4", "loader.num_workers=0", "trainer.limit_train_batches=100"]
    known = ["dataset.split=learning", "dataset.val.use_benchmark=true", "trainer.log_images=false"]
    length = [f"optimizer.lr={rate}", f"trainer.max_epochs={steps // 100}"]
    place = ["-o", str(out / "runs"), "-n", name, "-v", str(seed), "-s", str(seed)]
    monodepth(
        "train", "-c", str(PAGES / "kitti/monodepth2_MS.yaml"), "-d", str(PAGES / "kitti/default.yaml"), *place,
        "--set", *data, *known, *size, *length, *settings, *more,
    )  # fmt: skip
    events = EventAccumulator(str(out / "runs" / name / str(seed)), size_guidance={"scalars": 0})
    events.Reload()
    return {point.step: point.value for point in events.Scalars("val/AbsRel")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data and runs; the same one goes on")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 195, 335])
    parser.add_argument("--rates", nargs="+", default=["3e-4"], help="learning rates")
    parser.add_argument("--steps", type=int, default=400, help="multiple of 100")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--set", nargs="+", default=[], help="settings of all rows")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    prepare(out)
    marks = [mark for mark in MARKS if mark <= args.steps]
    print(f"| | rate | {' | '.join(f'{mark} steps' for mark in marks)} |")
    print("|---" * (2 + len(marks)) + "|")
    cells = [(row, rate, seed) for row in args.rows for rate in args.rates for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {cell: pool.submit(train, out, cell[0], cell[2], cell[1], args.steps, args.set) for cell in cells}
        for row in args.rows:
            for rate in args.rates:
                scores = [runs[row, rate, seed].result() for seed in args.seeds]
                shown = (", ".join(f"{run[mark]:.3f}" for run in scores) for mark in marks)
                print(f"| {row} | {rate} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
