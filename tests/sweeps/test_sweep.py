"""Sweeps: what they run, what befalls their workers, and that nobody can see it in the store."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from oracles.digits_plugin import HONEST, UNSOUND, write_plugin

from robustbench_dyn import (
    InputError,
    Smoothing,
    ThreatModel,
    evaluate,
    evaluate_smoothed,
    load_dataset,
    load_model,
)
from robustbench_dyn.errors import RegistryError
from robustbench_dyn.reporting.leaderboard import leaderboard
from robustbench_dyn.results.store import Store
from robustbench_dyn.sweeps.engines import ENGINES, local, ray_cluster
from robustbench_dyn.sweeps.shards import Shard, run_shard
from robustbench_dyn.sweeps.sweep import Sweep, read_sweep, sweep

GOOD = {
    "models": ["linear"], "datasets": ["digits"], "n_examples": 60, "seeds": [0],
    "threat_models": [{"norm": "L2", "eps": [0.3, 0.6]}, {"norm": "Linf", "eps": ["8/255"]}],
    "attacks": "pgd,apgd-ce", "batch_size": 10, "examples_per_shard": 30,
}  # fmt: skip

SMOOTHED = {"name": "linear", "smoothing": {"sigma": 0.25, "n0": 20, "n": 100}}
OF_SMOOTHED = {
    "models": [SMOOTHED, "linear"], "threat_models": [{"norm": "L2", "eps": [0.1, 0.3]}],
    "n_examples": 16, "examples_per_shard": 8, "attacks": "pgd", "batch_size": 50,
}  # fmt: skip

# Kills its own process at the first forward of each process, as often as there are lives.
MORTAL = (
    HONEST
    + """
import os, signal
from pathlib import Path
CALLS = []

class Mortal(nn.Flatten):
    def forward(self, x):
        self.die()
        return x.flatten(1)

    def lipschitz_bound(self):
        return 1.0

    def die(self):
        CALLS.append(1)
        lives = list(Path(__file__).parent.glob("life-*"))
        if len(CALLS) > 12 and lives:
            # Of several workers only one can take this life.
            try:
                lives[0].unlink()
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

def build(input_shape, n_classes):
    return Classifier(Mortal(), nn.Linear(64, n_classes))
"""
)
DOOMED = HONEST.replace(
    "    return", "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n    return"
)
RAISING = HONEST.replace("    return", "    raise ValueError('no such luck')\n    return")


def content(**changes):
    return Sweep.model_validate(GOOD | changes)


def dump(path):
    """Return everything that a store holds, but for times."""
    with sqlite3.connect(path) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(verdicts)")]
        kept = ", ".join(column for column in columns if column != "seconds")
        verdicts = connection.execute(f"SELECT {kept} FROM verdicts ORDER BY 1, 2, 3").fetchall()
        records = connection.execute("SELECT * FROM evaluations ORDER BY key").fetchall()
        runs = connection.execute("SELECT * FROM runs ORDER BY 1, 2, 3").fetchall()
    connection.close()
    rows = [timeless(json.loads(run[3])) for run in runs]
    return verdicts, records, [run[:3] for run in runs], rows


def timeless(row):
    return {k: v for k, v in row.items() if k not in ("seconds", "evaluated_at")}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    write_plugin(folder / "linear")
    return folder


@pytest.fixture(scope="module")
def undisturbed(plugins, tmp_path_factory):
    """A sweep that nothing happened to: its store and its outcome."""
    store = tmp_path_factory.mktemp("sweep") / "s.sqlite"
    return store, sweep(content(), store, workers=2, plugins=(plugins,))


def test_a_sweep_gives_the_rows_that_single_evaluations_give(undisturbed, plugins):
    _, outcome = undisturbed
    assert not outcome.failed
    assert not outcome.unsound
    seen = [(row["norm"], row["eps"], row["n_examples"]) for row in outcome.rows]
    assert seen == [("L2", 0.3, 60), ("L2", 0.6, 60), ("Linf", 8 / 255, 60)]
    model = load_model("linear", dataset="digits", plugins=(plugins,))
    data = load_dataset("digits", n_examples=60)
    for row in outcome.rows:
        threat_model = ThreatModel(row["norm"], row["eps"])
        single = evaluate(model, data, threat_model, attacks="pgd,apgd-ce", batch_size=10)
        for column in ("clean_accuracy", "certified_accuracy", "empirical_accuracy"):
            assert row[column] == single.summary[column]


def test_a_second_sweep_computes_nothing(undisturbed, plugins):
    path, outcome = undisturbed
    before, store = dump(path), Store(path)
    costs = [store.costs(key, eps) for key in store.records() for eps in (0.3, 0.6, 8 / 255)]
    again = sweep(content(), path, workers=2, plugins=(plugins,))
    assert again.rows == outcome.rows
    assert dump(path) == before
    assert costs == [
        store.costs(key, eps) for key in store.records() for eps in (0.3, 0.6, 8 / 255)
    ]


def test_a_model_may_have_a_number_of_examples_of_its_own(plugins, tmp_path):
    write_plugin(tmp_path / "more" / "other")
    models = ["linear", {"name": "other", "n_examples": 25}]
    outcome = sweep(
        content(models=models, attacks="none"),
        tmp_path / "s.sqlite", workers=1, plugins=(plugins, tmp_path / "more"),
    )  # fmt: skip
    sizes = {(row["model"], row["n_examples"]) for row in outcome.rows}
    assert sizes == {("linear", 60), ("other", 25)}


def test_killed_workers_leave_no_trace(undisturbed, plugins, tmp_path):
    killed = []

    def kill(event, _n_shards):
        if event.state == "at work" and len(killed) < 6:
            for child in multiprocessing.active_children():
                child.kill()
            killed.append(event.shard)

    outcome = sweep(content(), tmp_path / "s.sqlite", workers=2, plugins=(plugins,), progress=kill)
    assert len(killed) == 6
    assert not outcome.failed
    assert [timeless(row)["empirical_accuracy"] for row in outcome.rows] == [
        row["empirical_accuracy"] for row in undisturbed[1].rows
    ]
    assert dump(tmp_path / "s.sqlite")[0] == dump(undisturbed[0])[0]


def test_an_interrupted_sweep_stops_its_workers_and_goes_on(undisturbed, plugins, tmp_path):
    store, reports = tmp_path / "s.sqlite", []

    def interrupt(event, _n_shards):
        reports.append(event)
        if len(reports) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(content(), store, workers=2, plugins=(plugins,), progress=interrupt)
    assert not multiprocessing.active_children()
    sweep(content(), store, workers=2, plugins=(plugins,))
    assert dump(store)[0] == dump(undisturbed[0])[0]


@pytest.mark.parametrize(
    ("code", "factor", "fate", "reason"),
    [
        (DOOMED, 1, "failed", "3 workers in a row"),
        (RAISING, 1, "failed", "no such luck"),
        (UNSOUND, 3, "unsound", "inside a certified ball"),
    ],
)
def test_a_bad_shard_harms_no_other(code, factor, fate, reason, plugins, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_PATIENCE", 3)
    folder = write_plugin(tmp_path / "bad", code, factor=factor)
    outcome = sweep(
        content(models=["bad", "linear"], examples_per_shard=None, batch_size=60,
                threat_models=[{"norm": "L2", "eps": [1.5]}], attacks="pgd"),
        tmp_path / "s.sqlite", workers=2, plugins=(plugins, folder),
    )  # fmt: skip
    (shard,) = getattr(outcome, fate)
    assert shard.model == "bad"
    assert reason in getattr(outcome, fate)[shard]
    assert [row["model"] for row in outcome.rows] == ["linear"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models": [SMOOTHED], "threat_models": [{"norm": "Linf", "eps": [0.1]}]},
            "linear~0.25 is a smoothed classifier.* has Linf only; add L2",
        ),
        ({"models": [SMOOTHED | {"smoothing": {"sigma": 0}}]}, "sigma=0 must be positive"),
        ({"models": [SMOOTHED | {"smoothing": {"sigma": 1, "n": 5}}]}, "n=5 draws prove nothing"),
        ({"models": [SMOOTHED | {"smoothing": {"sigma": 1, "m": 5}}]}, "'models.0.smoothing.m'"),
        (
            {"models": [SMOOTHED | {"smoothing": {"n": 50}}]},
            "'models.0.smoothing.sigma' is missing",
        ),
        ({"model": ["linear"]}, "unknown key 'model'"),
        ({"models": []}, "models"),
        ({"models": [{"name": "linear", "examples": 5}]}, "unknown key 'models.0.examples'"),
        ({"models": [{"name": "linear", "n_examples": 5000}]}, "5000, but digits has"),
        ({"n_examples": 0}, "n_examples"),
        ({"n_examples": 10_000}, r"has \d+ test examples"),
        ({"threat_models": [{"norm": "L3", "eps": [1]}]}, "norm"),
        ({"threat_models": [{"norm": "Linf", "eps": ["eight"]}]}, "eps"),
        ({"threat_models": [{"norm": "Linf", "eps": [8]}]}, "8/255, not 8"),
        ({"threat_models": [{"norm": "L2", "eps": [1]}] * 2}, "lists a norm twice"),
        ({"models": ["linaer"]}, "did you mean 'linear'"),
        ({"datasets": ["fashion_mnist"]}, "no weights for dataset 'fashion_mnist'"),
        ({"attacks": "pdg"}, "did you mean 'pgd'"),
        ({"certifiers": "crwon"}, "no certifier is called 'crwon'"),
    ],
)
def test_what_a_sweep_cannot_run_is_refused_before_it_starts(changes, message, plugins, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises((InputError, RegistryError), match=message):
        sweep(read_sweep(path), tmp_path / "s.sqlite", plugins=(plugins,))
    assert not (tmp_path / "s.sqlite").exists()


def test_engines_and_workers_are_checked(plugins, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no engine is called 'slurm'"):
        sweep(content(), tmp_path / "s.sqlite", engine="slurm", plugins=(plugins,))
    with pytest.raises(InputError, match="workers=0"):
        sweep(content(), tmp_path / "s.sqlite", workers=0, plugins=(plugins,))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'robustbench-dyn\[ray\]'"):
        list(ENGINES.get("ray")([], tmp_path / "s.sqlite", 1))


# Smoothed classifiers


@pytest.fixture(scope="module")
def smoothed(plugins, tmp_path_factory):
    store = tmp_path_factory.mktemp("smoothed") / "s.sqlite"
    return store, sweep(content(**OF_SMOOTHED), store, workers=2, plugins=(plugins,))


def votes(path):
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT example_id, stage, draws, counts FROM votes ORDER BY 1, 2"
        ).fetchall()
    connection.close()
    return rows


def test_a_smoothed_classifier_is_a_model_of_its_own_beside_its_network(smoothed, plugins):
    path, outcome = smoothed
    assert not outcome.failed
    board = leaderboard(Store(path))
    assert set(board["model"]) == {"linear", "linear~0.25"}
    rows = board[board["model"] == "linear~0.25"]
    assert set(rows["certifiers"]) == {"smoothing(n=100 alpha=0.001)"}
    assert set(rows["attacks"]) == {"eot-pgd"}
    assert set(rows["n_examples"]) == {16}
    assert len(outcome.rows) == len(board) == 4
    model = load_model("linear", dataset="digits", plugins=(plugins,))
    alone = evaluate_smoothed(
        model, load_dataset("digits", n_examples=16),
        [ThreatModel("L2", 0.1), ThreatModel("L2", 0.3)], Smoothing(0.25, n0=20, n=100),
        batch_size=50,
    )  # fmt: skip
    for evaluation in alone.evaluations:
        (row,) = (r for r in outcome.rows if r["model"] == "linear~0.25"
                  and r["eps"] == evaluation.threat_model.eps)  # fmt: skip
        for column in ("clean_accuracy", "certified_accuracy", "empirical_accuracy"):
            assert row[column] == evaluation.summary[column]
    assert 0 < rows["certified_accuracy"].min() < rows["certified_accuracy"].max()


def test_a_smoothed_classifier_takes_part_in_l2_alone(plugins, tmp_path):
    mixed = content(models=[SMOOTHED], n_examples=4, attacks="none")
    outcome = sweep(mixed, tmp_path / "s.sqlite", workers=1, plugins=(plugins,))
    assert {radii.norm for radii in mixed.threat_models} == {"L2", "Linf"}
    assert outcome.rows
    assert {row["norm"] for row in outcome.rows} == {"L2"}


def test_smoothed_shards_survive_their_workers_and_are_run_once(smoothed, plugins, tmp_path):
    path, outcome = smoothed
    killed = []

    def kill(event, _n_shards):
        if event.state == "at work" and len(killed) < 2:
            for child in multiprocessing.active_children():
                child.kill()
            killed.append(event.shard)

    store = tmp_path / "s.sqlite"
    sweep(content(**OF_SMOOTHED), store, workers=2, plugins=(plugins,), progress=kill)
    assert len(killed) == 2
    assert dump(store)[:3] == dump(path)[:3]
    assert votes(store) == votes(path)
    before = dump(path)
    again = sweep(content(**OF_SMOOTHED), path, workers=1, plugins=(plugins,))
    assert again.rows == outcome.rows
    assert dump(path) == before


def test_without_attacks_a_smoothed_classifier_is_certified_only(plugins, tmp_path):
    shard = Shard("linear", "digits", "L2", (0.1,), 0, 0, 8, attacks="none", batch_size=50,
                  plugins=(plugins,), smoothing=Smoothing(0.25, n0=20, n=100))  # fmt: skip
    path = tmp_path / "s.sqlite"
    key = run_shard(shard, path)
    store = Store(path)
    assert store.record(key)["attacks"] == []
    assert shard.matches(store.record(key))
    assert not replace(shard, smoothing=None).matches(store.record(key))
    assert "certified" in {verdict.status for verdict in store.verdicts(key, 0.1)}


def test_a_node_of_a_cluster_gets_the_votes_that_are_known(smoothed, plugins, tmp_path):
    path, _ = smoothed
    shard = Shard("linear", "digits", "L2", (0.1, 0.3), 0, 8, 16, smoothing=Smoothing(0.25))
    (tmp_path / "part.sqlite").write_bytes(ray_cluster._cached(Store(path), shard))
    assert votes(tmp_path / "part.sqlite") == [row for row in votes(path) if row[0] >= 8]
    names = {record["model"] for record in Store(tmp_path / "part.sqlite").records().values()}
    assert names == {"linear~0.25"}


# The command, and Ray


def command(folder, *arguments):
    script = "from robustbench_dyn.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, "sweep", *map(str, arguments)], cwd=folder, check=False,
        capture_output=True, text=True, timeout=300, env=os.environ | {"RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip


def test_ray_gives_the_same_records_though_its_workers_die(undisturbed, plugins, tmp_path):
    folder = write_plugin(tmp_path / "plugins" / "linear", MORTAL)
    for life in range(3):
        (folder / f"life-{life}").touch()
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(GOOD))
    result = command(tmp_path, "sweep.yaml", "--engine", "ray", "--workers", "2", "--store",
                     "s.sqlite", "--plugins", folder, "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not list(folder.glob("life-*"))
    found, expected = dump(tmp_path / "s.sqlite"), dump(undisturbed[0])
    # The two plugins differ in their code, so their keys differ, and nothing else does.
    assert sorted(verdict[1:] for verdict in found[0]) == sorted(v[1:] for v in expected[0])


def test_ray_gives_the_local_engines_records_byte_for_byte(undisturbed, plugins, tmp_path):
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(GOOD))
    options = ("sweep.yaml", "--engine", "ray", "--workers", "2", "--store", "s.sqlite")
    result = command(tmp_path, *options, "--plugins", plugins, "--json")
    assert result.returncode == 0, result.stderr
    assert dump(tmp_path / "s.sqlite") == dump(undisturbed[0])
    rows = json.loads(result.stdout)["rows"]
    assert [timeless(row) for row in rows] == [timeless(row) for row in undisturbed[1].rows]


def test_the_command_ends_with_the_exit_code_of_the_worst_shard(plugins, tmp_path):
    write_plugin(tmp_path / "plugins" / "raising", RAISING)
    write_plugin(tmp_path / "plugins" / "louder", UNSOUND, factor=3)
    few = GOOD | {"n_examples": 40, "examples_per_shard": 40, "attacks": "pgd",
                  "threat_models": [{"norm": "L2", "eps": [1.5]}]}  # fmt: skip
    for models, code, words in (
        (["linear"], 0, ""),
        (["linear", "raising"], 2, "no such luck"),
        (["linear", "louder", "raising"], 1, "inside a certified ball"),
    ):
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(few | {"models": models}))
        result = command(tmp_path, "sweep.yaml", "--plugins", plugins, "--plugins",
                         tmp_path / "plugins")  # fmt: skip
        assert result.returncode == code, result.stderr
        assert words in result.stderr
        assert "Traceback" not in result.stderr
        assert "linear" in result.stdout


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_workers_end_with_the_process_that_hands_out_the_work(plugins, tmp_path):
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(GOOD | {"attacks": "square"}))
    script = "from robustbench_dyn.cli import main; main()"
    driver = subprocess.Popen(
        [sys.executable, "-c", script, "sweep", "sweep.yaml", "--plugins", str(plugins)],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in driver.stderr:
        if "started" in line:
            break
    driver.kill()
    # The workers hold the pipe of stderr, too: it ends with the last of them.
    driver.communicate(timeout=120)
