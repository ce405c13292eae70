"""Stores merged into one: which verdict stands, what is refused, and that the order is the same."""

import itertools
import json
import math
import random
import shutil
import sqlite3
from dataclasses import replace

import pytest
from oracles import halfspaces, points
from oracles.command import dynbench
from oracles.records import record

from robustbench_dyn import ThreatModel, evaluate_grid
from robustbench_dyn.attacks import PGD
from robustbench_dyn.errors import InputError, StoreError
from robustbench_dyn.results.conflicts import prevailing
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.exchange import merge_into, merge_stores
from robustbench_dyn.results.flags import COUPLED, REFUTED_BOUND
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.rows import row_of
from robustbench_dyn.results.spec import SmoothingSpec
from robustbench_dyn.results.store import Run, Store, Violation, Votes
from robustbench_dyn.results.verdicts import Outcome, Sign, Status, Step, Verdict

EPS = 0.5


def verdict(i=0, status=Status.UNDECIDED, *, eps=EPS, **facts):
    given = {
        Status.MISCLASSIFIED: {"prediction": 0},
        Status.BROKEN: {"attack": "pgd", "adversarial_distance": 0.4, "x_adv": b"adv"},
        Status.CERTIFIED: {"certifier": "lipschitz", "certified_radius": eps + 0.2},
        Status.UNDECIDED: {"reason": "survived pgd"},
        Status.ERROR: {"reason": "failed"},
    }[status]
    values = {"label": 1, "prediction": 1} | given | facts
    return Verdict(example_id=i, status=status, eps=eps, **values)


def certified(i=0, **facts):
    return verdict(i, Status.CERTIFIED, **facts)


def broken(i=0, **facts):
    return verdict(i, Status.BROKEN, **facts)


def same(first, second):
    return LAYOUTS["verdicts"].is_same(row_of("k", first), row_of("k", second))


WAITING = verdict(next_stage="square", reason="next: square")
STANDS = {
    "final before waiting": (verdict(), WAITING),
    "final error before waiting certificate": (
        verdict(status=Status.ERROR),
        certified(next_stage="square"),
    ),
    "broken before undecided": (broken(), verdict()),
    "certified before undecided": (certified(), verdict()),
    "undecided before error": (verdict(), verdict(status=Status.ERROR)),
    "misclassified before certified": (verdict(status=Status.MISCLASSIFIED), certified()),
    "nearer before farther": (broken(adversarial_distance=0.3), broken(x_adv=b"other")),
    "larger before smaller radius": (certified(certified_radius=0.9), certified()),
    "larger radius of undecided": (
        verdict(certifier="lipschitz", certified_radius=0.3),
        verdict(certifier="lipschitz", certified_radius=0.2, seconds=9.0),
    ),
    "longer trail": (
        certified(trail=(Step("a", Outcome.SURVIVED, EPS),)),
        certified(seconds=9.0),
    ),
}


@pytest.mark.parametrize("case", STANDS)
def test_the_stronger_verdict_stands_in_either_order(case):
    stronger, weaker = STANDS[case]
    assert prevailing(stronger, weaker) == stronger
    assert prevailing(weaker, stronger) == stronger
    assert prevailing(weaker, weaker) != stronger


def test_a_broken_verdict_keeps_the_radius_that_it_refutes():
    for pair in itertools.permutations((broken(), certified())):
        found = prevailing(*pair)
        assert (found.status, found.certified_radius, found.certifier) == (
            Status.BROKEN,
            0.7,
            "lipschitz",
        )


def some_verdicts():
    """Return verdicts of one example that differ in all that ranks them."""
    steps = (Step("a", Outcome.SURVIVED, EPS), Step("b", Outcome.FAILED, EPS, "why"))
    plain = [verdict(status=status) for status in Status]
    plain += [broken(adversarial_distance=0.3), broken(x_adv=None), broken(attack="square")]
    plain += [broken(certifier="c", certified_radius=0.2), broken(x_adv=b"other")]
    plain += [certified(certified_radius=0.8), certified(certifier="interval"), WAITING]
    plain += [verdict(certifier="c", certified_radius=r) for r in (0.1, 0.2)]
    return [replace(v, trail=steps[:n], seconds=float(n)) for v in plain for n in range(3)]


def test_the_order_of_three_verdicts_does_not_matter():
    pool, draw = some_verdicts(), random.Random(0)
    for _ in range(300):
        a, b, c = draw.sample(pool, 3)
        ways = [
            prevailing(prevailing(x, y), z) for x, y, z in itertools.permutations((a, b, c))
        ] + [prevailing(x, prevailing(y, z)) for x, y, z in itertools.permutations((a, b, c))]
        assert all(same(ways[0], way) for way in ways)


def test_the_last_one_wins_would_depend_on_the_order():
    a, b = some_verdicts()[:2]
    assert not same(a, b)
    assert same(prevailing(a, b), prevailing(b, a))


def write(path, verdicts=(), *, key="k", flags=(), runs=(), signs=(), costs=(), **facts):
    """Write a store of one evaluation; return its path."""
    store = Store(path)
    store.add_evaluation(key, record(key, attacks=("pgd",), certifiers=("lipschitz",), **facts))
    store.add_verdicts(key, verdicts)
    for cost in costs:
        store.add_verdicts(key, [], cost)
    store.add_flags(key, flags)
    store.add_signs(key, EPS, signs)
    for start, stop in runs:
        summary = {"model": "forged", "evaluated_at": f"2026-01-0{1 + start % 9}T00:00:00+00:00"}
        store.add_run(Run(key, EPS, start, stop - start, summary))
    store.close()
    return path


def contents(store, *, without=("costs",)):
    """Return all rows of a store, but for checksums."""
    return {
        table: sorted(map(repr, store.rows(table))) for table in LAYOUTS if table not in without
    }


def in_all_orders(paths, *, without=()):
    """Merge stores in every order; return one of the results, once all are the same."""
    found = []
    for order in itertools.permutations(paths):
        store = Store()
        merge_stores(order, store)
        found.append(store)
    assert all(contents(s, without=without) == contents(found[0], without=without) for s in found)
    return found[0]


@pytest.fixture
def three(tmp_path):
    steps = (Step("pgd", Outcome.SURVIVED, EPS),)
    return [
        write(
            tmp_path / "a.sqlite",
            [certified(0), broken(1), replace(verdict(2), trail=steps), verdict(3)],
            runs=[(0, 4)],
            signs=[Sign("zero_gradients", 0.5)],
            costs=[StageCost(EPS, "pgd", 4, 1, 8, 8, 1.0)],
        ),
        write(
            tmp_path / "b.sqlite",
            [certified(i) for i in range(4, 8)],
            runs=[(4, 8)],
            flags=["softmax_outputs"],
            signs=[Sign("zero_gradients", 0.75)],
            costs=[StageCost(EPS, "pgd", 4, 0, 8, 8, 2.0)],
        ),
        write(
            tmp_path / "c.sqlite",
            [certified(2), WAITING, broken(10)],
            runs=[(2, 3), (10, 11)],
        ),
    ]


def test_stores_are_merged_in_any_order(three):
    store = in_all_orders(three)
    statuses = [v.status for v in store.verdicts("k")]
    assert statuses[:3] == [Status.CERTIFIED, Status.BROKEN, Status.CERTIFIED]
    assert store.finished("k", EPS) == [range(8), range(10, 11)]
    assert store.flags("k") == ["softmax_outputs"]
    assert store.signs("k", EPS) == [Sign("zero_gradients", 0.75)]
    assert store.costs("k", EPS) == [StageCost(EPS, "pgd", 8, 1, 16, 16, 3.0)]


def test_rows_of_runs_are_made_anew_from_the_verdicts(three):
    store = in_all_orders(three)
    rows = {(r.first_example, r.n_examples): r.summary for r in store.runs()}
    assert sorted(rows) == [(0, 4), (0, 8), (2, 1), (4, 4), (10, 1)]
    whole = rows[0, 8]
    assert whole["certified_accuracy"] == 6 / 8
    assert whole["empirical_accuracy"] == 7 / 8
    # What a run said of itself is not taken over, and flags of the other store are told.
    assert whole["model"] == "k"
    assert all("softmax_outputs" in row["flags"] for row in rows.values())
    # Each row has the time of the last run that its examples are from.
    days = {examples: row["evaluated_at"][:10] for examples, row in rows.items()}
    assert days[0, 4] == "2026-01-03"
    assert days[4, 4] == days[0, 8] == "2026-01-05"


def test_the_later_of_two_runs_says_when(tmp_path):
    paths = [write(tmp_path / f"{name}.sqlite", [certified(0)]) for name in "ab"]
    for day, path in enumerate(paths, start=1):
        store = Store(path)
        store.add_run(Run("k", EPS, 0, 1, {"evaluated_at": f"2026-01-0{day}"}))
        store.close()
    (run,) = in_all_orders(paths).runs()
    assert run.summary["evaluated_at"] == "2026-01-02"


def test_a_run_with_a_verdict_missing_is_not_finished(tmp_path):
    path = write(tmp_path / "a.sqlite", [certified(0), certified(1)], runs=[(0, 2), (0, 3)])
    store = Store()
    merge_stores([path], store)
    assert store.finished("k", EPS) == [range(2)]


def test_each_source_is_told_what_it_brought(three):
    store = Store()
    found = merge_stores(three, store)
    assert [(m.path, m.evaluations, m.verdicts) for m in found] == [
        (three[0], 1, 4),
        (three[1], 0, 4),
        (three[2], 0, 2),
    ]
    before = contents(store, without=())
    assert [m.verdicts for m in merge_stores(three, store)] == [0, 0, 0]
    # Nothing new: not the costs either.
    assert contents(store, without=()) == before


def test_votes_and_violations_are_merged(tmp_path):
    paths = [tmp_path / "a.sqlite", tmp_path / "b.sqlite"]
    for path, draws, distance in zip(paths, (3, 5), (0.4, 0.3), strict=True):
        write(path)
        store = Store(path)
        store.add_votes("v", 0, "select", Votes(draws, (draws, 0), 0.5))
        store.add_violation("k", EPS, Violation(0, 0.7, distance, "pgd", "", b""))
        store.close()
    store = in_all_orders(paths)
    assert store.votes("v") == {(0, "select"): Votes(5, (5, 0), 0.5)}
    assert [v.adversarial_distance for v in store.violations("k")] == [0.3]


@pytest.mark.parametrize("eps", [EPS, 0.45])
def test_an_adversarial_example_inside_the_radius_of_another_store_is_kept(eps, tmp_path):
    paths = [
        write(tmp_path / "a.sqlite", [certified(0), certified(1)], runs=[(0, 2)]),
        write(tmp_path / "b.sqlite", [broken(1, eps=eps)]),
    ]
    store = in_all_orders(paths)
    (found,) = store.violations("k")
    assert found == Violation(1, 0.7, 0.4, "pgd", "", b"adv")
    assert store.runs() == []
    assert [len(m.violations) for m in merge_stores(paths, Store())] == [0, 1]


@pytest.mark.parametrize(
    ("facts", "flags", "theirs"),
    [
        # Beyond the radius, of a certificate that may be wrong, or that a flag voids.
        ({}, (), broken(1, eps=0.9, adversarial_distance=0.8)),
        (
            {"smoothing": SmoothingSpec(sigma=0.1, n0=1, n=10, alpha=0.1)},
            (),
            broken(1),
        ),
        ({}, [COUPLED], broken(1)),
    ],
)
def test_other_adversarial_examples_refute_nothing(facts, flags, theirs, tmp_path):
    paths = [
        write(tmp_path / "a.sqlite", [certified(1)], flags=flags, **facts),
        write(tmp_path / "b.sqlite", [theirs], flags=flags, **facts),
    ]
    assert in_all_orders(paths).violations("k") == []


@pytest.mark.parametrize("flag", [COUPLED, REFUTED_BOUND])
def test_certificates_that_a_flag_of_another_store_voids_are_left_out(flag, tmp_path):
    both = broken(2, certifier="lipschitz", certified_radius=0.1)
    a = write(tmp_path / "a.sqlite", [certified(0), certified(1), both], runs=[(0, 3)])
    b = write(tmp_path / "b.sqlite", [verdict(1)], runs=[(1, 2)], flags=[flag])
    c = write(tmp_path / "c.sqlite", [certified(5)], runs=[(5, 6)], flags=["softmax_outputs"])
    store = in_all_orders([a, b, c])
    assert [(v.example_id, v.status, v.certifier) for v in store.verdicts("k")] == [
        (1, Status.UNDECIDED, ""),
        (2, Status.BROKEN, ""),
    ]
    assert store.finished("k", EPS) == [range(1, 2)]
    assert sum(m.left_out for m in merge_stores([a, b, c], Store())) == 3


def test_the_record_with_more_facts_stands(tmp_path):
    paths = [write(tmp_path / "a.sqlite"), tmp_path / "b.sqlite"]
    known = Store(paths[0]).record("k")
    store = Store(paths[1])
    store.add_evaluation("k", replace(known, suite="standard", training_record="ab"))
    store.close()
    assert in_all_orders(paths).record("k").suite == "standard"


def damage(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE verdicts SET certified_radius = 0.9 WHERE example_id = 5")
    connection.close()


def relabel(path):
    store = Store(path)
    store.add_verdicts("k", [verdict(1, label=2, prediction=2)])
    store.close()


def respecify(path):
    path.unlink()
    write(path, [certified(7)], seed=9)


REFUSED = {
    "damaged": (damage, StoreError, "b.sqlite is damaged.*example_id 5"),
    "no store": (lambda path: path.write_text("text " * 500), StoreError, "b.sqlite"),
    "missing": (lambda path: path.unlink(), InputError, "no store .*b.sqlite"),
    "other labels": (relabel, StoreError, "labels 1 and 2 of example 1"),
    "other spec": (respecify, StoreError, "another evaluation"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("exists", [True, False])
def test_a_refused_store_leaves_the_target_as_it_was(case, exists, three, tmp_path):
    spoil, kind, words = REFUSED[case]
    target = tmp_path / "all" / "t.sqlite"
    target.parent.mkdir()
    if exists:
        write(target, [verdict(30)])
    before = target.read_bytes() if exists else None
    spoil(three[1])
    with pytest.raises(kind, match=words):
        merge_into(three, target)
    assert [path.name for path in target.parent.iterdir()] == (["t.sqlite"] if exists else [])
    assert before is None or target.read_bytes() == before


def test_a_store_is_not_merged_into_itself_or_twice(three):
    with pytest.raises(InputError, match="is the store that it is merged into"):
        merge_into(three, three[0])
    with pytest.raises(InputError, match="given twice"):
        merge_into([three[0], three[0].parent / "." / three[0].name], three[0].parent / "t.sqlite")


def test_sources_are_not_changed(three, tmp_path):
    before = [path.read_bytes() for path in three]
    merge_into(three, tmp_path / "t.sqlite")
    assert [path.read_bytes() for path in three] == before


def test_the_command_merges_stores(three, tmp_path):
    target = tmp_path / "t.sqlite"
    shutil.copy(three[2], target)
    done = dynbench("store", "merge", three[0], three[1], "--to", target, cwd=tmp_path)
    assert done.returncode == 0
    assert "a.sqlite: 0 new evaluations, 3 verdicts" in done.stdout
    assert Store(target).finished("k", EPS) == [range(8), range(10, 11)]


def test_a_folder_stands_for_the_stores_in_it(three, tmp_path):
    folder, target = tmp_path / "shards", tmp_path / "shards" / "all.sqlite"
    folder.mkdir()
    (folder / "notes.txt").write_text("of two machines")
    empty = dynbench("store", "merge", folder, "--to", target, cwd=tmp_path)
    assert (empty.returncode, "holds no store" in empty.stderr) == (2, True)
    for path in three:
        shutil.copy(path, folder)
    for _ in range(2):
        # The second time, the folder also holds the store that the others are merged into.
        done = dynbench("store", "merge", folder, "--to", target, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == len(three)
    assert Store(target).finished("k", EPS) == [range(8), range(10, 11)]


def test_the_command_ends_with_1_where_a_certificate_is_refuted(tmp_path):
    paths = [
        write(tmp_path / "a.sqlite", [certified(1)]),
        write(tmp_path / "b.sqlite", [broken(1)]),
    ]
    done = dynbench("store", "merge", *paths, "--to", tmp_path / "t.sqlite", cwd=tmp_path)
    assert done.returncode == 1
    assert "certifies example 1 within 0.7, and pgd fools the model at 0.4" in done.stdout


GRID = [ThreatModel("L2", eps) for eps in (0.1, 0.2)]
DISTANCES = (0.05, 0.12, 0.15, 0.25, 0.3, 0.08, 0.18, 0.4, 0.02, 0.22)


def shard(path, first, n_examples, **options):
    return evaluate_grid(
        halfspaces(),
        points(DISTANCES),
        GRID,
        first=first,
        n_examples=n_examples,
        attacks=[PGD(n_steps=5)],
        # Sums of whole batches: the last digit of a distance depends on the size of a batch.
        batch_size=2,
        store=path,
        **options,
    )


COUNTS = ("n_examples", "clean_accuracy", "certified_accuracy", "empirical_accuracy", "gap")
# The audit attacks a share of each run's certified examples, at least 6: of shards, more.
FOUND = ("example_id", "status", "certified_radius", "certifier", "adversarial_distance", "attack")


@pytest.mark.parametrize("audit_share", [0.0, 0.01, 1.0])
def test_two_shards_give_the_verdicts_of_one_run(audit_share, tmp_path):
    parts = [tmp_path / "a.sqlite", tmp_path / "b.sqlite"]
    for path, first in zip(parts, (0, 6), strict=True):
        shard(path, first, 6 if first == 0 else 4, audit_share=audit_share)
    whole = shard(tmp_path / "whole.sqlite", 0, 10, audit_share=audit_share)
    store = in_all_orders(parts)
    for evaluation in whole:
        key, eps = evaluation.key, evaluation.threat_model.eps
        assert store.finished(key, eps) == [range(10)]
        merged, alone = (
            [[getattr(v, name) for name in FOUND] + [v.x_adv] for v in verdicts]
            for verdicts in (store.verdicts(key, eps), evaluation.verdicts)
        )
        assert json.dumps(merged, default=repr) == json.dumps(alone, default=repr)
        row = store.run(key, eps, range(10)).summary
        assert {name: row[name] for name in COUNTS} == {
            name: evaluation.summary[name] for name in COUNTS
        }
        assert not math.isnan(row["ci_low"])


def test_a_shard_alone_is_not_the_whole_run(tmp_path):
    (found, _) = shard(tmp_path / "a.sqlite", 6, 4)
    assert [v.example_id for v in found.verdicts] == [6, 7, 8, 9]
    assert Store(tmp_path / "a.sqlite").finished(found.key, 0.1) == [range(6, 10)]
