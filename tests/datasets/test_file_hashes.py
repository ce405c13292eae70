"""Hashes of files are remembered while the files stay as they are, and no longer."""

import hashlib
import os
import time

import pytest

from robustbench_dyn.datasets import file_hashes
from robustbench_dyn.datasets.file_hashes import hash_file, hash_files
from robustbench_dyn.errors import IntegrityError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch):
    """Return the names of the files that are read."""
    names, hashed = [], file_hashes._hash
    monkeypatch.setattr(
        file_hashes, "_hash", lambda path: (names.append(path.name), hashed(path))[1]
    )
    return names


@pytest.fixture
def later(monkeypatch):
    """Let the files have been written an hour ago."""
    now = time.time_ns
    monkeypatch.setattr(file_hashes.time, "time_ns", lambda: now() + 3600 * 10**9)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_that_stays_is_read_once(tmp_path, read, later):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    for _ in range(3):
        assert hash_files(tmp_path, ["a", "b"]) == [sha256(b"a"), sha256(b"b")]
    assert hash_file(tmp_path / "b") == sha256(b"b")
    assert read == ["a", "b"]


def test_a_changed_file_is_read_again_though_its_size_and_time_stay(tmp_path, read, later):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    assert hash_file(path) == sha256(b"old")
    before = path.stat()
    path.write_bytes(b"new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert hash_file(path) == sha256(b"new")
    (tmp_path / "other").write_bytes(b"cp!")
    os.utime(tmp_path / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "other").replace(path)
    assert hash_file(path) == sha256(b"cp!")
    assert len(read) == 3


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, read):
    (tmp_path / "a").write_bytes(b"a")
    hash_file(tmp_path / "a")
    hash_file(tmp_path / "a")
    assert read == ["a", "a"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a": 3}', b'{"a": [1, 2]}'])
def test_a_damaged_memory_is_no_memory(tmp_path, later, content):
    (tmp_path / "a").write_bytes(b"a")
    hash_file(tmp_path / "a")
    (memory,) = (tmp_path / "cache").rglob("*.json")
    memory.write_bytes(content)
    assert hash_file(tmp_path / "a") == sha256(b"a")


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path, later):
    (tmp_path / "cache").write_text("a file in the place of the folder")
    (tmp_path / "a").write_bytes(b"a")
    assert hash_file(tmp_path / "a") == sha256(b"a")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(IntegrityError, match=r"gone cannot be read"):
        hash_file(tmp_path / "gone")
