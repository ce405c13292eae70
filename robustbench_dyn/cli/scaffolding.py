"""The command new: a plugin that works, to be changed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from robustbench_dyn.cli.output import print_result
from robustbench_dyn.errors import InputError
from robustbench_dyn.files import explained, write_text

TEMPLATES = Path(__file__).parent / "templates"

NewKind = Literal["architecture", "attack", "certifier", "dataset", "operation"]


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the plugin, and of what it brings.")
    ],
    kind: Annotated[NewKind, typer.Option(help="What the plugin brings.")] = "architecture",
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder in which the plugin's folder is made.")
    ] = Path(),
) -> None:
    """Write a small plugin that passes `dynbench check`, to be changed."""
    folder = write_plugin(to / name, kind)
    print_result(
        f"written: {folder}/card.yaml and {folder}/__init__.py; next: dynbench check {folder}"
    )


def write_plugin(folder: Path, kind: NewKind) -> Path:
    """Write a plugin of a kind, called as its folder; returns the folder.

    Raises InputError where the folder exists or its name cannot be a plugin's, OutputError where it
    cannot be written; nothing of it is left then.
    """
    name = folder.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"name={name!r} must be lower case letters, digits and underscores, a letter first"
        )
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another name, or another folder by --to")
    provides = kind if kind == "architecture" else f"{kind}s"
    lines = [f"name: {name}", "summary: What it is, in one sentence.", 'version: "1"']
    lines += [f"provides: [{provides}]"]
    lines += ["family: What kind of network it is."] if kind == "architecture" else []
    with explained(folder):
        folder.mkdir(parents=True)
    try:
        write_text(folder / "__init__.py", render(name, kind))
        # Last, for a folder without a card is no plugin.
        write_text(folder / "card.yaml", "\n".join(lines) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def render(name: str, kind: NewKind) -> str:
    """Return the template of a kind, with a name in place of its own."""
    text = (TEMPLATES / f"{kind}.py").read_text(encoding="utf-8")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return text.replace("Example", class_name).replace("example", name)
