"""Print the path of a launch file of Accelerate that comes with the trainer.

accelerate launch --config_file $(monodepth launch-file multi_gpu) -m trainer.commands.train ...
"""

from __future__ import annotations

from collections.abc import Sequence

from models_zoo.registry import did_you_mean
from trainer.commands.cli import Parser, guarded
from trainer.runtime.errors import UserError


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Print the path, or all names; return the exit code."""
    parser = Parser(
        prog="monodepth launch-file",
        description="Print the path of a launch file for `accelerate launch --config_file`; without NAME, list them.",
        epilog="Example: monodepth launch-file multi_gpu",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="multi_gpu, cpu_x2, ...")
    name = parser.parse_args(argv).name

    from trainer.config.pages import headline, shipped

    known = {path.stem: path for path in sorted(shipped("launch/accelerate").glob("*.yaml"))}
    if name is None:
        width = max(map(len, known))
        print("\n".join(f"{stem:<{width}}  {headline(path)}" for stem, path in known.items()))
    elif (stem := name.removesuffix(".yaml")) in known:
        print(known[stem])
    else:
        raise UserError(f"{name!r} is not a launch file. {did_you_mean(stem, known)}")
    return 0
