"""The command new: a plugin that works, to be changed; a folder, or a package around one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from robustbench_dyn.cli.output import print_result
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.files import explained, write_text

TEMPLATES = Path(__file__).parent / "templates"

NewKind = Literal["architecture", "attack", "certifier", "dataset", "operation"]

# The files of a package around the plugin, each with its template.
_PACKAGE = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    ".github/workflows/checks.yml": "ci.yml",
    "tests/test_example.py": "tests.txt",
}
# What to do with a plugin that is checked.
_NEXT: dict[NewKind, tuple[str, ...]] = {
    "architecture": (
        "train --model {name} --dataset moons --plugins {folder} --install",
        "run --model {name} --dataset moons --plugins {folder} --eps 0.1",
    ),
    "attack": ("run --model lipflow --plugins {folder} --attacks {name}",),
    "certifier": ("run --model lipflow --plugins {folder} --certifiers {name}",),
    "dataset": ("list datasets --plugins {folder}",),
    "operation": ("list operations --plugins {folder}",),
}


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the plugin, and of what it brings.")
    ],
    kind: Annotated[NewKind, typer.Option(help="What the plugin brings.")] = "architecture",
    package: Annotated[
        bool, typer.Option("--package", help="Write a pip package: entry point, tests, CI.")
    ] = False,
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder in which the plugin's folder is made.")
    ] = Path(),
) -> None:
    """Write a small plugin that passes `dynbench check`, to be changed."""
    folder = write_package(to / name, kind) if package else write_plugin(to / name, kind)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print_result(f"written: {path}")
    if package:
        print_result(f"next: pip install -e {folder}")
    else:
        print_result(f"next: dynbench check {folder}")
    after = [f"check {folder}"] if package else []
    for command in (*after, *_NEXT[kind]):
        print_result(f"      dynbench {command.format(name=name, folder=folder)}")


def write_plugin(folder: Path, kind: NewKind) -> Path:
    """Write a plugin of a kind, called as its folder; returns the folder.

    Raises InputError where the folder exists or its name cannot be a plugin's, OutputError where it
    cannot be written; nothing of it is left then.
    """
    _check(folder)
    return _write(folder, plugin_files(folder.name, kind))


def write_package(folder: Path, kind: NewKind) -> Path:
    """Write a pip package, called as its folder, around a plugin; see write_plugin."""
    name = folder.name
    _check(folder)
    files = {
        path.replace("example", name): _fill(TEMPLATES / "package" / template, name)
        for path, template in _PACKAGE.items()
    }
    plugin = plugin_files(name, kind)
    return _write(folder, files | {f"src/dynbench_{name}/{path}": plugin[path] for path in plugin})


def render(name: str, kind: NewKind) -> str:
    """Return the code of a kind's template, with a name in place of its own."""
    return _fill(TEMPLATES / f"{kind}.py", name)


def plugin_files(name: str, kind: NewKind) -> dict[str, str]:
    """Return the files of a plugin; the card comes last, for a folder without it is no plugin."""
    files = {"__init__.py": render(name, kind)}
    if kind == "architecture":
        files["recipes/moons.yaml"] = _fill(TEMPLATES / "recipe.yaml", name)
    return files | {"card.yaml": _fill(TEMPLATES / f"{kind}.yaml", name)}


def _fill(template: Path, name: str) -> str:
    text = template.read_text(encoding="utf-8")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    # Packages have dashes in their names.
    text = text.replace("dynbench-example", f"dynbench-{name.replace('_', '-')}")
    return text.replace("Example", class_name).replace("example", name)


def _check(folder: Path) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", folder.name):
        raise InputError(
            f"name={shown(folder.name)} must be lower case letters, digits and underscores, a "
            "letter first"
        )
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another name, or another folder by --to")


def _write(folder: Path, files: dict[str, str]) -> Path:
    with explained(folder):
        folder.mkdir(parents=True)
    try:
        for path, content in files.items():
            with explained(folder / path):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / path, content)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
