"""Each command that writes a file says in one sentence that it cannot, and loses nothing."""

import csv
import os

import pandas as pd
import pytest
from matplotlib.figure import Figure
from oracles.command import dynbench_here, refused
from oracles.records import record

from robustbench_dyn.cli.scaffolding import write_plugin
from robustbench_dyn.drawing import figures
from robustbench_dyn.errors import OutputError
from robustbench_dyn.reporting import export
from robustbench_dyn.results.cells import from_csv_text, to_plot_text
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Status, Verdict
from robustbench_dyn.smoothing.stages import CertifiedExample

MODEL = ["--model", "lipflow"]
COMMANDS = {
    "run": (["run", *MODEL, "--export"], "t.csv"),
    "smooth": (["smooth", *MODEL, "--sigma", "0.25", "--export"], "t.tsv"),
    "curve": (["curve", *MODEL, "--export"], "t.parquet"),
    "export": (["export", "--store", "s.sqlite"], "t.csv"),
    "plot flow": (["plot", "flow", *MODEL, "--to"], "t.png"),
    "plot curves": (["plot", "curves", *MODEL, "--to"], "t.svg"),
    "plot radii": (["plot", "radii", *MODEL, "--to"], "t.pdf"),
    "plot examples": (["plot", "examples", *MODEL, "--to"], "t.png"),
    "plot leaderboard": (["plot", "leaderboard", "--to"], "t.png"),
    "train": (["train", *MODEL, "--out"], "t.safetensors"),
}


def verdicts(reason="survived"):
    store = Store()
    store.add_evaluation("a", record())
    common = {"label": 1, "prediction": -1, "eps": 0.5, "status": Status.ERROR}
    store.add_verdicts("a", [Verdict(example_id=i, reason=reason, **common) for i in range(3)])
    return store


def everything(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a store, where no command may come as far as a model or data."""
    Store(tmp_path / "s.sqlite").close()
    (tmp_path / "file").write_text("old")

    def never(*_, **__):
        raise AssertionError("it computed before it looked at the file")

    for name in (
        "datasets.load_dataset",
        "models.loading.load_model",
        "training.loop.load_dataset",
    ):
        monkeypatch.setattr(f"robustbench_dyn.{name}", never)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["file/{}", "taken/{}", "/proc/{}", "/proc/none/{}"])
def test_a_place_that_takes_no_file_is_refused_first(command, place, folder, monkeypatch, capsys):
    arguments, name = COMMANDS[command]
    (folder / "taken" / name).mkdir(parents=True)
    before = everything(folder)
    result = dynbench_here([*arguments, place.format(name)], folder, monkeypatch, capsys)
    refused(result, place.split("/{", maxsplit=1)[0])
    assert "cannot be written" in result.stderr or "does not exist" in result.stderr
    assert everything(folder) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder_is_refused_first(command, folder, monkeypatch, capsys):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    arguments, name = COMMANDS[command]
    result = dynbench_here([*arguments, name], folder, monkeypatch, capsys)
    refused(result, "Read-only file system", "another place")


@pytest.mark.parametrize("place", ["file", "file/plugins", "/proc"])
def test_new_refuses_a_place_that_takes_no_folder(place, folder, monkeypatch, capsys):
    before = everything(folder)
    refused(dynbench_here(["new", "mine", "--to", place], folder, monkeypatch, capsys), "mine")
    assert everything(folder) == before


@pytest.mark.parametrize("place", ["file", "file/kept", "/proc/kept"])
def test_check_refuses_a_place_for_counterexamples_first(place, folder, monkeypatch, capsys):
    arguments = ["check", "lipflow", "--keep", place]
    refused(dynbench_here(arguments, folder, monkeypatch, capsys), "cannot be written")


WRITERS = {
    "csv": ("t.csv", lambda path: export.export_store(verdicts(), path)),
    "parquet": ("t.parquet", lambda path: export.export_store(verdicts(), path)),
    "tsv": (
        "t.tsv",
        lambda path: export.write_certificates([CertifiedExample(0, 1, 1, 0.5, 0.1)], path),
    ),
    "png": ("t.png", lambda path: figures.save(Figure(), path)),
    "svg": ("t.svg", lambda path: figures.save(Figure(), path)),
    "pdf": ("t.pdf", lambda path: figures.save(Figure(), path)),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_up_leaves_the_old_file(kind, call, tmp_path, monkeypatch):
    name, write = WRITERS[kind]
    path = tmp_path / name
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OutputError, match=f"{name} cannot be written: No space left"):
            write(path)
    assert everything(tmp_path) == {path.relative_to(tmp_path): b"old"}
    write(path)
    assert path.read_bytes() != b"old", "the control: without the fault it is replaced"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_plugin_is_written_as_a_whole(failing, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            write_plugin(tmp_path / "mine", "attack")
    assert everything(tmp_path) == {}
    write_plugin(tmp_path / "mine", "attack")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "__init__.py",
        "card.yaml",
    ]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", "\t=1", "'=1", "a,b", 'a"b', "a\nb", "x"]
)
def test_exported_text_is_no_formula_and_comes_back(text, tmp_path):
    export.export_store(verdicts(text), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert not row["reason"].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert from_csv_text(row["reason"]) == text
        assert row["prediction"] == "-1", "numbers stay numbers"
    assert pd.read_csv(tmp_path / "t.csv")["prediction"].tolist() == [-1, -1, -1]


def test_a_carriage_return_breaks_no_row(tmp_path):
    export.export_store(verdicts("a\r=1\r\nb"), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["a\n=1\nb"] * 3


@pytest.mark.parametrize(
    "text", ["$", "$x$", r"\$x$", "$$", "a$b$c$", r"$\undefined{$", "_hidden", "a\nb", "x"]
)
def test_a_label_of_a_plot_is_text(text, tmp_path):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label=to_plot_text(text))
    axes.legend()
    axes.set_title(to_plot_text(text))
    figures.save(figure, tmp_path / "t.svg")
    # Text in one piece has its characters in a comment.
    shown = text.replace("\n", " ")
    assert (tmp_path / "t.svg").read_text().count(f"{shown} -->") == 2
