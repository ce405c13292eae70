"""Publishing says what it adds, replaces, keeps, drops and withdraws, and loses nothing unasked."""

import json
from dataclasses import replace

import pytest
from oracles.command import dynbench_here, refused
from oracles.entries import entry
from oracles.evidence import add_to, evidence, verdict

from robustbench_dyn.errors import InputError, StoreError
from robustbench_dyn.reporting.changes import combine
from robustbench_dyn.reporting.labels import bracket, is_named, label
from robustbench_dyn.reporting.properties import Measured, read_findings
from robustbench_dyn.reporting.published import entries_of, entry_of, read_folder, read_table
from robustbench_dyn.reporting.publishing import (
    add_findings,
    correct,
    publish,
    withdraw,
    withdraw_entries,
)
from robustbench_dyn.reporting.withdrawn import read_withdrawn
from robustbench_dyn.results.evidence import Correction
from robustbench_dyn.results.evidence_files import read_evidence
from robustbench_dyn.results.store import Store, Violation

TABLE = "digits-L2-0.5.csv"
OTHER = {"weights_sha256": "3" * 64}


def put(folder, *entries, **options):
    return kinds(publish(entries, folder, **options).changes)


def kinds(changes):
    return [(change.kind, change.row["model"], change.row["n_examples"]) for change in changes]


def held(folder):
    return [(one.row["model"], one.row["n_examples"]) for one in read_folder(folder)]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Add, replace, keep, drop ----------------------------------------------------------------------


def test_rows_are_added_replaced_and_kept(tmp_path):
    folder = tmp_path / "t"
    assert put(folder, entry("a", "ccbu"), entry("b", "cbbb")) == [
        ("added", "a", 4),
        ("added", "b", 4),
    ]
    again = entry("b", "cccc", certifiers=("ibp",))
    changes = publish([again, entry("c", "bbbb")], folder, add=True).changes
    assert kinds(changes) == [("replaced", "b", 4), ("kept", "a", 4), ("added", "c", 4)]
    assert changes[0].before["certified_accuracy"] == 0.25
    assert [change.before for change in changes[1:]] == [None, None]
    assert held(folder) == [("b", 4), ("a", 4), ("c", 4)]


def test_changes_are_of_rows_as_they_were_written(tmp_path):
    changes = publish(
        [entry("b", "bbbb"), entry("a", "cccc", training_record="")], tmp_path / "t"
    ).changes
    assert [change.row for change in changes] == [one.row for one in read_folder(tmp_path / "t")]
    assert [change.row["certified_rank"] for change in changes] == [1, None]
    assert changes[1].row["open_flags"] == "no_training_record"


@pytest.mark.parametrize(
    "facts",
    [
        {"model": "n"},
        {"weights_sha256": "3" * 64},
        {"data_sha256": "4" * 64},
        {"norm": "Linf"},
        {"eps": 0.25},
        {"suite": "plus"},
        {"seed": 1},
        {"dataset": "moons"},
    ],
)
def test_a_row_of_another_claim_replaces_nothing(facts, tmp_path):
    one = entry("m", "ccbu")
    other = entry(**{"model": "m", "statuses": "cbbb"} | facts)
    put(tmp_path / "t", one)
    found = put(tmp_path / "t", other, add=True)
    assert sorted(kind for kind, *_ in found) == ["added", "kept"]
    assert len(read_folder(tmp_path / "t")) == 2
    # The control: what is no part of the claim.
    same = entry("m", "cbbb", certifiers=("ibp",), plugin_version="2")
    assert ("replaced", "m", 4) in put(tmp_path / "t", same, add=True)


def test_a_row_of_fewer_examples_replaces_none_unasked(tmp_path):
    folder = tmp_path / "t"
    put(folder, entry("m", "ccbu" * 10))
    before = content(folder)
    small = entry("m", "ccbu")
    for options in ({}, {"add": True}):
        with pytest.raises(InputError, match=r"4 examples .* would replace a row of 40 examples"):
            publish([small], folder, **options)
        assert content(folder) == before
    assert put(folder, small, replace=True, add=True) == [("replaced", "m", 4)]
    assert held(folder) == [("m", 4)]
    # Of as many or more, a row needs no leave.
    assert put(folder, entry("m", "cccc")) == [("replaced", "m", 4)]
    assert put(folder, entry("m", "ccccc")) == [("replaced", "m", 5)]


def test_a_row_without_certifiers_replaces_none_with_them_unasked(tmp_path):
    folder = tmp_path / "t"
    put(folder, entry("m", "ccbu"))
    bare = entry("m", "uubu", certifiers=())
    with pytest.raises(InputError, match="ran no certifier, and would replace a row of lipschitz"):
        publish([bare], folder)
    assert put(folder, bare, replace=True) == [("replaced", "m", 4)]
    assert put(folder, bare) == [("replaced", "m", 4)]
    assert put(folder, entry("m", "ccbu")) == [("replaced", "m", 4)]


def test_rows_are_dropped_on_demand_alone(tmp_path):
    folder = tmp_path / "t"
    put(folder, entry("a", "cb"), entry("b", "cb"), entry("far", "cb", eps=1.0))
    before = content(folder)
    with pytest.raises(InputError, match="1 row that the store does not hold, b on 2 examples"):
        publish([entry("a", "cc")], folder)
    assert content(folder) == before
    assert put(folder, entry("a", "cc"), replace=True) == [
        ("replaced", "a", 2),
        ("kept", "far", 2),
        ("dropped", "b", 2),
    ]
    assert held(folder) == [("a", 2), ("far", 2)]


def test_combine_keeps_every_row_in_one_place():
    old = [entry("a", "ccb"), entry("b", "ccb"), entry("c", "ccb", eps=1.0)]
    new = [entry("a", "ccc"), entry("d", "ccb")]
    for add in (True, False):
        final, changes = combine(new, old, add=add, replace=True, folder="t")
        stay = [change for change in changes if change.kind != "dropped"]
        assert [id(change.row) for change in stay] == [id(one.row) for one in final]
        assert len(changes) == 4


def test_the_larger_of_two_runs_of_one_claim_counts(tmp_path):
    # The smaller one has the narrower bracket.
    small = evidence("m", "cc", certifiers=("ibp",))
    large = evidence("m", "cub", certifiers=("crown",))
    publish(entries_of(add_to(Store(), small, large)), tmp_path / "t")
    assert held(tmp_path / "t") == [("m", 3)]
    both = entry_of(small, "small"), entry_of(large, "large")
    for order in (both, both[::-1]):
        final, _ = combine(order, [], add=False, replace=False, folder=tmp_path)
        assert [one.row["n_examples"] for one in final] == [3]


def test_the_narrower_of_two_runs_of_one_claim_counts():
    narrow, wide = (
        entry("m", "cccb", certifiers=("crown",)),
        entry("m", "cuub", certifiers=("ibp",)),
    )
    unattacked = entry("m", "cccc", attacks=(), certifiers=("a",))
    for order in ([narrow, wide], [wide, narrow], [unattacked, narrow, wide]):
        final, _ = combine(order, [], add=False, replace=False, folder="t")
        assert final == [narrow]
    # Of equal ones, the later.
    later = entry("m", "cccb", evaluated_at="2026-02-01T00:00:00+00:00")
    for order in ([narrow, later], [later, narrow]):
        assert combine(order, [], add=False, replace=False, folder="t")[0] == [later]


def test_two_rows_of_one_claim_in_a_folder_are_refused(tmp_path):
    put(tmp_path / "t", entry("m", "cb"))
    lines = (tmp_path / "t" / TABLE).read_text().splitlines(keepends=True)
    (tmp_path / "t" / TABLE).write_text("".join([*lines, lines[1]]))
    with pytest.raises(InputError, match="two rows of the folder are of m, with the same"):
        read_folder(tmp_path / "t")


def test_nothing_to_publish_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        publish([], tmp_path / "t")
    assert not (tmp_path / "t").exists()


# Stores ----------------------------------------------------------------------------------------


def parts(*ranges, statuses="ccbubbccuc"):
    """Return the evidence of ranges of one evaluation's examples."""
    return [evidence("m", statuses[a:b], first=a) for a, b in ranges]


def test_ranges_of_one_evaluation_are_one_row():
    (joined,) = entries_of(add_to(Store(), *parts((0, 4), (4, 10))))
    (whole,) = entries_of(add_to(Store(), *parts((0, 10))))
    assert joined.row == whole.row
    assert joined.row["n_examples"] == 10


@pytest.mark.parametrize(
    ("ranges", "first", "n_examples"),
    [
        (((0, 3), (4, 10)), 4, 6),
        (((0, 6), (7, 10)), 0, 6),
        (((0, 5), (6, 10), (5, 6)), 0, 10),
        (((0, 4), (5, 9)), 0, 4),
        (((2, 8),), 2, 6),
        (((0, 8), (4, 10)), 0, 10),
    ],
)
def test_the_longest_range_without_a_gap_counts(ranges, first, n_examples):
    (found,) = entries_of(add_to(Store(), *parts(*ranges)))
    assert (found.row["first_example"], found.row["n_examples"]) == (first, n_examples)
    assert [v.example_id for v in found.evidence.verdicts] == [*range(first, first + n_examples)]


def test_verdicts_that_no_run_finished_do_not_count():
    store = add_to(Store(), evidence("m", "ccb"))
    key = evidence("m", "ccb").record.spec.key()
    store.add_verdicts(key, [verdict(3, "c"), replace(verdict(4, "u"), next_stage="fab")])
    (found,) = entries_of(store)
    assert found.row["n_examples"] == 3


@pytest.mark.parametrize("lost", ["verdict", "stage"])
def test_a_run_without_its_verdicts_is_refused(lost):
    one = evidence("m", "ccb")
    store, key = add_to(Store(), one), one.record.spec.key()
    if lost == "verdict":
        store.connection.execute("DELETE FROM verdicts WHERE example_id = 1")
    else:
        store.add_verdicts(key, [replace(verdict(1, "u"), next_stage="fab")])
    with pytest.raises(StoreError, match=r"finished run of 3 examples .* not all of its verdicts"):
        entries_of(store)


def test_a_refuted_evaluation_is_not_published():
    one = evidence("m", "ccb")
    store = add_to(Store(), one, evidence("other", "cc"))
    store.add_violation(one.record.spec.key(), 0.5, Violation(0, 0.7, 0.4, "pgd", "", b""))
    assert [found.row["model"] for found in entries_of(store)] == ["other"]


def test_flags_and_signs_of_the_store_are_in_the_row():
    one = evidence("m", "ccb", flags=("keeps_state",))
    store = add_to(Store(), one)
    store.add_flags(one.record.spec.key(), ["softmax_outputs"])
    (found,) = entries_of(store)
    assert found.row["flags"].split()[:2] == ["keeps_state", "softmax_outputs"]
    assert found.evidence.flags == ("keeps_state", "softmax_outputs")


@pytest.mark.parametrize("n", [0, 1, 3])
def test_so_many_adversarial_examples_are_kept(n):
    (found,) = entries_of(add_to(Store(), evidence("m", "bbbbb")), n_adversarial=n)
    kept = [v.example_id for v in found.evidence.verdicts if v.x_adv is not None]
    assert len(kept) == n
    assert kept == found.evidence.sampled()


# Evidence --------------------------------------------------------------------------------------


def test_rows_name_the_evidence_beside_them(tmp_path):
    put(tmp_path / "t", entry("a", "cb"), entry("b", "cu"), entry("far", "cb", eps=1.0))
    for path in sorted((tmp_path / "t").glob("*.csv")):
        beside = read_evidence(path.with_suffix(".parquet"))
        rows = read_table(path)
        assert {one.row["evidence_sha256"] for one in rows} == set(beside)
        for one in rows:
            recounted = one.evidence.row()
            assert {name: one.row[name] for name in recounted} == recounted


@pytest.mark.parametrize("damage", ["missing", "of another table", "another row"])
def test_evidence_that_a_row_names_must_be_there(damage, tmp_path):
    folder = tmp_path / "t"
    put(folder, entry("a", "cb"), entry("far", "cb", eps=1.0))
    assert len(read_folder(folder)) == 2
    beside = folder / "digits-L2-0.5.parquet"
    if damage == "missing":
        beside.unlink()
    elif damage == "of another table":
        beside.write_bytes((folder / "digits-L2-1.parquet").read_bytes())
    else:
        name = read_folder(folder)[0].row["evidence_sha256"]
        text = (folder / TABLE).read_text()
        (folder / TABLE).write_text(text.replace(name, "0" * 64))
    words = "cannot be read" if damage == "missing" else "does not hold"
    with pytest.raises(InputError, match=words):
        read_folder(folder)
    with pytest.raises(InputError, match=words):
        read_folder(folder, with_evidence=lambda row: row["model"] == "a")
    rows = read_folder(folder, with_evidence=lambda row: row["model"] == "far")
    assert [(one.row["model"], one.evidence is not None) for one in rows] == [
        ("a", False),
        ("far", True),
    ]


def test_evidence_of_a_replaced_row_goes_with_it(tmp_path):
    put(tmp_path / "t", entry("a", "cb"), entry("b", "cb"))
    put(tmp_path / "t", entry("a", "cc"), add=True)
    beside = read_evidence((tmp_path / "t" / TABLE).with_suffix(".parquet"))
    assert set(beside) == {one.row["evidence_sha256"] for one in read_folder(tmp_path / "t")}


# Withdraw --------------------------------------------------------------------------------------


def two_weights(folder):
    put(folder, entry("m", "cb"), entry("m", "cc", **OTHER), entry("other", "bb"))


def test_a_withdrawn_row_leaves_with_its_reason_and_evidence(tmp_path):
    folder = tmp_path / "t"
    two_weights(folder)
    (row,) = [one.row for one in read_folder(folder) if one.row["model"] == "other"]
    changes = withdraw(folder, "other", "trained on\nthe test  set").changes
    assert kinds(changes) == [("withdrawn", "other", 2)]
    assert held(folder) == [("m", 2), ("m", 2)]
    (withdrawn,) = read_withdrawn(folder)
    assert (withdrawn.row, withdrawn.why) == (row, "trained on the test set")
    assert withdrawn.at[10:] and withdrawn.at.endswith("+00:00")
    assert list(read_evidence(folder / "withdrawn.parquet")) == [row["evidence_sha256"]]


def test_later_withdrawals_come_behind_earlier_ones(tmp_path):
    two_weights(tmp_path / "t")
    withdraw(tmp_path / "t", "other", "one")
    withdraw(tmp_path / "t", "m", "two")
    assert [one.why for one in read_withdrawn(tmp_path / "t")] == ["one", "two", "two"]
    assert len(read_evidence(tmp_path / "t" / "withdrawn.parquet")) == 3
    assert held(tmp_path / "t") == []
    assert sorted(content(tmp_path / "t")) == ["README.md", "withdrawn.csv", "withdrawn.parquet"]


@pytest.mark.parametrize(
    ("name", "gone"), [("m", 2), ("m@3", 1), (f"m@{'1' * 64}", 1), ("other@1", 1)]
)
def test_weights_are_named_by_the_start_of_their_hash(name, gone, tmp_path):
    two_weights(tmp_path / "t")
    assert len(withdraw(tmp_path / "t", name, "why").changes) == gone
    assert len(read_folder(tmp_path / "t")) == 3 - gone


@pytest.mark.parametrize("name", ["n", "m@7", "mm", "M", "", "m@1111x"])
def test_a_model_without_a_row_is_not_withdrawn(name, tmp_path):
    two_weights(tmp_path / "t")
    before = content(tmp_path / "t")
    with pytest.raises(InputError, match="model"):
        withdraw(tmp_path / "t", name, "why")
    assert content(tmp_path / "t") == before


@pytest.mark.parametrize("why", ["", " \n"])
def test_a_row_is_not_withdrawn_without_a_reason(why, tmp_path):
    two_weights(tmp_path / "t")
    with pytest.raises(InputError, match="--why"):
        withdraw(tmp_path / "t", "m", why)


def test_a_withdrawn_row_comes_back_on_demand_alone(tmp_path):
    folder = tmp_path / "t"
    two_weights(folder)
    withdraw(folder, "other", "a bug")
    before = content(folder)
    with pytest.raises(InputError, match=r"other on 2 .* was withdrawn on \d{4}-.* \(a bug\)"):
        publish([entry("other", "bb")], folder, add=True)
    assert content(folder) == before
    # Other weights of the model are another claim.
    assert ("added", "other", 2) in put(folder, entry("other", "bb", **OTHER), add=True)
    assert ("added", "other", 2) in put(folder, entry("other", "bb"), add=True, replace=True)


def test_publishing_leaves_withdrawn_rows_as_they_are(tmp_path):
    folder = tmp_path / "t"
    two_weights(folder)
    withdraw(folder, "other", "a bug")
    before = content(folder)
    put(folder, entry("new", "cc"), add=True)
    after = content(folder)
    for name in ("withdrawn.csv", "withdrawn.parquet"):
        assert after[name] == before[name]
    assert "other" not in after["README.md"].decode()


def test_a_row_that_comes_back_is_withdrawn_no_more(tmp_path):
    folder = tmp_path / "t"
    two_weights(folder)
    (back,) = [one for one in read_folder(folder) if one.row["model"] == "other"]
    withdraw(folder, "other", "a mistake")
    with pytest.raises(InputError, match="was withdrawn"):
        put(folder, back, add=True)
    assert len(read_withdrawn(folder)) == 1
    put(folder, back, add=True, replace=True)
    assert read_withdrawn(folder) == []
    assert "withdrawn.parquet" not in content(folder)
    # Nothing is asked again.
    put(folder, back, add=True)


def test_rows_that_changed_meanwhile_are_not_withdrawn(tmp_path):
    folder = tmp_path / "t"
    two_weights(folder)
    old = read_folder(folder)
    put(folder, entry("other", "cc"), add=True)
    with pytest.raises(InputError, match="changed meanwhile"):
        withdraw_entries(folder, [one for one in old if one.row["model"] == "other"], "why")
    assert read_withdrawn(folder) == []


def test_a_damaged_file_of_withdrawn_rows_is_refused(tmp_path):
    two_weights(tmp_path / "t")
    withdraw(tmp_path / "t", "other", "a bug")
    path = tmp_path / "t" / "withdrawn.csv"
    path.write_text(path.read_text().replace("a bug", ""))
    with pytest.raises(InputError, match=r"withdrawn.csv, line 2: why is empty"):
        publish([entry("new", "cc")], tmp_path / "t", add=True)


# Corrections -----------------------------------------------------------------------------------


def corrected(before):
    """Return the evidence in which example 0 is broken by somebody's adversarial example."""
    broken = replace(verdict(0, "b"), attack="submitted")
    old = before.evidence
    return replace(
        old,
        verdicts=(broken, *old.verdicts[1:]),
        corrections=(Correction(0, "a paper", "2026-03-01T00:00:00+00:00"),),
    )


def test_a_correction_changes_one_row_and_names_its_source(tmp_path):
    folder = tmp_path / "t"
    put(folder, entry("m", "uu"), entry("n", "uc"))
    before = next(one for one in read_folder(folder) if one.row["model"] == "m")
    (change,) = correct(folder, before, corrected(before)).changes
    assert (change.kind, change.before) == ("replaced", before.row)
    after = next(one for one in read_folder(folder) if one.row["model"] == "m")
    assert after.row == change.row
    assert (before.row["empirical_accuracy"], after.row["empirical_accuracy"]) == (1.0, 0.5)
    assert after.row["corrections"] == "example 0 by a paper (2026-03-01)"
    assert after.evidence.verdicts[0].x_adv == verdict(0, "b").x_adv
    assert (
        "Corrected after publication: m: example 0 by a paper" in (folder / "README.md").read_text()
    )
    assert len(read_folder(folder)) == 2


def test_a_row_that_changed_meanwhile_is_not_corrected(tmp_path):
    folder = tmp_path / "t"
    put(folder, entry("m", "uu"))
    (before,) = read_folder(folder)
    put(folder, entry("m", "ub"))
    files = content(folder)
    with pytest.raises(InputError, match="changed meanwhile"):
        correct(folder, before, corrected(before))
    assert content(folder) == files


# Findings --------------------------------------------------------------------------------------


def finding(holds, weights_sha256="1" * 64):
    defect = 0.25 if holds else 1.0
    return Measured(
        "m", "digits", "lipschitz", "", "data", defect, 0.5, holds, "", weights_sha256, 1
    )


def test_a_claim_that_fails_keeps_the_rows_of_its_weights_apart(tmp_path):
    folder = tmp_path / "t"
    two_weights(folder)
    add_findings(folder, [finding(False), finding(True, "3" * 64)])
    flags = {one.row["weights_sha256"][0]: one.row["open_flags"] for one in read_folder(folder)}
    assert flags == {"1": "property_failed:lipschitz", "3": ""}
    # Findings stay, and those of weights that are measured again are replaced.
    add_findings(folder, [finding(True)])
    assert len(read_findings(folder / "properties.csv").measured) == 2
    assert {one.row["open_flags"] for one in read_folder(folder)} == {""}


def test_findings_go_with_the_last_row_of_their_weights(tmp_path):
    folder = tmp_path / "t"
    two_weights(folder)
    add_findings(folder, [finding(True), finding(True, "3" * 64)])
    before = read_findings(folder / "properties.csv").measured
    # A withdrawn row may come back.
    withdraw(folder, "m@3", "a bug")
    put(folder, entry("new", "cc"), add=True)
    assert read_findings(folder / "properties.csv").measured == before
    result = publish([entry("m", "cc", **OTHER)], folder, replace=True)
    assert folder / "properties.csv" in result.paths
    left = read_findings(folder / "properties.csv").measured
    assert [one.weights_sha256 for one in left] == ["3" * 64]


# The command -----------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    add_to(Store(tmp_path / "a.sqlite"), *parts((0, 6))).close()
    add_to(Store(tmp_path / "b.sqlite"), *parts((6, 10)), evidence("n", "cccc")).close()

    def run(*arguments):
        line = ["leaderboard", "--to", "t", *arguments]
        return dynbench_here(line, tmp_path, monkeypatch, capsys)

    return run


def test_stores_are_merged_and_the_outcome_is_printed(command, tmp_path):
    result = command("--store", "a.sqlite")
    assert (result.returncode, result.stdout.splitlines()) == (
        0,
        [
            "added m on 6 examples of digits, L2 0.5: certified 33.3 %, empirical 50.0 %",
            "added 1 row",
            "t/digits-L2-0.5.csv",
            "t/digits-L2-0.5.parquet",
            "t/README.md",
        ],
    )
    result = command("--store", "a.sqlite", "--store", "b.sqlite")
    assert result.stdout.splitlines()[:3] == [
        "replaced m on 10 examples of digits, L2 0.5: certified 50.0 %, empirical 70.0 % "
        "(before: certified 33.3 %, empirical 50.0 %)",
        "added n on 4 examples of digits, L2 0.5: certified 100.0 %, empirical 100.0 %",
        "replaced 1, added 1 rows",
    ]
    refused(command("--store", "a.sqlite", "--add"), "m on 6 examples", "--replace")
    result = command("--store", "a.sqlite", "--replace")
    assert "dropped n on 4 examples" in result.stdout
    assert held(tmp_path / "t") == [("m", 6)]


def test_json_tells_the_same(command):
    command("--store", "a.sqlite")
    told = json.loads(command("--store", "b.sqlite", "--add", "--replace", "--json").stdout)
    assert [one["kind"] for one in told["changes"]] == ["added", "replaced"]
    assert [one["row"]["certified_rank"] for one in told["changes"]] == [1, 1]
    assert [one["row"]["n_examples"] for one in told["changes"]] == [4, 4]
    assert [(one["before"] or {}).get("n_examples") for one in told["changes"]] == [None, 6]
    assert told["files"] == ["t/digits-L2-0.5.csv", "t/digits-L2-0.5.parquet", "t/README.md"]


def test_a_row_is_withdrawn_by_a_command(command, tmp_path):
    command("--store", "b.sqlite")
    result = command("--remove", "n", "--why", "a bug")
    assert result.stdout.startswith("withdrawn n on 4 examples of digits")
    assert held(tmp_path / "t") == [("m", 4)]
    refused(command("--store", "b.sqlite", "--add"), "was withdrawn", "a bug")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--remove", "n"), "belong together"),
        (("--why", "n"), "belong together"),
        (("--remove", "n", "--why", "x", "--store", "a.sqlite"), "leave out --store"),
        (("--remove", "n", "--why", "x", "--add"), "leave out --store, --add and --replace"),
        (("--remove", "nothing", "--why", "x"), "nothing"),
        (("--store", "a.sqlite", "--store", "no.sqlite"), "no.sqlite"),
        (("--store", "a.sqlite", "--latex", "x.txt"), "x.txt"),
        ((), "dynbench.sqlite"),
    ],
)
def test_what_cannot_be_published_is_refused(arguments, words, command, tmp_path):
    command("--store", "b.sqlite")
    before = content(tmp_path / "t")
    refused(command(*arguments), words)
    assert content(tmp_path / "t") == before


def test_latex_is_of_the_tables_that_are_there(command, tmp_path):
    refused(command("--latex", "t.tex"), "holds no table")
    command("--store", "a.sqlite", "--latex", "first.tex")
    result = command("--latex", "second.tex")
    assert (result.returncode, result.stdout) == (0, "second.tex\n")
    first, second = ((tmp_path / f"{name}.tex").read_text() for name in ("first", "second"))
    assert first == second
    assert "\\toprule" in first


def test_sentences_name_a_row_and_its_bounds():
    attacked, bare = entry("m", "ccbu", eps=8 / 255), entry("m", "ccuu", attacks=())
    assert label(attacked.row) == "m on 4 examples of digits, L2 8/255"
    assert bracket(attacked.row) == "certified 50.0 %, empirical 75.0 %"
    assert bracket(bare.row) == "certified 50.0 %, not attacked"
    assert is_named(attacked.row, "m@1") and not is_named(attacked.row, "m@2")
