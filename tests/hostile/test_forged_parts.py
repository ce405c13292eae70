"""Parts of a sweep on a cluster: planted, linked, forged. None is merged; an honest one is."""

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from oracles.digits_plugin import HONEST, write_plugin
from oracles.sweeps import dump

from robustbench_dyn.errors import OutputError, StoreError
from robustbench_dyn.plugins import discovery, load_plugins
from robustbench_dyn.results.exchange import merge
from robustbench_dyn.results.layouts import LAYOUTS
from robustbench_dyn.results.schema import SCHEMA_VERSION
from robustbench_dyn.results.store import Store
from robustbench_dyn.sweeps.engines import ray_cluster
from robustbench_dyn.sweeps.engines.ray_cluster import private_folder
from robustbench_dyn.sweeps.shards import Shard, run_shard

TOKEN = "0123456789abcdef"
SHARD = Shard("linear", "digits", "L2", (0.6, 0.3), 0, 0, 12, attacks="apgd-ce", batch_size=12)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    return (write_plugin(tmp_path_factory.mktemp("plugins") / "linear", HONEST).parent,)


@pytest.fixture
def shard(plugins):
    load_plugins(*plugins)
    return replace(SHARD, plugins=plugins)


@pytest.fixture(scope="module")
def honest(plugins, tmp_path_factory):
    """What a node sends back for the shard: the state, the key and the part."""
    shard, store = replace(SHARD, plugins=plugins), Store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("node")))
        patch.setattr(discovery, "_registered", [*discovery._registered])
        load_plugins(*plugins)
        return ray_cluster._run_remotely(shard, ray_cluster._cached(store, shard), TOKEN)


@pytest.fixture
def node(tmp_path, monkeypatch):
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def contents(store):
    return [list(store.rows(table)) for table in LAYOUTS]


def edited(part, tmp_path, *statements, sign=True):
    """Return a part after edits; sign: with checksums that fit them, as a forger gives them."""
    path = tmp_path / "edited.sqlite"
    path.write_bytes(part)
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
        for table, layout in LAYOUTS.items() if sign else ():
            rows = connection.execute(layout.select).fetchall()
            connection.execute(f"DELETE FROM {table}")
            connection.executemany(
                f"INSERT {layout.insert}", [layout.signed(row[:-1]) for row in rows]
            )
    connection.close()
    return path.read_bytes()


def test_an_honest_part_gives_the_store_of_a_local_run(shard, honest, tmp_path):
    state, key, part = honest
    assert state == "done"
    store = Store(tmp_path / "ray.sqlite")
    assert ray_cluster._merged(store, shard, state, key, part).state == "done"
    run_shard(shard, tmp_path / "local.sqlite")
    assert dump(tmp_path / "ray.sqlite") == dump(tmp_path / "local.sqlite")
    # A part that brings back what the store has, with nothing new, is honest as well.
    before = contents(store)[:2]
    assert ray_cluster._merged(store, shard, state, key, part).state == "done"
    assert contents(store)[:2] == before


FORGED = {
    "another label": ["UPDATE verdicts SET label = 9 - label, prediction = 9 - prediction"],
    "a foreign example": ["UPDATE verdicts SET example_id = example_id + 12"],
    "a radius that was not asked for": ["UPDATE verdicts SET eps = 0.25 WHERE eps = 0.3"],
    "a status without evidence": ["UPDATE verdicts SET status = 'certified'"],
    "a status of no kind": ["UPDATE verdicts SET status = 'splendid'"],
    "another key": [
        f"UPDATE {table} SET key = '{'0' * 64}'" for table in LAYOUTS if table != "votes"
    ],
    "another model": ["UPDATE evaluations SET record = replace(record, 'linear', 'other')"],
    "another data set": ["UPDATE evaluations SET record = replace(record, 'digits', 'moons')"],
    "another seed": [
        "UPDATE evaluations SET record = replace(record, '\"seed\": 0', '\"seed\": 1')"
    ],
    "costs of another key": [f"UPDATE costs SET key = '{'1' * 64}'"],
    "votes of another key": ["INSERT INTO votes VALUES ('v', 0, 'select', 9, '[9]', 0.0, 0)"],
    "a flag of another key": ["INSERT INTO flags VALUES ('f', 'random_outputs', 0)"],
    "a counterexample to another": [
        "INSERT INTO violations SELECT key, 0.3, 99, 0.5, 0.2, 'pgd', '', NULL, 0 FROM evaluations"
    ],
    "a trigger": ["CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM verdicts; END"],
    "a further table": ["CREATE TABLE more (a)"],
    "another schema": [f"PRAGMA user_version = {SCHEMA_VERSION - 1}"],
}


@pytest.mark.parametrize("statements", FORGED.values(), ids=FORGED)
def test_a_forged_part_is_refused_and_nothing_merged(statements, shard, honest, tmp_path):
    state, key, part = honest
    store = Store()
    before = contents(store)
    event = ray_cluster._merged(store, shard, state, key, edited(part, tmp_path, *statements))
    assert event.state == "failed"
    assert "is refused" in event.message
    assert "\n" not in event.message
    assert contents(store) == before


def test_edits_without_a_new_checksum_are_refused(shard, honest, tmp_path):
    state, key, part = honest
    edit = "UPDATE verdicts SET certified_radius = 9.0 WHERE certified_radius > 0"
    forged = edited(part, tmp_path, edit, sign=False)
    event = ray_cluster._merged(Store(), shard, state, key, forged)
    assert (event.state, "is damaged" in event.message) == ("failed", True)


@pytest.mark.parametrize("content", [b"no database at all", b"\0" * 5000])
def test_what_is_no_store_is_refused(content, shard):
    event = ray_cluster._merged(Store(), shard, "done", "k", content)
    assert event.state == "failed"


def test_a_part_that_lacks_verdicts_is_not_done(shard, honest, tmp_path):
    state, key, part = honest
    short = edited(part, tmp_path, "DELETE FROM verdicts WHERE example_id = 3")
    event = ray_cluster._merged(Store(), shard, state, key, short)
    assert (event.state, "are missing" in event.message) == ("failed", True)


def test_a_row_of_a_run_is_made_anew_and_not_believed(shard, honest, tmp_path):
    state, key, part = honest
    forged = edited(
        part, tmp_path, "UPDATE runs SET summary = json_set(summary, '$.certified_accuracy', 1.0)"
    )
    store = Store()
    assert ray_cluster._merged(store, shard, state, key, forged).state == "done"
    (at_03, _) = (run.summary["certified_accuracy"] for run in store.runs())
    certified = [v.status.value == "certified" for v in store.verdicts(key, 0.3)]
    assert at_03 == sum(certified) / len(certified) < 1


# Files on a node


def test_a_planted_file_is_never_read(shard, honest, node):
    # Where parts lay once, under a name that can be computed; all certified.
    old = node / "dynbench-parts"
    old.mkdir()
    for name in ("a", "b"):
        (old / f"{name}.sqlite").write_bytes(b"planted")
    state, _, part = ray_cluster._run_remotely(
        shard, ray_cluster._cached(Store(), shard), "another"
    )
    assert state == "done"
    assert b"planted" not in part
    assert {path.name for path in node.iterdir()} == {"dynbench-parts"}


def test_a_file_behind_a_link_is_neither_read_nor_written(shard, honest, node, tmp_path):
    cached = ray_cluster._cached(Store(), shard)
    ray_cluster._run_remotely(shard, cached, TOKEN)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = private_folder(node / f"dynbench-{TOKEN}")
    names = []
    write = ray_cluster.write_bytes

    def noted(path, content):
        names.append(path)
        write(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_cluster, "write_bytes", noted)
        ray_cluster._run_remotely(shard, cached, TOKEN)
    folder = private_folder(folder)
    names[0].symlink_to(victim)
    state, message, part = ray_cluster._run_remotely(shard, cached, TOKEN)
    assert (state, part) == ("failed", b"")
    assert "remove it" in message
    assert victim.read_bytes() == b"precious"


def test_a_folder_of_others_is_refused(shard, node):
    folder = node / f"dynbench-{TOKEN}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    state, message, _ = ray_cluster._run_remotely(shard, b"", TOKEN)
    assert (state, "not a folder of this user alone" in message) == ("failed", True)
    folder.rmdir()
    elsewhere = node / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="not a folder of this user alone"):
        private_folder(folder)


def test_the_folder_is_private_and_goes_on_after_a_death(shard, honest, node):
    folder = private_folder(node / f"dynbench-{TOKEN}")
    assert folder.stat().st_mode & 0o777 == 0o700
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_cluster, "try_shard", lambda _shard, path: die(path, seen))
        with pytest.raises(KeyboardInterrupt):
            ray_cluster._run_remotely(shard, ray_cluster._cached(Store(), shard), TOKEN)
    # What the worker that died had done is there.
    Store(seen[0]).add_flags("k", ["seen"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_cluster, "try_shard", lambda _shard, path: ("failed", flags(path)))
        _, message, _ = ray_cluster._run_remotely(shard, b"", TOKEN)
    assert message == "['seen']"
    assert not folder.exists()


def die(path, seen):
    seen.append(Path(path))
    raise KeyboardInterrupt


def flags(path):
    return str(Store(path).flags("k"))


def test_merging_by_hand_checks_the_rows_too(honest, tmp_path):
    _, _, part = honest
    path = tmp_path / "part.sqlite"
    path.write_bytes(part)
    merge(Store(), path)
    damaged = edited(part, tmp_path, "UPDATE costs SET seconds = 1e9", sign=False)
    path.write_bytes(damaged)
    store = Store()
    with pytest.raises(StoreError, match="not what was written"):
        merge(store, path)
    assert contents(store) == contents(Store())
