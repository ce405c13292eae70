"""Leaderboards lose no row: all rows are checked first, and a kill leaves old or new tables."""

import csv
import math
import os
import shutil
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
from oracles.command import dynbench_here, refused
from oracles.evidence import add_to, evidence

from robustbench_dyn.errors import InputError, OutputError
from robustbench_dyn.reporting import folder as folders
from robustbench_dyn.reporting.leaderboard import read_leaderboards
from robustbench_dyn.reporting.published import entries_of, entry_of, read_folder, read_table
from robustbench_dyn.reporting.publishing import publish
from robustbench_dyn.reporting.rows import PUBLISHED_COLUMNS
from robustbench_dyn.resources import shipped
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.store import Store

STATUSES = "c" * 50 + "u" * 10 + "b" * 30 + "m" * 10
# As the CSV of a version has it that published no evidence.
ROW = entry_of(evidence("m", STATUSES), "m").row | {"evidence_sha256": ""}
TABLE = "digits-L2-0.5.csv"
FILES = [TABLE, "digits-L2-0.5.parquet"]


def entries(*changes):
    """Return one entry a change; it names what differs from the record of model m at eps 0.5."""
    return [
        entry_of(evidence(**{"model": "m", "statuses": STATUSES} | change), "m")
        for change in changes
    ]


def write(folder, *changes, add=False):
    """Publish one entry a change; return the names of the files."""
    return [path.name for path in publish(entries(*changes), folder, add=add).paths]


def store_at(path):
    add_to(Store(path), evidence("m", STATUSES)).close()


def csv_of(rows, *, columns=PUBLISHED_COLUMNS):
    lines = [",".join(columns)]
    lines += [",".join(str(row[c]).replace("None", "") for c in columns) for row in rows]
    return "\n".join(lines) + "\n"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "pair",
    [(2 / 7, 0.285714), (0.5, 0.5000000001), (8 / 255, 0.031372549), (0.1, math.nextafter(0.1, 1))],
)
def test_equal_looking_eps_have_files_of_their_own(pair, tmp_path):
    changes = [{"eps": eps, "model": f"m{k}"} for k, eps in enumerate(pair)]
    written = write(tmp_path / "t", *changes)
    assert len(set(written)) == 5
    assert sorted(read_leaderboards(tmp_path / "t")["eps"]) == sorted(pair)


def test_the_text_of_an_eps_reads_back_as_that_eps():
    for eps in (1e-7, 1 / 3, 2 / 7, 0.2, 51 / 255, 196.0, 1e6, 1e20, 0.1 + 0.2, 8 / 255, 5e-324):
        text = format_eps(eps)
        assert float(Fraction(text)) == eps
        assert "+" not in text
    assert [format_eps(eps) for eps in (2 / 7, 1e20, 0.5000000001)] == [
        "2/7",
        "1e20",
        "0.5000000001",
    ]


def test_the_published_tables_stay_as_they_are(tmp_path):
    target = tmp_path / "t"
    # The others have thirty times as many verdicts. The README and the properties are of all.
    others = shutil.ignore_patterns("*-L2-*", "README.md", "properties.csv")
    shutil.copytree(shipped("leaderboards"), target, ignore=others)
    before = content(target)
    assert len(read_leaderboards(target)) == sum(
        text.count(b"\n") - 1
        for name, text in before.items()
        if name.endswith(".csv")
        and name not in ("withdrawn.csv", "properties.csv", "reported.csv")
        and not name.startswith("reported-")
    )
    # It reads and writes all of them.
    publish(read_table(target / "cifar10_jpeg-Linf-8_255.csv"), target, add=True)
    after = content(target)
    assert after.pop("README.md")
    assert after == before


def test_rows_that_are_added_once_more_change_nothing(tmp_path):
    target = tmp_path / "t"
    write(target, {"model": "a"}, {"model": "b", "eps": 1.0})
    before = content(target)
    (target / "notes.txt").write_text("a note")
    publish(read_folder(target), target, add=True)
    assert content(target) == before | {"notes.txt": b"a note"}, "a note beside the tables stays"


def test_added_rows_come_to_the_rows_that_are_there(tmp_path):
    target = tmp_path / "t"
    write(target, {"model": "a"}, {"model": "b", "eps": 1.0})
    # A name that an earlier version gave to a table.
    for suffix in (".csv", ".parquet"):
        (target / TABLE).with_suffix(suffix).rename(target / f"digits-L2-0.50{suffix}")
    write(target, {"model": "c"}, add=True)
    assert sorted(read_leaderboards(target)["model"]) == ["a", "b", "c"]
    assert sorted(content(target)) == [
        "README.md",
        *FILES,
        "digits-L2-1.csv",
        "digits-L2-1.parquet",
    ]


BAD = {
    "dataset": [("", "empty"), ("../../x", "a name"), ("/etc/x", "a name"), ("a b", "a name")],
    "model": [("", "empty"), ("=1+1", "a name"), ("m|n", "a name"), ("<b>", "a name")],
    "norm": [("", "empty"), ("L3", "one of Linf, L2, L1")],
    "eps": [("", "empty"), ("x", "no number"), ("0", "positive"), ("-1", "at least 0")],
    "n_examples": [("0", "at least 1"), ("1.5", "no number"), ("", "empty"), ("nan", "no number")],
    "clean_accuracy": [
        ("1.2", "fraction"),
        ("90%", "no number"),
        ("", "empty"),
        ("0.1", "exceeds"),
    ],
    "certified_accuracy": [("-0.1", "fraction"), ("0.7", "exceeds"), ("nan", "empty")],
    "empirical_accuracy": [("0.95", "exceeds"), ("inf", "fraction")],
    "ci_low": [("0.8", "exceeds")],
    "seconds": [("-1", "at least 0"), ("inf", "finite")],
    "forward_passes": [("-1", "at least 0"), ("many", "no number")],
    "parameters": [("9" * 5000, "no number")],
    "flags": [("x" * 20_000, "longer than")],
}


@pytest.mark.parametrize(
    ("column", "cell", "words"), [(c, *case) for c, cases in BAD.items() for case in cases]
)
def test_a_bad_cell_is_named_with_file_and_line(column, cell, words, tmp_path):
    rows = [ROW, ROW | {"model": "n"}, ROW | {column: cell}]
    (tmp_path / TABLE).write_text(csv_of(rows))
    with pytest.raises(InputError) as caught:
        read_leaderboards(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / TABLE}, line 4: ")
    assert column in message
    assert words in message
    assert len(message) < 500


def test_good_rows_are_all_read(tmp_path):
    (tmp_path / TABLE).write_text(csv_of([ROW, ROW | {"model": "n"}]))
    assert read_leaderboards(tmp_path)["model"].tolist() == ["m", "n"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _: b"", "is empty"),
        (lambda _: bytes(range(256)), "no text in UTF-8"),
        (lambda text: text + b"a,b\n", "line 4: 2 fields"),
        (lambda text: text[:-1] + b",1\n", f"line 3: {len(PUBLISHED_COLUMNS) + 1} fields"),
        (lambda text: text + b"\0\n", "line 4"),
        (lambda text: text + b'"open', "line 4"),
        (lambda text: text.replace(b"model", b"norm", 1), "lacks the column model"),
        (lambda text: text.replace(b"model", b"model,model", 1), "has twice the column model"),
    ],
)
def test_a_damaged_csv_is_refused_and_nothing_is_written(
    damage, words, tmp_path, monkeypatch, capsys
):
    target = tmp_path / "t"
    target.mkdir()
    (target / TABLE).write_bytes(damage(csv_of([ROW, ROW | {"model": "n"}]).encode()))
    before = content(target)
    store_at(tmp_path / "s.sqlite")
    arguments = ["leaderboard", "--store", "s.sqlite", "--to", "t", "--add"]
    refused(dynbench_here(arguments, tmp_path, monkeypatch, capsys), "t/" + TABLE, words)
    assert content(target) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": ""}, "dataset is empty"),
        ({"dataset": None}, "dataset is empty"),
        ({"dataset": "../../x"}, "dataset='../../x'"),
        ({"norm": None}, "norm is empty"),
        ({"norm": "L3"}, "norm='L3' must be one of"),
        ({"model": "=1+1"}, "model='=1+1' must be a name"),
        ({"family": 3}, "family=3 must be a text"),
        ({"weights_sha256": "1" * 63}, "must be 64 hexadecimal digits"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"audit_share": 2.0}, "audit_share=2.0 must be a fraction"),
        ({"flags": ("unheard_of",)}, "must be known flags"),
        ({"evaluated_at": "yesterday"}, "must be a time"),
        ({"evaluated_at": "2026-01-31T12:00:00"}, "must be a time"),
    ],
)
def test_a_bad_row_of_a_store_stops_before_the_write(change, words, tmp_path):
    write(tmp_path / "t", {})
    before = content(tmp_path / "t")
    bad = evidence(**{"model": "m", "statuses": STATUSES} | change)
    store = add_to(Store(), evidence("first", STATUSES, eps=0.1), bad)
    place = f"the store, evaluation {bad.record.spec.key()[:12]}"
    with pytest.raises(InputError, match=place) as caught:
        publish(entries_of(store), tmp_path / "t")
    assert words in str(caught.value)
    assert content(tmp_path / "t") == before


def test_a_run_without_a_time_has_a_row(tmp_path):
    one = evidence("m", STATUSES)
    store = add_to(Store(), one)
    (run,) = store.runs()
    untimed = {name: value for name, value in run.summary.items() if name != "evaluated_at"}
    store.add_run(run._replace(summary=untimed))
    (entry,) = entries_of(store)
    assert entry.row["evaluated_at"] == ""
    assert entry.evidence.sha256 == replace(one, evaluated_at="").with_sample().sha256


def test_tables_of_names_that_differ_in_case_are_refused(tmp_path):
    with pytest.raises(InputError, match="would be one file"):
        write(tmp_path / "t", {}, {"dataset": "Digits"})
    assert not (tmp_path / "t").exists()


def test_a_slash_in_a_name_stays_inside_the_folder(tmp_path):
    names = write(tmp_path / "t", {"dataset": "a/b"}, {"dataset": "a_b"})
    assert [name for name in names if not name.endswith(".parquet")] == [
        "a+b-L2-0.5.csv",
        "a_b-L2-0.5.csv",
        "README.md",
    ]
    assert sorted(content(tmp_path / "t")) == sorted(names)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


# Kills ---------------------------------------------------------------------------------------


def killed_at(step, action):
    """Run an action in a child that dies before its step-th change of files; say whether it did."""
    child = os.fork()
    if child == 0:
        seen = 0

        def die(event, _arguments):
            nonlocal seen
            if event in ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir") or (
                event.startswith("ctypes.")
            ):
                seen += 1
                if seen == step:
                    os._exit(9)

        sys.addaudithook(die)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads
@pytest.mark.parametrize(
    ("exchange", "every"),
    [
        pytest.param(True, 9, id="some"),
        pytest.param(True, 1, id="all", marks=pytest.mark.slow),
        pytest.param(False, 1, id="without exchange", marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_each_step_leaves_old_or_new_tables(exchange, every, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    old, new = entries({}, {"eps": 1.0}), entries({"model": "n"}, {"norm": "L1"})
    expected = {}
    for name, tables in (("old", [old]), ("new", [old, new])):
        for table in tables:
            publish(table, tmp_path / name, add=True)
        expected[name] = content(tmp_path / name)
    target, seen = tmp_path / "t", set()
    for step in range(1, 1000, every):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(tmp_path / "old", target)
        killed = killed_at(step, lambda: publish(new, target, add=True))
        left = content(folders.settled(target))
        seen.add(next(name for name, tables in expected.items() if tables == left))
        if exchange:
            assert target.is_dir()
        # What it left does not stand in the way of the next run, and goes with it.
        publish(new, target, add=True)
        assert content(target) == expected["new"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "t"]
        if not killed:
            break
    assert not killed
    assert step > 20
    assert seen == {"old", "new"}


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("failing", ["fsync", "rename", "write"])
def test_a_failing_disk_leaves_the_old_tables(failing, exchange, tmp_path, monkeypatch):
    target = tmp_path / "t"
    write(target, {})
    before = content(target)
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    fails = {
        "fsync": (os, "fsync"),
        "rename": (folders.Path, "rename"),
        "write": (folders.Path, "write_text"),
    }
    calls = {"left": 0}

    def full(*arguments, **options):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise OSError(28, "No space left on device")
        return original(*arguments, **options)

    owner, name = fails[failing]
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, full)
    failures = 0
    while calls["left"] <= 0:
        failures += 1
        calls["left"] = failures
        try:
            write(target, {"model": "n"}, add=True)
        except OutputError as error:
            assert "No space left" in str(error)
            # The last fsync, that of the parent's names, comes after the swap.
            assert content(target) == before or failing == "fsync"
            assert [path.name for path in tmp_path.iterdir()] == ["t"]
            shutil.rmtree(target)
            target.mkdir()
            for file, text in before.items():
                (target / file).write_bytes(text)
    assert failures > 1 or (failing == "rename" and exchange)


def in_place(path):
    path.write_text("")


def with_subfolder(path):
    (path / "sub").mkdir(parents=True)


def with_store(path):
    path.mkdir()
    (path / "dynbench.sqlite").write_text("")


@pytest.mark.parametrize(
    ("to", "prepare", "words"),
    [
        ("t", in_place, "t is a file"),
        ("t/tables", lambda path: in_place(path.parent), "t is a file"),
        ("/proc/tables", None, "/proc/tables cannot be written"),
        ("/dev/null", None, "null is a file"),
        ("/", None, "mount point"),
        (".", None, "the current folder"),
        ("..", None, "the current folder"),
        ("t", with_subfolder, "holds sub"),
        ("t", with_store, "holds dynbench.sqlite"),
    ],
)
def test_a_folder_that_cannot_be_replaced_is_refused(
    to, prepare, words, tmp_path, monkeypatch, capsys
):
    store_at(tmp_path / "s.sqlite")
    if prepare is not None:
        prepare(tmp_path / to)
    before = sorted(tmp_path.rglob("*"))
    arguments = ["leaderboard", "--store", "s.sqlite", "--to", to]
    refused(dynbench_here(arguments, tmp_path, monkeypatch, capsys), words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_folder_is_made_with_its_parents(tmp_path, monkeypatch, capsys):
    store_at(tmp_path / "s.sqlite")
    arguments = ["leaderboard", "--store", "s.sqlite", "--to", "a/b"]
    assert dynbench_here(arguments, tmp_path, monkeypatch, capsys).returncode == 0
    assert sorted(content(tmp_path / "a" / "b")) == ["README.md", *FILES]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", {})
    assert (tmp_path / "link").is_symlink()
    assert sorted(content(tmp_path / "real")) == ["README.md", *FILES]


# Text ----------------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''-x", "'", "a=b", '"=1"', ""]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_text_and_come_back(text, tmp_path):
    write(tmp_path / "t", {"family": text})
    with (tmp_path / "t" / TABLE).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert not row["family"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert read_leaderboards(tmp_path / "t")["family"].tolist() == [text]
    assert (row["eps"], row["seed"], row["lipschitz_bound"]) == ("0.5", "0", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("a\n| x |", r"a \| x \|"),
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("&lt;", "&amp;lt;"),
        ("`a`", r"\`a\`"),
        ("[x](http://y)", r"\[x\](http://y)"),
        ("a\u2028b", "a b"),
        ("pgd(n_steps=3)", "pgd(n_steps=3)"),
    ],
)
def test_the_page_shows_text_as_text(text, shown, tmp_path):
    page = tmp_path / "t/README.md"
    write(tmp_path / "t", {"certifiers": (text,)})
    (line,) = [x for x in page.read_text().splitlines() if "| m |" in x]
    assert f"| {shown} |" in line
