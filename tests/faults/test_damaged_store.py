"""Stores that are damaged, edited, of other versions, moved or not writable.

Whatever reads one either says in one sentence what is wrong, or gives what an intact one gives.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from oracles import halfspaces, points
from typer.testing import CliRunner

from robustbench_dyn import ThreatModel, evaluate_grid
from robustbench_dyn.cli import app
from robustbench_dyn.errors import StoreError
from robustbench_dyn.reporting.export import export_store
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.schema import SCHEMA_VERSION
from robustbench_dyn.results.store import Store

DATA = points([0.03, 0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.45] * 4)
GRID = [ThreatModel("L2", eps) for eps in (0.25, 0.12)]


def run(path):
    found = evaluate_grid(
        halfspaces(), DATA, GRID, attacks="apgd-ce", store=path, name="plane", batch_size=50
    )
    # The costs of what was lost count again.
    free = ("seconds", "evaluated_at", "forward_passes", "backward_passes")
    return [{k: v for k, v in one.summary.items() if k not in free} for one in found]


def table(path, folder, *, pending=False):
    target = folder / "table.csv"
    export_store(Store(path), target, pending=pending)
    return target.read_text()


def board(path, _folder):
    return leaderboard(Store(path)).to_csv()


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.sqlite"
    run(path)
    return path


@pytest.fixture
def copy(intact, tmp_path):
    return shutil.copy(intact, tmp_path / "copy.sqlite")


def edit(path, statement):
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


# One sentence: what, which file, and the way out.
def assert_is_a_sentence(error, path):
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600


NONSENSE = [
    "UPDATE verdicts SET status = 'certified' WHERE status = 'broken'",
    "UPDATE verdicts SET status = 'splendid'",
    "UPDATE verdicts SET status = x'00ff'",
    "UPDATE verdicts SET prediction = 'seven'",
    "UPDATE verdicts SET label = label + 1",
    "UPDATE verdicts SET certified_radius = 'far'",
    "UPDATE verdicts SET certified_radius = 1e300 WHERE certified_radius > 0",
    "UPDATE verdicts SET adversarial_distance = NULL WHERE status = 'broken'",
    "UPDATE verdicts SET adversarial_distance = -1",
    "UPDATE verdicts SET seconds = 'long'",
    "UPDATE verdicts SET forward_passes = 0.5",
    "UPDATE verdicts SET trail = '[[1]]'",
    "UPDATE verdicts SET trail = 'no json'",
    "UPDATE verdicts SET trail = '[]' WHERE trail != '[]'",
    "UPDATE verdicts SET next_stage = 'nowhere'",
    "UPDATE verdicts SET x_adv = 'text' WHERE status = 'broken'",
    "UPDATE verdicts SET example_id = example_id + 1000",
    "UPDATE verdicts SET checksum = NULL",
    "UPDATE verdicts SET checksum = 'none'",
]
OTHER_TABLES = [
    "UPDATE evaluations SET record = '{}'",
    "UPDATE evaluations SET record = 'no json'",
    "UPDATE evaluations SET record = replace(record, 'plane', 'other')",
    "UPDATE runs SET summary = '[]'",
    "UPDATE runs SET summary = replace(summary, '0.', '1.')",
    "UPDATE runs SET n_examples = 1000",
    "INSERT INTO flags (key, flag) SELECT key, 'softmax_outputs' FROM evaluations",
    "INSERT INTO runs SELECT key, 0.01, 0, 32, summary, checksum FROM runs LIMIT 1",
    "INSERT INTO violations SELECT key, 0.25, 0, 0.3, 0.2, 'pgd', '', NULL, 0 FROM evaluations",
]


@pytest.mark.parametrize("statement", NONSENSE)
def test_an_edited_verdict_is_told(statement, copy, tmp_path):
    edit(copy, statement)
    for read in (run, lambda path: table(path, tmp_path, pending=True)):
        with pytest.raises(StoreError, match=r"table verdicts.*example_id") as error:
            read(copy)
        assert_is_a_sentence(error, copy)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("statement", OTHER_TABLES)
def test_an_edited_row_of_another_table_is_told(statement, copy, tmp_path):
    edit(copy, statement)
    told = []
    for read in (run, lambda path: table(path, tmp_path), lambda path: board(path, tmp_path)):
        try:
            read(copy)
        except StoreError as error:
            told.append(str(error))
    assert told
    assert all("is not what was written" in text for text in told)
    assert Store(copy).check()


def test_rows_under_other_eps_are_told(copy):
    edit(copy, "DELETE FROM verdicts WHERE eps = 0.25")
    edit(copy, "UPDATE verdicts SET eps = 0.25")
    with pytest.raises(StoreError, match="table verdicts"):
        run(copy)


def test_an_intact_store_is_read_and_sound(copy, intact, tmp_path):
    expected = run(intact)
    assert run(copy) == expected
    table(copy, tmp_path)
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(GRID) * len(DATA[0])
    assert Store(copy).check() == []


def test_deleted_rows_are_computed_again(copy, intact, tmp_path):
    expected = table(intact, tmp_path)
    edit(copy, "UPDATE verdicts SET label = 7 WHERE example_id < 3")
    edit(copy, "UPDATE runs SET summary = '{}'")
    problems = Store(copy).check()
    assert sum("verdicts: the row" in problem for problem in problems) == 6
    assert sum("runs: the row" in problem for problem in problems) == 2
    Store(copy).check(delete=True)
    assert Store(copy).check() == []
    assert run(copy) == run(intact)
    assert timeless(table(copy, tmp_path)) == timeless(expected)


def timeless(csv):
    frame = pd.read_csv(StringIO(csv))
    return frame.drop(columns=["seconds", "forward_passes", "backward_passes"]).to_csv()


def test_the_command_checks_and_deletes(copy):
    runner = CliRunner()
    assert runner.invoke(app, ["store", "check", str(copy)]).exit_code == 0
    edit(copy, "UPDATE verdicts SET label = 7")
    result = runner.invoke(app, ["store", "check", str(copy)])
    assert result.exit_code == 2
    assert result.stdout.count("is damaged") == 20
    assert "and 44 more" in result.stdout
    assert runner.invoke(app, ["store", "check", str(copy), "--delete"]).exit_code == 2
    result = runner.invoke(app, ["store", "check", str(copy)])
    assert (result.exit_code, "is sound" in result.stdout) == (0, True)


def test_rows_without_an_evaluation_are_told(copy):
    edit(copy, "DELETE FROM evaluations")
    problems = Store(copy).check()
    assert "verdicts: rows whose evaluation is missing" in problems


def test_every_column_is_in_the_checksum_and_the_layout():
    connection = Store().connection
    for name, layout in LAYOUTS.items():
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        assert columns == [*layout.columns, "checksum"]
    row = ("k", 0.5, "pgd", 1, 2, 3, 4, 0.25)
    sums = {LAYOUTS["costs"].checksum(row)}
    for place, value in enumerate(row):
        other = value + "x" if isinstance(value, str) else value + 1
        sums.add(LAYOUTS["costs"].checksum((*row[:place], other, *row[place + 1 :])))
    assert len(sums) == len(row) + 1


@pytest.mark.parametrize(
    "version", [*range(SCHEMA_VERSION), SCHEMA_VERSION + 1, 42, 99, -1, 2**31 - 1]
)
def test_another_version_is_refused_or_upgraded(version, copy):
    edit_version(copy, version)
    before = copy.read_bytes()
    # The tables are those of this version: no step from an older one fits them.
    with pytest.raises(StoreError) as error:
        run(copy)
    assert_is_a_sentence(error, copy)
    assert copy.read_bytes() == before


def edit_version(path, version):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def corrupted(path, seed):
    """Damage a file at random: a few bytes, a run of zeros, a cut, or two pages exchanged."""
    draw = random.Random(seed)
    content = bytearray(path.read_bytes())
    kind, page = seed % 4, 4096
    if kind == 0:
        for _ in range(draw.choice([1, 3, 30])):
            content[draw.randrange(len(content))] = draw.randrange(256)
    elif kind == 1:
        start = draw.randrange(len(content))
        content[start : start + draw.choice([1, 16, page])] = bytes(16)
    elif kind == 2:
        del content[draw.randrange(len(content)) :]
    else:
        n = len(content) // page
        a, b = (draw.randrange(1, n) * page for _ in range(2))
        content[a : a + page], content[b : b + page] = (
            content[b : b + page],
            content[a : a + page],
        )
    path.write_bytes(content)


READS = {
    "run": lambda path, _folder: str(run(path)),
    "export": table,
    "leaderboard": board,
}


def check_corruptions(seeds, intact, tmp_path):
    """Return how often each reader refused, and how often it gave what an intact store gives."""
    expected = {name: read(intact, tmp_path) for name, read in READS.items()}
    counts = dict.fromkeys([*READS, "refused"], 0)
    for seed in seeds:
        for name, read in READS.items():
            path = tmp_path / f"{seed}-{name}.sqlite"
            shutil.copy(intact, path)
            corrupted(path, seed)
            try:
                found = read(path, tmp_path)
            except StoreError as error:
                assert "\n" not in str(error)
                counts["refused"] += 1
                continue
            assert found == expected[name], (seed, name)
            counts[name] += 1
            path.unlink()
    return counts


def test_a_corrupt_file_is_refused_or_read_as_it_was(intact, tmp_path):
    counts = check_corruptions(range(8), intact, tmp_path)
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("first", range(8, 88, 10))
def test_ten_corrupt_files_are_refused_or_read_as_they_were(first, intact, tmp_path):
    counts = check_corruptions(range(first, first + 10), intact, tmp_path)
    assert counts["refused"] > 0


# Names


@pytest.mark.parametrize("name", ["x" * 257, "a\0b.sqlite", "."])
def test_a_name_that_no_file_can_have_is_told(name, tmp_path):
    with pytest.raises(StoreError):
        Store(tmp_path / name)


def test_a_long_name_is_told_by_the_commands(tmp_path):
    for command in (["leaderboard"], ["export", str(tmp_path / "t.csv")]):
        result = CliRunner().invoke(app, [*command, "--store", str(tmp_path / ("x" * 257))])
        assert result.exception is not None
        assert "name too long" in str(result.exception)


def test_a_name_of_other_bytes_is_one(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe.sqlite")
    Store(path).close()
    assert Store(path).check() == []


# Rights


@pytest.fixture
def read_only(monkeypatch):
    """Let SQLite open every existing file for reading only."""
    connect = sqlite3.connect

    def connected(path, **options):
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", connected)


def test_a_known_run_needs_no_right_to_write(intact, copy, read_only, tmp_path):
    before = copy.read_bytes()
    assert run(copy) == run(intact)
    assert table(copy, tmp_path)
    assert copy.read_bytes() == before


def test_a_run_with_something_new_says_that_it_cannot_write(copy, read_only):
    with pytest.raises(StoreError, match=r"readonly.*writable") as error:
        evaluate_grid(halfspaces(), DATA, [ThreatModel("L2", 0.3)], attacks="apgd-ce", store=copy)
    assert_is_a_sentence(error, copy)


MOUNTED = """
mount -o bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1/copy.sqlite"
"""


@pytest.mark.slow
def test_a_known_run_works_on_a_read_only_mount(copy, intact, tmp_path):
    tests = Path(__file__).parents[1]
    script = (
        "import importlib.util, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(tests)!r})\n"
        f"spec = importlib.util.spec_from_file_location('damaged', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "print(module.run(Path(sys.argv[1])))\n"
    )
    command = ["unshare", "-m", "sh", "-c", MOUNTED, "sh", str(tmp_path), sys.executable, script]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if "mount" in found.stderr or "unshare" in found.stderr:
        pytest.skip("mounts are not allowed here")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str(run(intact))


# Files that are taken away


def replaced(path):
    other = path.with_name("other.sqlite")
    Store(other).close()
    other.replace(path)


LOSSES = {
    "deleted": (lambda path: path.unlink(), "moved or deleted"),
    "renamed": (lambda path: path.rename(path.with_name("away.sqlite")), "moved or deleted"),
    "replaced": (replaced, "another file took its place"),
    "truncated": (lambda path: os.truncate(path, 0), "truncated"),
    "cut": (lambda path: os.truncate(path, 8192), "truncated"),
}


@pytest.mark.parametrize(("lose", "words"), LOSSES.values(), ids=LOSSES)
def test_what_is_said_to_be_kept_is_there(lose, words, tmp_path):
    path = tmp_path / "s.sqlite"
    seen = []

    def progress(_report):
        if not seen:
            lose(path)
        seen.append(1)

    with pytest.raises(StoreError, match=words) as error:
        evaluate_grid(
            halfspaces(), DATA, GRID, attacks="apgd-ce", store=path, batch_size=5, progress=progress
        )
    assert "is kept" not in str(error.value)
    assert_is_a_sentence(error, path)


def test_a_file_that_stays_is_said_to_be_kept(tmp_path):
    path = tmp_path / "s.sqlite"
    store = Store(path)
    (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
    store.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="is kept"):
        evaluate_grid(halfspaces(), DATA, GRID, attacks="apgd-ce", store=store)
