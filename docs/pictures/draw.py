"""Draw the pictures of docs/concepts from the code: python docs/pictures/draw.py [NAME ...] [--run RUN]

What a picture says is looked up in the code when it is drawn; a part that has no description yet is an error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import flow
import records
from svg import Drawing

from trainer.runtime.errors import UserError

HERE = Path(__file__).resolve().parent
DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "step": flow.step,
    "scene": flow.scene,
    "views": flow.views,
    "order": records.order,
    "draws": records.draws,
    "protocol": lambda: records.protocol(HERE / "vary.yaml"),
}


def main() -> None:
    """Write the pictures, or those that are named."""
    parser = argparse.ArgumentParser(prog="draw.py", description="Draw the pictures of docs/concepts from the code.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"only these of {', '.join([*DRAWINGS, 'checkpoint'])}"
    )
    parser.add_argument("--page", default=flow.PAGE, help=f"whose step is drawn (default {flow.PAGE})")
    parser.add_argument("--run", type=Path, help="a finished run, whose checkpoints are drawn; else the picture stays")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures")
    args = parser.parse_args()
    drawings = {**DRAWINGS, "step": lambda: flow.step(args.page)}
    if args.run:
        drawings["checkpoint"] = lambda: records.checkpoint(args.run)
    if unknown := {*args.names} - {*drawings}:
        parser.error(f"cannot draw {', '.join(sorted(unknown))} (checkpoint needs --run); known: {', '.join(drawings)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or drawings:
        path = args.out / f"{name}.svg"
        try:
            drawn = drawings[name]()
        except (UserError, FileNotFoundError) as error:
            parser.error(f"{name}: {error}")
        path.write_text(str(drawn), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
