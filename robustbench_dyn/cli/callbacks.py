"""Callbacks of options: they check a value, or heed it, while the command line is read."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.isolation.limits import Limits

# Generators of random numbers take 64 bits.
LOWEST_SEED, HIGHEST_SEED = -(2**63), 2**63 - 1
# Where torch can compute; it has more names, for which it takes no tensors or a plugin.
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla")
_DEVICE = re.compile(rf"({'|'.join(DEVICES)})(:[0-9]{{1,3}})?")


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


def check_seed(seed: int | None) -> int | None:
    """Return the seed; raises InputError where it has more than 64 bits."""
    if seed is not None and not LOWEST_SEED <= seed <= HIGHEST_SEED:
        raise InputError(f"seed={shown(seed)} must be a whole number of at most 64 bits")
    return seed


def check_data_dir(folder: Path | None) -> Path | None:
    """Return the folder; raises InputError where it is a file."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(
            f"data_dir={shown(str(folder))} is a file; give the folder that holds the data"
        )
    return folder


def parse_device(name: str) -> str:
    """Return the name of a device; raises InputError where it has not the form of one."""
    if not _DEVICE.fullmatch(name):
        raise InputError(
            f"device={shown(name)} is no device; give {', '.join(DEVICES[:-1])} or {DEVICES[-1]}, "
            "or one of several, as cuda:1"
        )
    return name
