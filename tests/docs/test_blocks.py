"""Every code block of the documentation is what it claims: commands parse, pages exist, keys resolve, Python compiles.

Those marked `<!-- run -->` are executed here, all others by `make test-docs` (test_pages.py).
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.docs.blocks import COMMENT, ROOT, Block, all_blocks, blocks_of, commands_in, shell_lines
from tests.docs.standins import run_page, write_files
from trainer.commands.__main__ import ALIASES, COMMANDS
from trainer.commands.jobs.list_commands import module_of, parser_of
from trainer.config import ConfigError, load_config, merge_settings
from trainer.config.pages import default_beside, find_page
from trainer.config.sections import SECTIONS
from trainer.evaluation.changes import Changes
from trainer.evaluation.subject import NO_RUN

BLOCKS = all_blocks()
LANGUAGES = ("", "sh", "python", "yaml", "text", "json", "toml", "latex")
BASES = ("synthetic/monodepth2_MS", "kitti/monodepth2_MS", "modern/own_video", "real/folder", "benchmark/hrdepth_MS")


def pages_with(language: str) -> list[Path]:
    return sorted({block.page for block in BLOCKS if block.language == language})


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def make_files(page: Path, folder: Path) -> None:
    """Make the files that a page writes before it names them: blocks that are files, `echo ... > file`, `cfg copy`."""
    blocks = blocks_of(page)
    write_files(blocks, folder)
    for line in (line for block in blocks if block.language == "sh" for line in shell_lines(block.text)):
        if re.match(r"echo .* >>? \S+( *#.*)?$", line):
            subprocess.run(["bash", "-c", line], check=True, cwd=folder)
        elif line.startswith("monodepth cfg copy "):
            with contextlib.redirect_stdout(io.StringIO()):
                import_module("trainer.commands.cfg").main(next(commands_in(line))[1:])


def test_comments_above_blocks_are_spelt_as_known() -> None:
    pages = {block.page for block in BLOCKS}
    for page in pages:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            if re.match(r" *<!-- *(no-)?run", line):
                found = COMMENT.match(line)
                assert found, f"{name_of(page)}:{number}: {line}"
                needs_reason = found["verb"] == "no-run"
                assert (found["why"] is not None) == needs_reason or found["why"] == "long", f"{page}:{number}"
                assert any(b.page == page and b.line == number + 2 for b in BLOCKS), f"{page}:{number}: no block below"


def test_languages_are_known() -> None:
    assert [b.place for b in BLOCKS if b.language not in LANGUAGES] == []


def problem_with(words: list[str]) -> str:
    """Parse a command, load the pages and settings it names; return what is wrong, or nothing."""
    name = words[0]
    if name in ("--completion", "--version", "--help"):
        return ""
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        return f"{words[0]} is no command"
    module = import_module(module_of(name))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parse = getattr(module, "parse", None) or parser_of(module.main).parse_args
            args = parse(words[1:])
    except SystemExit as stop:
        return said.getvalue() if stop.code else ""
    return problem_with_settings(name, args) if not getattr(args, "plugins", None) else ""


def problem_with_settings(name: str, args: SimpleNamespace) -> str:
    files, texts = getattr(args, "cfg_file", None) or [], getattr(args, "set", [])
    try:
        if name == "sweep":
            for page in args.cfg_file:
                load_config(page, args.cfg_default or default_beside([page]), args.set)
            for page in args.evaluate:
                Changes([page]).apply({**NO_RUN, "dataset": {"type": "synthetic"}}, "page")
        elif files and hasattr(args, "cfg_default"):
            files = [find_page(page) for page in files]
            load_config(files, args.cfg_default or default_beside(files), texts)
        elif files or texts:
            changes = Changes(files, texts)
            changes.apply(load_config("synthetic/monodepth2_MS", "synthetic/default").to_dict(), "the checkpoint")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", pages_with("sh"), ids=name_of)
def test_every_command_parses(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = []
    monkeypatch.chdir(tmp_path)
    make_files(page, tmp_path)
    for block in (block for block in blocks_of(page) if block.language == "sh"):
        for line in shell_lines(block.text):
            wrong += [f"{block.place}: {line}\n  {p}" for w in commands_in(line) if w and (p := problem_with(w))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.place)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec")


@pytest.mark.parametrize("page", pages_with("yaml"), ids=name_of)
def test_yaml_loads(page: Path, tmp_path: Path) -> None:
    """A page, or a part of one, on any of the pages that one starts from. With plugins it is parsed alone."""
    blocks = blocks_of(page)
    has_plugins = any(block.language == "sh" and "--plugins" in block.text for block in blocks)
    for block in (block for block in blocks if block.language == "yaml"):
        data = yaml.safe_load(block.text)
        if has_plugins or not isinstance(data, dict) or not data.keys() <= {*SECTIONS, "net", "loss", "dataset"}:
            continue
        part = tmp_path / f"line_{block.line}.yaml"
        part.write_text(block.text)
        problems = [problem_on(base, data, part) for base in BASES] + [problem_in_evaluation(part)]
        assert "" in problems, f"{block.place}: on {BASES[0]}:\n{problems[0]}"


def problem_in_evaluation(part: Path) -> str:
    """Say what is wrong with a part of a page as `evaluate -c` reads it, on a demo run."""
    try:
        Changes([part]).apply(load_config("synthetic/monodepth2_MS", "synthetic/default").to_dict(), "the checkpoint")
    except ConfigError as error:
        return str(error)
    return ""


def problem_on(base: str, data: dict, part: Path) -> str:
    """Say what is wrong with a part of a page on top of another one, whose data set goes where it names one itself."""
    settings = merge_settings([f"{base.partition('/')[0]}/default", base])
    if "type" in (data.get("dataset") or {}):
        settings["dataset"] = {"size": settings["dataset"].get("size", [192, 64])}
    try:
        load_config(part, base=settings)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if b.is_executed and b.is_quick}), ids=name_of)
def test_quick_blocks_run(page: Path, work: Path, standins: Path) -> None:
    run_page(page, work, standins, only_quick=True)


BARE = re.compile(
    r"(?<![\w$/.-])(?<!monodepth )(?<!--mode )"
    r"(?:train|train_dev|evaluate|sweep|prepare|convert|replay|export_depth|generate_tables)"
    r" (?=--?[a-z]+ |[<\w/.+-]+\.(?:npz|yaml|safetensors|ckpt|mp4)|(?:targets|hints|lmdb|jpeg|kitti|video|synthetic) )"
)


@pytest.mark.parametrize("folder", ["README.md", "docs", "cfg", "launch", "trainer", "models_zoo", "Makefile"])
def test_commands_are_written_as_one_types_them(folder: str) -> None:
    """`monodepth train ...`: no other name is installed. Here also in sentences and comments, which are not parsed."""
    place = ROOT / folder
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.suffix in {".md", ".yaml", ".py", ".in"}]
    assert files
    bare = [f"{p.relative_to(ROOT)}: {m[0]}" for p in files for m in BARE.finditer(p.read_text())]
    assert not bare
