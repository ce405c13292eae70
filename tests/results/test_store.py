"""The store against what befalls files: kills, full disks, rights, strangers' files."""

import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from threading import Barrier

import pytest
from oracles.records import record

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results import database, schema
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.exchange import copy_part, merge
from robustbench_dyn.results.layouts import LAYOUTS, Layout
from robustbench_dyn.results.schema import SCHEMA_VERSION
from robustbench_dyn.results.spec import Record, SmoothingSpec
from robustbench_dyn.results.store import Run, Store, Violation, Votes
from robustbench_dyn.results.verdicts import Outcome, Status, Step, Verdict


def verdict(example_id, **changes):
    values = {
        "example_id": example_id,
        "label": 1,
        "prediction": 1,
        "eps": 0.5,
        "status": Status.CERTIFIED,
        "certified_radius": 0.7,
        "certifier": "lipschitz",
    }
    return Verdict(**(values | changes))


def test_what_is_written_is_read_back(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.add_evaluation("k", record())
    broken = verdict(
        1,
        status=Status.BROKEN,
        certified_radius=float("nan"),
        certifier="",
        adversarial_distance=0.25,
        attack="pgd",
        x_adv=b"\0\1",
    )
    store.add_verdicts("k", [verdict(0), broken])
    store.close()
    first, second = Store(tmp_path / "s.sqlite").verdicts("k", 0.5)
    assert first.certified_radius == 0.7
    assert second.certified_radius != second.certified_radius
    assert (second.status, second.attack, second.x_adv) == (Status.BROKEN, "pgd", b"\0\1")


def test_the_state_of_an_example_is_read_back_as_data():
    store, trail = (
        Store(),
        (Step("a", Outcome.FAILED, 0.5, "E: x; next: b"), Step("b", Outcome.SURVIVED, 0.75)),
    )
    store.add_evaluation("k", record())
    waiting = verdict(0, status=Status.UNDECIDED, reason="-", next_stage="c", trail=trail)
    store.add_verdicts("k", [waiting])
    (found,) = store.verdicts("k")
    assert (found.next_stage, found.trail) == ("c", trail)
    assert found.trail[0].outcome is Outcome.FAILED


def test_flags_are_kept_once_and_go_with_copies_and_merges(tmp_path):
    store = Store()
    store.add_evaluation("k", record())
    store.add_flags("k", ["softmax_outputs"])
    store.add_flags("k", ["batch_coupled", "softmax_outputs"])
    assert store.flags("k") == ["batch_coupled", "softmax_outputs"]
    assert store.flags("other") == []
    copy_part(store, tmp_path / "part.sqlite", ["k"], range(1))
    part = Store(tmp_path / "part.sqlite")
    assert part.flags("k") == store.flags("k")
    part.add_flags("k", ["random_outputs"])
    part.close()
    merge(store, tmp_path / "part.sqlite")
    assert store.flags("k") == ["batch_coupled", "random_outputs", "softmax_outputs"]


def test_a_second_verdict_replaces_the_first():
    store = Store()
    store.add_evaluation("k", record())
    store.add_verdicts("k", [verdict(0, status=Status.UNDECIDED, certified_radius=0.4, reason="-")])
    store.add_verdicts("k", [verdict(0)])
    assert [v.status for v in store.verdicts("k")] == [Status.CERTIFIED]


def test_refuted_evaluations_have_no_runs():
    store = Store()
    store.add_evaluation("k", record())
    store.add_run(Run("k", 0.5, 0, 1, {"model": "m"}))
    assert len(store.runs()) == 1
    store.add_violation("k", 0.5, Violation(0, 0.7, 0.4, "pgd", "", b""))
    assert store.runs() == []


WRITER = """
import sys
from pathlib import Path
from robustbench_dyn.results.spec import EvaluationSpec, Record
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Status, Verdict
store = Store(Path(sys.argv[1]))
store.add_evaluation("k", Record(spec=EvaluationSpec(model="m", dataset="digits", norm="L2")))
for start in range(0, 10**9, 10):
    store.add_verdicts("k", [
        Verdict(example_id=i, label=0, prediction=0, eps=0.5, status=Status.UNDECIDED, reason="-")
        for i in range(start, start + 10)
    ])
    print(start, flush=True)
"""


def test_a_kill_loses_no_transaction_and_leaves_no_half_one(tmp_path):
    path = tmp_path / "s.sqlite"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(20):
        last = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    kept = [v.example_id for v in Store(path).verdicts("k")]
    assert len(kept) >= last + 10
    assert kept == list(range(len(kept)))
    assert len(kept) % 10 == 0


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_a_transaction_that_ends_before_its_block_began_writes_nothing(
    closed, tmp_path, monkeypatch
):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: ignored.append(found.exc_value))
    file = database.Database(tmp_path / "s.sqlite")
    # As Ctrl-C leaves it between the start of the transaction and that of the block.
    transaction = file.transaction()
    transaction.__enter__().execute("CREATE TABLE half (a)")
    if closed:
        file.close()
    del transaction
    gc.collect()
    assert ignored == []
    if not closed:
        with file.transaction():
            pass
        file.close()
    file = database.Database(tmp_path / "s.sqlite")
    names = file.connection.execute("SELECT name FROM sqlite_master").fetchall()
    file.close()
    assert ("verdicts",) in names
    assert ("half",) not in names


def test_a_full_disk_says_so_and_keeps_what_was_there(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.add_evaluation("k", record())
    store.add_verdicts("k", [verdict(0)])
    # SQLite's own way of running out of space.
    (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
    store.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"full.*kept"):
        store.add_verdicts("k", [verdict(i, x_adv=bytes(5000)) for i in range(1, 50)])
    assert [v.example_id for v in store.verdicts("k")] == [0]


def test_a_read_only_store_says_so(tmp_path):
    path = tmp_path / "s.sqlite"
    Store(path).close()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    store = Store(path)
    store.connection.close()
    store.connection = connection
    with pytest.raises(StoreError, match="readonly"):
        store.add_evaluation("k", record())
    store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_says_so(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="unable to open"):
            Store(tmp_path / "s.sqlite")
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_does_not_exist_says_so(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Store(tmp_path / "nowhere" / "s.sqlite")


@pytest.mark.parametrize("content", ["CREATE TABLE t (a)", "PRAGMA user_version = 99"])
def test_a_foreign_database_is_left_alone(tmp_path, content):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(content)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="no store of this version"):
        Store(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "text.sqlite"
    path.write_text("not a database, but long enough to look at" * 20)
    with pytest.raises(StoreError, match="not a database"):
        Store(path)


@pytest.mark.slow
def test_two_processes_may_write_at_once(tmp_path):
    path = tmp_path / "s.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    written = [[int(writer.stdout.readline()) for _ in range(20)] for writer in writers]
    for writer in writers:
        writer.kill()
        writer.communicate()
    assert written == [list(range(0, 200, 10))] * 2


def test_many_may_open_a_new_store_at_once(tmp_path):
    n = 8
    barrier = Barrier(n)

    def add(path, i):
        barrier.wait()
        store = Store(path)
        store.add_evaluation("k", record())
        store.add_verdicts("k", [verdict(i)])
        store.close()

    for attempt in range(10):
        path = tmp_path / f"{attempt}.sqlite"
        with ThreadPoolExecutor(n) as pool:
            list(pool.map(add, [path] * n, range(n)))
        assert [v.example_id for v in Store(path).verdicts("k")] == list(range(n))


# As version 0.1 wrote it, of a network and of a smoothed classifier.
FLAT = {
    "model": "m",
    "family": "flow",
    "dataset": "digits",
    "norm": "L2",
    "seed": 3,
    "batch_size": 50,
    "attacks": ["pgd", "square"],
    "attacks_on_signs": ["rays"],
    "certifiers": ["lipschitz"],
    "parameters": 7,
    "lipschitz_bound": 1.5,
    "not_applicable": {"complete": "too large"},
    "stage_versions": {"pgd": 2},
    "cascade_version": 8,
}
SMOOTHED = FLAT | {
    "model": "m~0.1",
    "sigma": 0.1,
    "n0": 10,
    "n": 100,
    "alpha": 0.01,
    "smoothing_version": 2,
    "certifiers": ["smoothing(n=100 alpha=0.01)"],
    "votes_key": "v",
}


# Rows of later files have checksums.
@pytest.mark.parametrize("version", range(1, 8))
def test_an_older_file_is_upgraded_and_keeps_its_content(version, tmp_path, monkeypatch):
    path = tmp_path / "old.sqlite"
    with monkeypatch.context() as past:
        past.setattr(schema, "_STEPS", schema._STEPS[:version])
        past.setattr(schema, "SCHEMA_VERSION", version)
        past.setattr(database, "SCHEMA_VERSION", version)
        old = Store(path)
        rows = [
            (0, "certified", 0.7, "lipschitz", ""),
            (1, "undecided", None, "", "next: fab-t; apgd-t failed: RuntimeError: next: square"),
            (2, "undecided", None, "lipschitz" if version < 6 else "", "next: square"),
            (3, "undecided", None, "", "survived pgd"),
        ]
        with old.connection as connection:
            connection.executemany(
                "INSERT INTO evaluations VALUES (?, ?)",
                [("k", json.dumps(FLAT)), ("s", json.dumps(SMOOTHED))],
            )
            connection.executemany(
                "INSERT INTO verdicts (key, eps, example_id, label, prediction, status, "
                "certified_radius, certifier, attack, reason, forward_passes, backward_passes, "
                "seconds) VALUES ('k', 0.5, ?, 1, 1, ?, ?, ?, '', ?, 0, 0, 0)",
                rows,
            )
        old.close()
    store = Store(path)
    assert store.version() == SCHEMA_VERSION > 1
    assert [v.example_id for v in store.verdicts("k")] == [0, 1, 2, 3]
    # An example that waited for an attack then still does; the reason told so.
    waiting = ["", "fab-t", "square", ""] if version < 4 else [""] * 4
    assert [v.next_stage for v in store.verdicts("k")] == waiting
    assert all(v.trail == () for v in store.verdicts("k"))
    # The certifier names what proved, and nothing else.
    assert [v.certifier for v in store.verdicts("k")] == ["lipschitz", "", "", ""]
    store.add_flags("k", ["batch_coupled"])
    assert store.flags("k") == ["batch_coupled"]
    store.add_verdicts("k", [verdict(4)], StageCost(0.5, "certify", 1, 1, 1, 0, 0.25))
    assert store.costs("k", 0.5) == [StageCost(0.5, "certify", 1, 1, 1, 0, 0.25)]
    store.add_votes("v", 0, "select", Votes(3, (2, 1, 0), 0.5))
    assert store.votes("v") == {(0, "select"): Votes(3, (2, 1, 0), 0.5)}


def store_of_schema_8(path, monkeypatch):
    """Write a store with three runs: one as it was written, one edited, one without checksum."""
    layout = Layout("runs", schema._RUNS_BEFORE_9, n_keys=3, expendable=True)
    with monkeypatch.context() as past:
        past.setattr(schema, "_STEPS", schema._STEPS[:8])
        past.setattr(schema, "LAYOUTS", {**LAYOUTS, "runs": layout})
        for module in (schema, database):
            past.setattr(module, "SCHEMA_VERSION", 8)
        old = Store(path)
    evaluation = LAYOUTS["evaluations"].signed(("k", record().to_json()))
    rows = [layout.signed(("k", 0.5, n, '{"model": "m"}')) for n in (3, 5, 7)]
    rows[1] = (*rows[1][:3], '{"model": "x"}', rows[1][4])
    rows[2] = (*rows[2][:4], None)
    with old.connection as connection:
        connection.execute("INSERT INTO evaluations VALUES (?, ?, ?)", evaluation)
        connection.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", rows)
    old.close()


def test_runs_of_older_files_begin_at_the_first_example(tmp_path, monkeypatch):
    path = tmp_path / "old.sqlite"
    store_of_schema_8(path, monkeypatch)
    store = Store(path)
    assert store.version() == SCHEMA_VERSION
    # What was damaged before the upgrade is damaged after it.
    assert [problem[:4] for problem in store.check(delete=True)] == ["runs"] * 3
    assert store.runs() == [Run("k", 0.5, 0, 3, {"model": "m"})]
    assert store.check() == []


def test_flat_records_of_older_files_become_typed(tmp_path, monkeypatch):
    path = tmp_path / "old.sqlite"
    with monkeypatch.context() as past:
        past.setattr(schema, "_STEPS", schema._STEPS[:5])
        past.setattr(schema, "SCHEMA_VERSION", 5)
        past.setattr(database, "SCHEMA_VERSION", 5)
        old = Store(path)
        with old.connection as connection:
            connection.executemany(
                "INSERT INTO evaluations VALUES (?, ?)",
                [("k", json.dumps(FLAT)), ("s", json.dumps(SMOOTHED))],
            )
        old.close()
    records = Store(path).records()
    network, smoothed = records["k"], records["s"]
    assert (network.parameters, network.lipschitz_bound) == (7, 1.5)
    assert network.not_applicable == {"complete": "too large"}
    spec = network.spec
    assert (spec.model, spec.family, spec.norm, spec.seed) == ("m", "flow", "L2", 3)
    assert [(a.name, a.version, a.gradient_free, a.only_on_signs) for a in spec.attacks] == [
        ("pgd", 2, False, False),
        ("square", 1, True, False),
        ("rays", 1, True, True),
    ]
    assert spec.smoothing is None
    assert smoothed.spec.smoothing == SmoothingSpec(sigma=0.1, n0=10, n=100, alpha=0.01)
    # The verdicts of an older version are read, and never taken for new ones.
    assert {"k", "s"}.isdisjoint({network.spec.key(), smoothed.spec.key()})


def test_the_key_of_a_record_depends_on_every_field():
    smoothing = SmoothingSpec(sigma=0.1, n0=10, n=100, alpha=0.01)
    first = record(certifiers=("smoothing",), smoothing=smoothing)
    assert Record.from_json(first.to_json()) == first
    spec, keys, votes = first.spec, {first.spec.key()}, {first.spec.votes_key()}
    for part in fields(spec):
        other = replace(spec, **{part.name: OTHER.get(part.name, "other")})
        keys.add(other.key())
        if part.name != "certifiers":
            votes.add(other.votes_key() or "none")
    assert len(keys) == 1 + len(fields(spec))
    # The settings and the version of each stage count, whatever its label says.
    for other in (
        replace(spec.attacks[0], settings={"n_steps": 7}),
        replace(spec.attacks[0], version=2),
    ):
        assert replace(spec, attacks=(other,)).key() not in keys
    # Votes depend on the weights, code, data, seed, precision, device, torch and the noise.
    assert len(votes) == 1 + 8 + 1


OTHER = {
    "smoothing": None,
    "attacks": (),
    "attacks_if_random": (),
    "certifiers": (),
    "seed": 1,
    "batch_size": 3,
    "audit_share": 0.5,
}


def test_votes_only_grow_also_by_merging(tmp_path):
    store, other = Store(), Store(tmp_path / "other.sqlite")
    for kept, draws in ((store, 4), (store, 2), (other, 3)):
        kept.add_votes("v", 0, "select", Votes(draws, (draws, 0), 0.5))
    other.add_votes("v", 1, "estimate", Votes(5, (5, 0), 0.5))
    other.close()
    merge(store, tmp_path / "other.sqlite")
    assert store.votes("v") == {
        (0, "select"): Votes(4, (4, 0), 0.5),
        (1, "estimate"): Votes(5, (5, 0), 0.5),
    }
    assert store.votes("w") == {}


def test_costs_add_up_over_runs():
    store = Store()
    store.add_evaluation("k", record())
    store.add_verdicts("k", [verdict(0)], StageCost(0.5, "certify", 1, 1, 1, 0, 0.25))
    store.add_verdicts("k", [verdict(1)], StageCost(0.5, "certify", 2, 0, 2, 1, 0.5))
    store.add_verdicts("k", [verdict(2)])
    assert store.costs("k", 0.5) == [StageCost(0.5, "certify", 3, 1, 3, 1, 0.75)]
    assert store.costs("k", 0.25) == []


def test_a_copy_seeds_a_store_that_is_merged_back(tmp_path):
    store = Store()
    for key in ("k", "other"):
        store.add_evaluation(key, record(key))
        store.add_verdicts(key, [verdict(0)], StageCost(0.5, "certify", 1, 1, 1, 0, 0.25))
        store.add_run(Run(key, 0.5, 0, 1, {"model": key}))
    part = tmp_path / "part.sqlite"
    copy_part(store, part, ["k"], range(10))
    there = Store(part)
    assert list(there.records()) == ["k"]
    assert there.costs("k", 0.5) == []
    there.add_verdicts("k", [verdict(1)], StageCost(0.5, "certify", 1, 1, 5, 0, 0.5))
    there.add_violation("k", 0.5, Violation(0, 0.7, 0.4, "pgd", "", b""))
    there.close()
    merge(store, part)
    assert [v.example_id for v in store.verdicts("k")] == [0, 1]
    assert [v.example_id for v in store.verdicts("other")] == [0]
    assert store.costs("k", 0.5) == [StageCost(0.5, "certify", 2, 2, 6, 0, 0.75)]
    assert len(store.violations("k")) == 1
    assert [run.key for run in store.runs()] == ["other"]


def test_what_is_no_store_is_not_merged(tmp_path):
    path = tmp_path / "text.sqlite"
    path.write_text("not a database, but long enough to look at" * 20)
    store = Store()
    with pytest.raises(StoreError, match="not a database"):
        merge(store, path)
    store.add_evaluation("k", record())
