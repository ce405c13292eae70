"""The folders in which data sets that do not ship are searched, and to which they download."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

from robustbench_dyn.settings import APPLICATION, DATA_VARIABLE

__all__ = ["DATA_VARIABLE", "cache_folder", "download_root", "search_roots"]


def search_roots(data_dir: Path | None) -> tuple[Path, ...]:
    """List the folders to look in: data_dir, the one in DYNBENCH_DATA, the user's cache, last."""
    roots = [data_dir, _named_folder(), _old_cache(), cache_folder()]
    return tuple(dict.fromkeys(root for root in roots if root is not None))


def download_root(data_dir: Path | None) -> Path:
    """Choose the folder to download into: data_dir, the one in DYNBENCH_DATA, or the cache."""
    return data_dir or _named_folder() or cache_folder()


def cache_folder() -> Path:
    """Return the user's cache folder: of the system, or in XDG_CACHE_HOME where that is set."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        # The XDG specification has a relative path ignored.
        return Path(given) / APPLICATION if Path(given).is_absolute() else _unix_cache()
    return Path(user_cache_dir(APPLICATION, appauthor=False))


def _named_folder() -> Path | None:
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser() if named else None


def _old_cache() -> Path | None:
    """Return where data lie that an earlier version downloaded on macOS or Windows."""
    folder = _unix_cache()
    return folder if folder != cache_folder() and folder.is_dir() else None


def _unix_cache() -> Path:
    return Path("~/.cache").expanduser() / APPLICATION
