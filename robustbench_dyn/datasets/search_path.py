"""The folders in which data sets that do not ship are searched, and to which they download."""

from __future__ import annotations

import os
from pathlib import Path

DATA_VARIABLE = "DYNBENCH_DATA"


def search_roots(data_dir: Path | None) -> tuple[Path, ...]:
    """List the folders to look in: data_dir, the folder in DYNBENCH_DATA, the user's cache."""
    named = os.environ.get(DATA_VARIABLE)
    roots = [data_dir, Path(named).expanduser() if named else None, cache_folder()]
    return tuple(root for root in roots if root is not None)


def download_root(data_dir: Path | None) -> Path:
    """Choose the folder to download into: the first of search_roots."""
    return search_roots(data_dir)[0]


def cache_folder() -> Path:
    """Name the user's cache folder, ~/.cache/robustbench_dyn unless XDG_CACHE_HOME is set."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has a relative path ignored.
    if not base.is_absolute():
        base = Path("~/.cache").expanduser()
    return base / "robustbench_dyn"
