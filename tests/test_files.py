"""Files are written as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustbench_dyn import files
from robustbench_dyn.errors import OutputError


def test_a_file_is_replaced_and_has_the_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "table.csv"
    files.write_text(path, "old")
    files.write_text(path, "new")
    (tmp_path / "plain").write_text("")
    assert path.read_text(encoding="utf-8") == "new"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_an_error_in_the_body_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as partial:
        partial.write_text("half", encoding="utf-8")
        _ = 1 / 0
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_and_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    files.write_text(path, "old")
    with (
        pytest.raises(OutputError, match=r"table.csv cannot be written: No space left"),
        files.replacing(path),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"new")
    assert path.read_text(encoding="utf-8") == "old"


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_bytes(tmp_path / "file" / "table.csv", b"")


def test_content_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = list[str]()
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle: int) -> None:
        events.append("fsync")
        fsync(handle)

    def watched_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    files.write_bytes(tmp_path / "weights", b"content")
    assert events == ["fsync", "rename", "fsync"]
