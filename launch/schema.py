"""Write the JSON schema that editors use to complete and check the files of cfg/.

python launch/schema.py            writes cfg/schema.json
python launch/schema.py --check    fails when that file is out of step with the code
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: make the project importable without installing it
    sys.path[0] = str(ROOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the schema; return the exit code: 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="schema", description="Write the JSON schema of the configuration.")
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=ROOT / "cfg" / "schema.json",
        help="file to write (default cfg/schema.json)",
    )
    add("--check", action="store_true", help="write nothing; fail when the file differs from the code")
    args = parser.parse_args(argv)

    from trainer._jsonschema import json_schema

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
    if not args.check:
        args.out.write_text(text, encoding="utf-8")
        print(f"wrote {args.out}")
        return 0
    if args.out.is_file() and args.out.read_text(encoding="utf-8") == text:
        return 0
    print(f"{args.out} is out of step with the code. Run: python launch/schema.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
