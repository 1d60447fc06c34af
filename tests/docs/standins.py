"""What the commands of the documentation find in their folder: pictures, a film, KITTI and a trained run, all tiny."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.docs.blocks import ROOT, Block, blocks_of
from tests.world import environment

SPLITS = ("eigen_zhou", "eigen", "eigen_benchmark", "eigen_full")  # the same few drives under published names
PROGRAMS = {
    "monodepth": "-m tests.docs.shrunk monodepth",
    "accelerate": "-m tests.docs.shrunk accelerate",
    "python": "",
}


def make(folder: Path) -> None:
    """Fill an empty folder: `work` holds the stand-ins, `bin` the programs that pages call."""
    from PIL import Image

    from trainer.commands.prepare import main as prepare
    from trainer.predict import FilmWriter

    work, programs = folder / "work", folder / "bin"
    raw = work / "datasets" / "kitti" / "kitti_raw_sync"
    small = ["--size", "248x76", "--drives", "3", "--frames", "8", "--annotated", "--split", SPLITS[0]]
    assert prepare(["synthetic", "--out", str(raw), *small]) == 0
    for name in SPLITS[1:]:
        shutil.copytree(raw / "splits" / SPLITS[0], raw / "splits" / name)
    frames = sorted(raw.rglob("image_02/data/*.png"))
    (work / "pictures").mkdir()
    for number, frame in enumerate(frames[:4]):
        with Image.open(frame, formats=["PNG"]) as picture:
            picture.save(work / "pictures" / f"{number:04}.jpg")
    shutil.copy(work / "pictures" / "0000.jpg", work / "street.jpg")
    with Image.open(frames[0], formats=["PNG"]) as first:
        size = first.size
    with FilmWriter(work / "drive.mp4", size, 10, {}) as film:
        for number, frame in enumerate(frames):
            with Image.open(frame, formats=["PNG"]) as picture:
                film.write(picture.convert("RGB"), number / 10)
    programs.mkdir()
    for program, words in PROGRAMS.items():  # no links: an interpreter finds its environment by its place
        (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / program).chmod(0o755)
    for command in ("train -c synthetic/monodepth2_MS", "evaluate --ckpt models/synthetic/monodepth2_MS/42"):
        done = shell(f"monodepth {command}", work, folder, str(folder))
        assert done.returncode == 0, done.stdout


def shell(text: str, cwd: Path, standins: Path, temporary: str) -> subprocess.CompletedProcess[str]:
    """Run lines of shell as a reader would, up to the first that fails; stdout holds both outputs."""
    path = os.pathsep.join([str(standins / "bin"), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        timeout=900,
        env=environment(PATH=path, HOME=str(cwd), TMPDIR=temporary, PYTHONPATH=str(ROOT)),
    )


def execute(block: Block, cwd: Path, standins: Path, temporary: str) -> subprocess.CompletedProcess[str]:
    """Run a block of shell or Python in a folder."""
    if block.language == "sh":
        return shell(block.text, cwd, standins, temporary)
    script = cwd / f".block_{block.line}.py"
    script.write_text(block.text, encoding="utf-8")
    return shell(f"python {script.name}", cwd, standins, temporary)


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write the blocks that are the text of a file."""
    for block in blocks:
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def run_page(page: Path, folder: Path, standins: Path, only_quick: bool = False) -> None:
    """Run the blocks of a page in order; print how long each takes. Fails with what the first wrong one printed."""
    blocks = blocks_of(page)
    write_files(blocks, folder)
    with TemporaryDirectory() as temporary:  # where `train-dev` works; a short path, as sockets need
        for block in (block for block in blocks if block.is_executed and (block.is_quick or not only_quick)):
            start = time.monotonic()
            done = execute(block, folder, standins, temporary)
            print(f"{time.monotonic() - start:6.1f} s  {block.place}")
            assert done.returncode == 0, f"{block.place}\n{block.text}\n{done.stdout[-4000:]}"
