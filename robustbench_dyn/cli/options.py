"""Options that several commands share, and the checks of their values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustbench_dyn.cli import completion
from robustbench_dyn.cli.callbacks import (
    check_data_dir,
    check_seed,
    parse_device,
    use_limits,
    use_plugins,
    use_trust,
)
from robustbench_dyn.cli.output import be_quiet
from robustbench_dyn.errors import InputError, one_line, shown
from robustbench_dyn.threat_models import (
    DEFAULT_EPS,
    format_eps,
)

# The panels of --help.
MODEL, THREAT, METHODS = "Model and data", "Threat model", "Attacks and certificates"
OUTPUT, PLUGINS, MACHINE = "Output", "Plugins", "Machine"

DEFAULT_DATASET, DEFAULT_NORM = "fashion_mnist", "L2"
_RADII = ", ".join(f"{format_eps(eps)} in {norm}" for norm, eps in DEFAULT_EPS.items())

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugins",
        metavar="DIR",
        help="A folder of plugins, or of one plugin; may be repeated. Also DYNBENCH_PLUGINS.",
        callback=use_plugins,
        rich_help_panel=PLUGINS,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code of plugins inside this process, where it can do all that you can.",
        callback=use_trust,
        rich_help_panel=PLUGINS,
    ),
]
Limited = Annotated[
    str,
    typer.Option(
        "--limits",
        metavar="LIMITS",
        help="Of a plugin's process: memory_gib=8,seconds_per_call=60,open_files=256.",
        callback=use_limits,
        rich_help_panel=PLUGINS,
    ),
]
_MODEL_HELP = (
    "NAME or NAME/VARIANT, see: dynbench list models; or SOURCE:NAME, as timm:resnet18, see: "
    "dynbench list sources."
)
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=_MODEL_HELP,
        rich_help_panel=MODEL,
        autocompletion=completion.models,
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="NAME",
        help=f"{_MODEL_HELP} May be repeated.",
        rich_help_panel=MODEL,
        autocompletion=completion.models,
    ),
]
TestSplit = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Data set; its test split is evaluated. See: dynbench list datasets.",
        show_default=DEFAULT_DATASET,
        rich_help_panel=MODEL,
        autocompletion=completion.datasets,
    ),
]
NormName = Annotated[
    str | None,
    typer.Option(
        "--norm",
        metavar="NORM",
        help="L2, Linf or L1.",
        show_default=DEFAULT_NORM,
        rich_help_panel=THREAT,
        autocompletion=completion.norms,
    ),
]
EpsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="EPS",
        help="A radius, as 0.5 or 8/255; may be repeated, or be followed by more.",
        show_default=f"{_RADII}, or what the data set has instead",
        rich_help_panel=THREAT,
    ),
]
MoreEps = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EPS",
        help="More radii, after those of --eps: --eps 0.25 0.5 1.",
        rich_help_panel=THREAT,
    ),
]
First = Annotated[
    int,
    typer.Option(
        metavar="K",
        help="Id of the first test example to evaluate; the test split begins at 0.",
        rich_help_panel=MODEL,
    ),
]
Attacks = Annotated[
    str,
    typer.Option(
        metavar="ATTACKS",
        help="A suite (standard, autoattack, plus, rand or none), or attacks with commas, each "
        "with settings: pgd:n_steps=100,square. See: dynbench list attacks.",
        rich_help_panel=METHODS,
        autocompletion=completion.attacks,
    ),
]
Certifiers = Annotated[
    str,
    typer.Option(
        metavar="CERTIFIERS",
        help="auto, none, or certifiers with commas, each with settings: "
        "interval,complete:seconds_per_example=5. See: dynbench list certifiers.",
        rich_help_panel=METHODS,
        autocompletion=completion.certifiers,
    ),
]
StrictRounding = Annotated[
    bool,
    typer.Option(
        "--strict-rounding/--no-strict-rounding",
        help="Subtract the worst-case rounding error of the network from its margins.",
        rich_help_panel=METHODS,
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Examples per batch (noisy copies, in smooth), or auto.",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="Device of torch: cpu, cuda, cuda:1, mps. Also DYNBENCH_DEVICE.",
        callback=parse_device,
        rich_help_panel=MACHINE,
        autocompletion=completion.devices,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document instead of text.", rich_help_panel=OUTPUT),
]
StoreFile = Annotated[
    Path,
    typer.Option(
        "--store",
        metavar="FILE",
        help="SQLite file that holds the verdicts. Also DYNBENCH_STORE.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print nothing but errors to stderr: no progress.",
        callback=be_quiet,
        rich_help_panel=OUTPUT,
    ),
]
CertifySeconds = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Let the certifiers give up after so many seconds at each eps, preparation included.",
        rich_help_panel=METHODS,
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Weights for a model of module:, timm: or torchvision: (.safetensors, .pt, .pth).",
        rich_help_panel=MODEL,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder of the data sets that do not ship. Also DYNBENCH_DATA.",
        callback=check_data_dir,
        rich_help_panel=MODEL,
    ),
]


def n_examples_option(default: str) -> Any:
    """Return the option of the number of examples; default: what --help says of it."""
    return typer.Option(
        metavar="N",
        help="Evaluate the first N test examples, or N from --first on.",
        show_default=f"{default}; all, where there are fewer",
        rich_help_panel=MODEL,
    )


def seed_option(of: str, *, default: str = "") -> Any:
    """Return the option of a seed; default: what --help says of it, where it is no number."""
    return typer.Option(
        metavar="N",
        help=f"Seed of {of}.",
        callback=check_seed,
        show_default=default or True,
        rich_help_panel=MACHINE,
    )


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


def check_export(path: Path | None, suffixes: tuple[str, ...] = (".csv", ".parquet")) -> None:
    """Raise InputError, before anything is computed, where no table can be written to path."""
    from robustbench_dyn.reporting.export import check_export_path

    if path is not None:
        check_export_path(path, suffixes)


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
