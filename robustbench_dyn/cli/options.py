"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from robustbench_dyn.errors import InputError, one_line, shown
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.threat_models import Norm, check_norm

# Generators of random numbers take 64 bits.
LOWEST_SEED, HIGHEST_SEED = -(2**63), 2**63 - 1


def use_plugins(folders: list[Path] | None) -> list[Path] | None:
    """Load the plugins in folders, so that each command finds what they bring by name."""
    if folders:
        from robustbench_dyn.plugins import load_plugins

        load_plugins(*folders)
    return folders


def use_trust(trust: bool) -> bool:
    """Let the code of plugins run inside this process, where the user says so."""
    if trust:
        from robustbench_dyn.plugins import trust_plugins

        trust_plugins()
    return trust


def use_limits(text: str) -> str:
    """Limit the processes of plugins by NAME=NUMBER with commas; raises InputError otherwise."""
    if not text:
        return text
    from robustbench_dyn.plugins import limit_plugins, parse_names, unknown

    (_, given), *more = parse_names(f"limits:{text}")
    known = [part.name for part in fields(Limits)]
    for name in [*given, *(name for name, _ in more)]:
        if name not in known:
            raise InputError(unknown("limit", name, known))
    limit_plugins(Limits(**given))
    return text


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugins",
        help="A folder of plugins, or of one plugin; may be repeated.",
        callback=use_plugins,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code of plugins inside this process, where it can do all that you can.",
        callback=use_trust,
    ),
]
Limited = Annotated[
    str,
    typer.Option(
        "--limits",
        help="Of a plugin's process: memory_gib=8,seconds_per_call=60,open_files=256.",
        callback=use_limits,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="NAME or NAME/VARIANT, see dynbench list models; or SOURCE:NAME, as timm:resnet18, "
        "see dynbench list sources."
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Weights for a model of module:, timm: or torchvision: (.safetensors, .pt, .pth).",
    ),
]
TestSplit = Annotated[str, typer.Option(help="Data set; its test split is evaluated.")]
NormName = Annotated[str, typer.Option("--norm", help="Norm of the threat model: L2, Linf or L1.")]
First = Annotated[
    int, typer.Option(help="Id of the first test example to evaluate; the test split begins at 0.")
]
NExamples = Annotated[
    int, typer.Option(help="Evaluate N test examples, the first ones or those from --first on.")
]
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


def seed_option(of: str) -> Any:
    """Return the option of a seed."""
    return typer.Option(help=f"Seed of {of}.", min=LOWEST_SEED, max=HIGHEST_SEED, metavar="INTEGER")


def parse_norm(text: str) -> Norm:
    """Return the norm of this name; raises InputError for any other name."""
    check_norm(text)
    return cast(Norm, text)


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """Parse a number or "auto"; raises InputError for anything else."""
    if text == "auto":
        return "auto"
    # int() takes 1_000 and the digits of all scripts.
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", text):
        raise InputError(f"batch_size={shown(text)} is neither 'auto' nor a whole number")
    return int(text)


def check_device(name: str) -> Any:
    """Return the torch.device of this name; raises InputError if it cannot be used."""
    import torch

    try:
        device = torch.device(name)
        # A meta tensor can be made, and holds no number.
        float(torch.zeros(1, device=device) + 1)
    except (RuntimeError, AssertionError, ValueError, OverflowError, UnicodeError) as error:
        reason = one_line(str(error).partition("\n")[0])
        raise InputError(
            f"device={shown(name)} cannot be used: {reason}; try --device cpu"
        ) from None
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


def require_stores(paths: Iterable[Path], *, but: Path | None = None) -> list[Path]:
    """Return the stores that paths stand for: files, and in place of a folder its *.sqlite.

    but: a store that a folder may hold, and that is not meant. Raises InputError for a file that
    does not exist, and for a folder without a store.
    """
    stores = dict[Path, None]()
    for path in paths:
        if not _is_folder(path):
            stores[require_store(path)] = None
            continue
        held = [one for one in sorted(path.glob("*.sqlite")) if one.is_file() and one != but]
        if not held:
            raise InputError(f"the folder {path} holds no store, no file called *.sqlite")
        stores |= dict.fromkeys(held)
    return list(stores)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def require_tables(folder: Path) -> Path:
    """Return the path of a folder of tables; raises InputError if there is no such folder."""
    try:
        exists = folder.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"no folder can be called {shown(str(folder))}: {error}") from error
    if not exists:
        raise InputError(f"there is no folder {folder}; write one with: dynbench leaderboard")
    return folder
