"""Commands as users write them, made small: a training of a page becomes two steps of tiny networks on 64 x 64 pixels.

    python -m tests.docs.shrunk monodepth train -c benchmark/hrdepth_MS
    python -m tests.docs.shrunk accelerate launch --config_file ... -m trainer.commands.train -c ...

The first word names the program that a page calls. Everything else is done as it stands there.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module

from trainer.commands.jobs.list_commands import module_of

MODES = ("", "train.", "val.", "test.")
PLAIN_LOADER = {"num_workers": "0", "persistent_workers": "~", "prefetch_factor": "~", "timeout": "0"}
FEW = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "loader.batch_size=2")
KEEPS_ENCODER = ("dpt", "litemono")  # decoders that go with encoders of their own
SIZE, VIT_SIZE = "[64, 64]", "[224, 224]"


def settings(name: str, words: Sequence[str]) -> list[str]:
    """Return the `--set` texts that make a training small, given the words of its command."""
    from trainer.config import load_config
    from trainer.config.plugins import load_plugins

    args = import_module(module_of(name)).parse(words)
    load_plugins(args.plugins)
    default = getattr(args, "cfg_default", None)
    if default is None:  # `sweep` leaves it open: that beside the first page
        from trainer.config.pages import default_beside

        default = default_beside(args.cfg_file)
    cfg = load_config(args.cfg_file[:1] if name == "sweep" else args.cfg_file, default, args.set)
    small = [*FEW, *(f"loader.{mode}{key}={value}" for mode in MODES for key, value in PLAIN_LOADER.items())]
    if cfg.dataset["type"] == "synthetic":  # rendered while they are read: few to train on and, later, to evaluate
        small += [f"dataset.{mode}num_items=8" for mode in MODES[1:]]
    decoder = cfg.net["depth"].get("dec_name")
    small.append(f"dataset.size={VIT_SIZE if decoder == 'dpt' else SIZE}")
    for net, arguments in cfg.net.items():
        small.append(f"net.{net}.pretrained=false")
        keeps = net == "depth" and arguments.get("dec_name") in KEEPS_ENCODER
        if not keeps and not arguments.get("enc_options"):  # which are those of one encoder
            small.append(f"net.{net}.enc_name=test_resnet")
    return small


def shrunk(words: Sequence[str]) -> list[str]:
    """Return the words of a `monodepth` command, made small where it trains."""
    name, *rest = words or ["--help"]
    if "--help" in rest or "-h" in rest:
        return list(words)
    if name in ("train", "train-dev"):
        return [*words, "--set", *settings(name, rest)]
    if name == "sweep":
        few = [] if "--evaluate-args" in rest else ["--evaluate-args=--limit 2"]
        return [*words, *few, "--set", *settings(name, rest)]
    if name == "depth-movie":
        return [*words, "--minutes", "0.05"]
    return list(words)


def main() -> None:
    program, *words = sys.argv[1:]
    if program == "accelerate":
        place = next((i for i, w in enumerate(words) if w in ("trainer.commands.train", "launch/train.py")), None)
        if place is not None:
            words += ["--set", *settings("train", words[place + 1 :])]
        sys.argv = ["accelerate", *words]
        runpy.run_module("accelerate.commands.accelerate_cli", run_name="__main__")
    else:
        from trainer.commands.__main__ import main as monodepth

        sys.argv = ["monodepth", *shrunk(words)]
        sys.exit(monodepth())


if __name__ == "__main__":
    main()
