"""One sharing from parsed arguments to the written folder or the repository on the Hub."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path

from trainer.checkpoint.hub import HubName, as_hub_name, explained
from trainer.config.plugins import load_plugins, with_plugins
from trainer.predict.card import RESTRICTED, Card
from trainer.predict.sharing import Model, pictures_of
from trainer.runtime.errors import UserError
from trainer.runtime.files import make_folder, replacing_folder, require_space
from trainer.runtime.optional import require

SPARE = 20_000_000  # bytes for everything beside the weights


def run(args: argparse.Namespace) -> int:
    """Check the target, read and verify the model, write or push it. Raises UserError for the mistakes of a user."""
    name = as_hub_name(args.target)
    _check(args, name)
    if name is not None:
        print(f"{name}: a {'private' if args.private else 'public'} repository on the Hub (./{name} is a folder)")
    load_plugins(args.plugins)
    model = Model.open(args.model)
    size = os.path.getsize(model.saved.path) + SPARE
    if name is None:
        folder = Path(os.path.expanduser(args.target)).absolute()
        make_folder(folder.parent)
        require_space(folder.parent, size, "the files of the model")
        with replacing_folder(folder) as staged:
            given = {"name": folder.name, "place": f"./{folder.name}"}
            card, notes = model.write(staged, **given, licence=args.license, pictures=args.pictures)
        _report(card, notes)
        following = with_plugins(f"monodepth predict {args.target} PICTURE", args.plugins)
        print(f"wrote {args.target}\nnext: {following}")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        require_space(Path(temporary), size, "the files of the model")
        given = {"name": name.repo.partition("/")[2], "place": name.repo}
        card, notes = model.write(Path(temporary), **given, licence=args.license, pictures=args.pictures)
        _report(card, notes)
        print(f"pushed {_push(Path(temporary), name, args.private, args.force)}")
    return 0


def _check(args: argparse.Namespace, name: HubName | None) -> None:
    """Raise UserError for options that do not go together, and a target that is there or cannot be."""
    if args.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.license):
        raise UserError(
            f"--license {args.license!r}: expected an identifier of the Hub in small letters, such as mit, apache-2.0,"
            " cc-by-nc-4.0 or other (https://huggingface.co/docs/hub/repositories-licenses)"
        )
    if args.pictures is not None:
        pictures_of(args.pictures)
    if name is None:
        folder = Path(os.path.expanduser(args.target))
        if args.private:
            raise UserError(f"--private: {args.target} is a folder. It is for a repository on the Hub, user/name")
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise UserError(f"{folder}: is a file. Name a folder")
        if os.path.isdir(folder) and os.listdir(folder) and not args.force:
            raise UserError(f"{folder}: exists. Use --force to replace the files of a model in it, or another name")
        return
    if name.revision:
        raise UserError(f"{name}: a push makes a new version of the main branch. Leave out @{name.revision}")
    hub = require("huggingface_hub", "hub", f"{name}: a push to the Hub")
    try:
        hub.utils.validate_repo_id(name.repo)
    except ValueError as error:
        raise UserError(f"{name}: is no name of a repository on the Hub: {error} ./{name} is a folder") from error


def _push(folder: Path, name: HubName, private: bool, force: bool) -> str:
    """Make the repository if it is new, and upload the files as one version. Returns its address."""
    hub = require("huggingface_hub", "hub", f"{name}: a push to the Hub")
    api = hub.HfApi()
    with explained(hub, name):
        address = api.create_repo(name.repo, private=private or None, exist_ok=force)
        if private and force and not api.model_info(name.repo).private:
            raise UserError(f"{name}: exists and is public; --private is for new ones. Nothing was pushed")
        api.upload_folder(folder_path=str(folder), repo_id=name.repo, commit_message="Share a model")
    return str(address)


def _report(card: Card, notes: list[str]) -> None:
    for row in card.restrictions if card.licence and not RESTRICTED.search(card.licence) else ():
        notes = [*notes, f"--license {card.licence} allows more than the licence of {row.what}: {row.text}"]
    if card.licence is None:
        notes = [*notes, "no licence is stated, so nobody may use the weights. --license states one"]
    if card.sheet is None:
        notes = [*notes, "the card has no pictures. --pictures FOLDER draws some"]
    for note in notes:
        print(f"note: {note}")
