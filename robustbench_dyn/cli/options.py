"""What the commands share: their options, and how they read and refuse them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustbench_dyn.errors import InputError


def use_plugins(folders: list[Path] | None) -> list[Path] | None:
    """Load the plugins in folders, so that each command finds what they bring by name."""
    if folders:
        from robustbench_dyn.plugins import load_plugins  # noqa: PLC0415  (--help is light)

        load_plugins(*folders)
    return folders


Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugins", help="A folder of plugins, or of one plugin.", callback=use_plugins),
]
Model = Annotated[str, typer.Option(help="NAME or NAME/VARIANT, see: dynbench list models.")]
TestSplit = Annotated[str, typer.Option(help="The data set's test split.")]
NormName = Annotated[str, typer.Option(help="L2, Linf or L1.")]
NExamples = Annotated[int, typer.Option(help="The first N test examples.")]
Certifiers = Annotated[str, typer.Option(help="auto, none, or names with commas.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
StoreFile = Annotated[Path, typer.Option("--store", help="The SQLite file that keeps verdicts.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where data sets that do not ship lie.")
]


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """Read a number or "auto"; raises InputError where it is neither."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise InputError(f"batch_size={text!r} is neither 'auto' nor a whole number") from None


def check_device(name: str) -> Any:
    """Return the torch.device of that name; raises InputError where it cannot be used."""
    import torch  # noqa: PLC0415

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name!r} cannot be used: {reason}; try --device cpu") from None
    return device


def check_export(path: Path | None) -> None:
    """Raise InputError, before anything is computed, for a table that could not be written."""
    from robustbench_dyn.reporting.export import check_export_path  # noqa: PLC0415

    if path is not None:
        check_export_path(path)


def existing(store: Path) -> Path:
    """Return the store; raises InputError where there is none."""
    if not store.is_file():
        raise InputError(f"there is no store {store}; first: dynbench run --model NAME")
    return store


def complain(message: str) -> None:
    """Print one line to stderr."""
    typer.echo(f"dynbench: {' '.join(message.split())}", err=True)
