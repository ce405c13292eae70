"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import Norm, check_norm


def use_plugins(folders: list[Path] | None) -> list[Path] | None:
    """Load the plugins in folders, so that each command finds what they bring by name."""
    if folders:
        from robustbench_dyn.plugins import load_plugins

        load_plugins(*folders)
    return folders


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugins",
        help="A folder of plugins, or of one plugin; may be repeated.",
        callback=use_plugins,
    ),
]
Model = Annotated[str, typer.Option(help="NAME or NAME/VARIANT; see dynbench list models.")]
TestSplit = Annotated[str, typer.Option(help="Data set; its test split is evaluated.")]
NormName = Annotated[str, typer.Option("--norm", help="Norm of the threat model: L2, Linf or L1.")]
NExamples = Annotated[int, typer.Option(help="Evaluate the first N test examples.")]
Attacks = Annotated[
    str,
    typer.Option(
        help="A suite (standard, autoattack, plus, rand or none), or attacks with commas, each "
        "with settings: pgd:n_steps=100,square."
    ),
]
Certifiers = Annotated[
    str,
    typer.Option(
        help="auto, none, or certifiers with commas, each with settings: "
        "interval,complete:seconds_per_example=5."
    ),
]
Device = Annotated[str, typer.Option(help="Device of torch: cpu, cuda, cuda:1, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
StoreFile = Annotated[Path, typer.Option("--store", help="SQLite file that holds the verdicts.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data sets that do not ship.")
]


def parse_norm(text: str) -> Norm:
    """Return the norm of this name; raises InputError for any other name."""
    check_norm(text)
    return cast(Norm, text)


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """Parse a number or "auto"; raises InputError for anything else."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise InputError(f"batch_size={text!r} is neither 'auto' nor a whole number") from None


def check_device(name: str) -> Any:
    """Return the torch.device of this name; raises InputError if it cannot be used."""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name!r} cannot be used: {reason}; try --device cpu") from None
    return device


def check_export(path: Path | None) -> None:
    """Raise InputError, before anything is computed, where no table can be written to path."""
    from robustbench_dyn.reporting.export import check_export_path

    if path is not None:
        check_export_path(path)


def require_store(store: Path) -> Path:
    """Return the path of the store; raises InputError if the file does not exist."""
    try:
        exists = store.is_file()
    except OSError as error:
        raise InputError(f"no store can be called {store}: {error.strerror}") from error
    if not exists:
        raise InputError(f"there is no store {store}; make one with: dynbench run --model NAME")
    return store


def print_error(message: str) -> None:
    """Print one line to stderr."""
    typer.echo(f"dynbench: {' '.join(message.split())}", err=True)
