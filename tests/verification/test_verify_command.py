"""The command verify: exit codes, lines of at most 80 columns, and one JSON document."""

import json
import os

import numpy as np
import pytest
from oracles.command import dynbench_here, refused
from oracles.forgeries import cell, change_cells

from robustbench_dyn.reporting.published import read_table
from robustbench_dyn.results.verdicts import Status


@pytest.fixture
def run(table, tmp_path, monkeypatch, capsys):
    return lambda *arguments: dynbench_here(arguments, tmp_path, monkeypatch, capsys)


def handed_in(table, path):
    (entry,) = read_table(table)
    verdict = next(v for v in entry.evidence.verdicts if v.x_adv is not None)
    x_adv = np.frombuffer(verdict.x_adv, dtype="<f4").reshape(1, 2, 1, 1)
    np.savez(path, x_adv=x_adv, example_id=np.array([verdict.example_id]), model="lipflow")
    return path


def test_honest_rows_hold_with_exit_0(run, table):
    result = run("verify", table)
    assert result.returncode == 0, result.stdout
    assert "holds  lipflow on 30 examples of moons, L2 0.3" in result.stdout
    assert "1 row verified by recount: it holds" in result.stdout


def test_a_folder_is_verified_as_a_whole(run, table):
    result = run("verify", table.parent)
    assert result.returncode == 0 and "2 rows" in result.stdout


def test_a_changed_digit_ends_with_exit_1_and_says_which_row_and_why(run, table):
    change_cells(table.parent, cell("parameters", lambda text: "1" + text), "lipflow", 0.3)
    result = run("verify", table.parent)
    assert result.returncode == 1
    assert "FAILS  lipflow on 30 examples of moons, L2 0.3" in result.stdout
    assert "parameters is" in result.stdout and "line 2" in result.stdout
    assert "holds  lipflow on 30 examples of moons, L2 0.1" in result.stdout


def test_all_broken_rows_are_told(run, table):
    table.write_text(table.read_text() + "garbage\n" + "more,garbage\n")
    result = run("verify", table)
    assert result.returncode == 1 and result.stdout.count("FAILS") == 2
    assert "line 3" in result.stdout and "line 4" in result.stdout


def test_a_replay_states_its_seed_and_repeats_by_it(run, table):
    first = run("verify", table, "--replay", "--sample", "6", "--seed", "5")
    assert first.returncode == 0, first.stdout
    assert "--seed 5 repeats it" in first.stdout
    assert "clean predictions hold" in first.stdout
    assert run("verify", table, "--replay", "--sample", "6", "--seed", "5").stdout == first.stdout


def test_lines_fit_a_terminal_and_are_whole_in_a_pipe(run, table, monkeypatch):
    change_cells(table.parent, cell("flags", lambda _: "not_audited"), "lipflow", 0.3)
    options = ("verify", table.parent.name, "--replay", "--sample", "4", "--seed", "0")
    whole = run(*options).stdout
    assert max(map(len, whole.splitlines())) > 80
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "60")
    fitting = run(*options).stdout
    assert max(map(len, fitting.splitlines())) <= 60
    assert "".join(fitting.split()) == "".join(whole.split())


def test_json_has_all_findings(run, table):
    change_cells(table.parent, cell("seed", lambda _: "9"), "lipflow", 0.3)
    result = run("verify", table, "--json")
    document = json.loads(result.stdout)
    assert result.returncode == 1 and document["holds"] is False
    (row,) = document["rows"]
    assert [finding["check"] for finding in row["findings"]] == ["columns"]


def test_a_known_image_changes_nothing(run, table):
    submission = handed_in(table, table.parent.parent / "s.npz")
    result = run("verify", table, "--evidence", submission)
    assert result.returncode == 0 and "already broken" in result.stdout


def test_an_image_is_written_only_where_that_is_asked_for(run, table, tmp_path):
    (entry,) = read_table(table)
    verdict = next(v for v in entry.evidence.verdicts if v.status is Status.UNDECIDED)
    everywhere = np.stack(np.meshgrid(*[np.linspace(0, 1, 40)] * 2), axis=-1).reshape(-1, 2, 1, 1)
    np.savez(
        tmp_path / "s.npz",
        x_adv=everywhere,
        example_id=np.full(len(everywhere), verdict.example_id),
        model="lipflow",
        seed=0,
        weights_sha256=entry.row["weights_sha256"],
    )
    before = table.read_bytes()
    told = run("verify", table, "--evidence", tmp_path / "s.npz")
    assert told.returncode == 0 and "with --correct: 1 row corrected" in told.stdout
    assert table.read_bytes() == before
    run("verify", table, "--evidence", tmp_path / "s.npz", "--correct", "--source", "Ada, a letter")
    (after,) = read_table(table)
    assert after.evidence.verdicts[verdict.example_id].status is Status.BROKEN
    assert "Ada, a letter" in after.row["corrections"]
    assert run("verify", table.parent).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sample", "0"], ["sample=0"]),
        (["--replay", "--full"], ["--full"]),
        (["--correct"], ["--correct", "--evidence"]),
        (["--evidence", "none.npz"], ["none.npz"]),
        (["--evidence", "none.npz", "--replay"], ["--evidence"]),
        (["--evidence", "none.npz", "--correct"], ["--source"]),
        (["--evidence", "none.npz", "--correct", "--source", "x" * 300], ["--source"]),
        (["--model", "nothing"], ["nothing"]),
        (["--replay", "--device", "none"], ["device"]),
    ],
)
def test_bad_options_are_refused_in_a_line(arguments, words, run, table):
    refused(run("verify", table, *arguments), *words)


@pytest.mark.parametrize("path", ["none.csv", os.devnull, "."])
def test_what_is_no_table_is_refused(path, run):
    refused(run("verify", path), "table")
