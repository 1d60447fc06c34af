"""Write the JSON schema that editors use to complete and check the files of cfg/.

monodepth schema            writes cfg/schema.json of this checkout
monodepth schema --check    fails when that file is out of step with the code
monodepth schema --plugins my_module --out cfg/schema.json     with the keys of your own modules
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trainer.commands.cli import Parser, add_shared, guarded, write_or_check
from trainer.runtime.streams import doing

COMMITTED = Path(__file__).resolve().parents[2] / "cfg" / "schema.json"  # of a checkout


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the schema; return the exit code: 1 when `--check` finds a difference."""
    parser = Parser(prog="monodepth schema", description="Write the JSON schema of the configuration.")
    add = parser.add_argument
    add("--out", type=Path, metavar="JSON", help="file to write (default cfg/schema.json of a checkout)")
    add("--check", action="store_true", help="write nothing; fail when the file differs from the code")
    add_shared(parser, "--plugins")
    args = parser.parse_args(argv)
    if args.plugins and args.out is None:
        parser.error("--plugins needs --out: cfg/schema.json describes the project without your modules")
    if args.out is None and not COMMITTED.is_file():
        parser.error("name a file with --out: this is an installation, not a checkout with cfg/schema.json")
    out: Path = args.out or COMMITTED

    from trainer.config.json_schema import json_schema
    from trainer.config.plugins import load_plugins

    load_plugins(args.plugins)
    doing("loading the networks")
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    return write_or_check(text, out, args.check, "monodepth schema")
