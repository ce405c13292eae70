"""The folders of data sets: the named ones first, then the caches of this and earlier versions."""

from pathlib import Path

import pytest

from robustbench_dyn.datasets import search_path
from robustbench_dyn.datasets.search_path import cache_folder, download_root, search_roots


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without data, on a system whose cache is not ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DYNBENCH_DATA", raising=False)
    library = tmp_path / "Library" / "Caches"
    monkeypatch.setattr(search_path, "user_cache_dir", lambda name, appauthor: str(library / name))
    return tmp_path


def test_the_cache_is_that_of_the_system(home):
    assert cache_folder() == home / "Library" / "Caches" / "robustbench_dyn"
    assert search_roots(None) == (cache_folder(),)


def test_data_of_an_earlier_version_are_still_found(home):
    old = home / ".cache" / "robustbench_dyn"
    old.mkdir(parents=True)
    assert search_roots(None) == (old, cache_folder())
    assert download_root(None) == cache_folder()
    assert download_root(old) == old


def test_named_folders_come_first(home, monkeypatch):
    monkeypatch.setenv("DYNBENCH_DATA", "~/data")
    assert search_roots(Path("x")) == (Path("x"), home / "data", cache_folder())
    assert download_root(None) == home / "data"
    assert download_root(Path("x")) == Path("x")


@pytest.mark.parametrize(
    ("given", "expected"), [("/var/x", "/var/x/robustbench_dyn"), ("x", "~/.cache/robustbench_dyn")]
)
def test_an_xdg_folder_counts_where_it_is_absolute(given, expected, home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache_folder() == Path(expected).expanduser()
