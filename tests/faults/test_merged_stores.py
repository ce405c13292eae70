"""Merging stores that are damaged, or where the machine fails: all of a store, or nothing."""

import random

import pytest
from oracles.records import record

from robustbench_dyn.errors import StoreError
from robustbench_dyn.results import exchange
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.exchange import merge_into, merge_stores
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.store import Run, Store
from robustbench_dyn.results.verdicts import Status, Verdict


def certified(i):
    return Verdict(i, 1, 1, Status.CERTIFIED, 0.5, 0.7, "interval")


def write(path, ids, flags=()):
    store = Store(path)
    store.add_evaluation("k", record())
    store.add_verdicts("k", map(certified, ids), StageCost(0.5, "certify", len(ids)))
    store.add_flags("k", flags)
    store.add_run(Run("k", 0.5, ids[0], len(ids), {}))
    store.close()
    return path


def contents(store):
    return {table: sorted(map(repr, store.rows(table))) for table in LAYOUTS}


@pytest.fixture
def stores(tmp_path):
    first = write(tmp_path / "a.sqlite", range(40), flags=["softmax_outputs"])
    return [first, write(tmp_path / "b.sqlite", range(40, 80))]


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_store_is_refused_or_merged_as_it_was(seed, stores, tmp_path):
    whole = Store()
    merge_stores(stores, whole)
    draw = random.Random(seed)
    content = bytearray(stores[1].read_bytes())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(100, len(content))] ^= 1 << draw.randrange(8)
    stores[1].write_bytes(content)
    target = tmp_path / "t.sqlite"
    try:
        merge_into(stores, target)
    except StoreError:
        assert not target.exists()
    else:
        assert contents(Store(target)) == contents(whole)


def test_some_of_the_damage_is_refused(stores, tmp_path):
    content = stores[1].read_bytes()
    assert b"interval" in content
    stores[1].write_bytes(content.replace(b"interval", b"Interval", 1))
    with pytest.raises(StoreError, match=r"b.sqlite is damaged: in its table verdicts"):
        merge_into(stores, tmp_path / "t.sqlite")


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_a_merge_that_ends_early_leaves_the_target_as_it_was(error, stores, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(exchange, "renew_runs", fail)
    before = stores[0].read_bytes()
    with pytest.raises(type(error)):
        merge_into(stores[1:], stores[0])
    assert stores[0].read_bytes() == before
    monkeypatch.undo()
    merge_into(stores[1:], stores[0])
    assert Store(stores[0]).finished("k", 0.5) == [range(80)]
