"""Engines: their workers die, and the store does not show it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from oracles.digits_plugin import HONEST, write_plugin
from oracles.sweeps import SMALL, WITH_SMOOTHED, content, dump, timeless, votes

from robustbench_dyn import Smoothing
from robustbench_dyn.results.store import Store
from robustbench_dyn.sweeps.engines import local, ray_cluster
from robustbench_dyn.sweeps.shards import Shard
from robustbench_dyn.sweeps.sweep import sweep

DOOMED = HONEST.replace(
    "    return", "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n    return"
)
COMMAND = [sys.executable, "-c", "from robustbench_dyn.cli import main; main()", "sweep"]


@pytest.mark.slow
def test_killed_workers_leave_no_trace(smoothed, plugins, tmp_path):
    killed = []

    def kill(event, _n_shards):
        # All workers: twice while they smooth, and once while they attack the network.
        name = event.shard.name
        if event.state == "at work" and killed.count(name) < (2 if "~" in name else 1):
            for child in multiprocessing.active_children():
                child.kill()
            killed.append(name)

    store, (path, _) = tmp_path / "s.sqlite", smoothed
    outcome = sweep(
        content(**WITH_SMOOTHED), store, workers=2, plugins=(plugins,), trust=True, progress=kill
    )
    assert sorted(killed) == ["linear", "linear~0.25", "linear~0.25"]
    assert not outcome.failed
    assert dump(store) == dump(path)
    assert votes(store) == votes(path)


@pytest.mark.slow
def test_an_interrupted_sweep_stops_its_workers_and_goes_on(undisturbed, plugins, tmp_path):
    store, reports = tmp_path / "s.sqlite", []

    def interrupt(event, _n_shards):
        reports.append(event)
        if len(reports) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(content(), store, workers=2, plugins=(plugins,), trust=True, progress=interrupt)
    assert not multiprocessing.active_children()
    sweep(content(), store, workers=2, plugins=(plugins,), trust=True)
    assert dump(store)[0] == dump(undisturbed[0])[0]


@pytest.mark.slow
def test_a_shard_that_kills_its_workers_harms_no_other(plugins, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_PATIENCE", 2)
    folder = write_plugin(tmp_path / "doomed", DOOMED)
    outcome = sweep(
        content(
            models=["doomed", "linear"],
            examples_per_shard=None,
            attacks="pgd",
            threat_models=[{"norm": "L2", "eps": [1.5]}],
        ),
        tmp_path / "s.sqlite",
        workers=2,
        plugins=(plugins, folder),
        trust=True,
    )
    ((shard, reason),) = outcome.failed.items()
    assert shard.model == "doomed"
    assert "2 workers in a row" in reason
    assert [row["model"] for row in outcome.rows] == ["linear"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(plugins, tmp_path):
    # One attack that takes long: a worker that went on would end it.
    patient = SMALL | {
        "attacks": "square",
        "batch_size": 2,
        "threat_models": [{"norm": "L2", "eps": [0.6]}],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(patient))
    driver = subprocess.Popen(
        [*COMMAND, "sweep.yaml", "--plugins", str(plugins), "--trust", "--workers", "1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    path, deadline = tmp_path / "dynbench.sqlite", time.monotonic() + 120
    while not (path.exists() and pending(path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.kill()
    # The workers hold the pipe of stderr, too: it ends with the last of them.
    driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGKILL
    assert pending(path), "a worker went on until its shard was done"


def pending(path):
    store = Store(path)
    waiting = [v for key in store.records() for v in store.verdicts(key) if v.next_stage]
    store.close()
    return waiting


# Ray


@pytest.mark.slow
def test_ray_gives_the_same_bytes_though_its_workers_die(undisturbed, mortal, tmp_path):
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SMALL))
    result = subprocess.run(
        [
            *COMMAND,
            "sweep.yaml",
            "--engine",
            "ray",
            "--workers",
            "2",
            "--store",
            "s.sqlite",
            "--trust",
            "--plugins",
            str(mortal),
            "--json",
        ],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
    )
    assert result.returncode == 0, result.stderr
    assert not list(mortal.glob("life-*"))
    assert dump(tmp_path / "s.sqlite") == dump(undisturbed[0])
    # Ray itself tells on stdout that workers died.
    rows = json.loads(result.stdout[result.stdout.index("{\n") :])["rows"]
    assert [timeless(row) for row in rows] == [timeless(row) for row in undisturbed[1].rows]


def test_a_node_of_a_cluster_gets_the_votes_that_are_known(smoothed, tmp_path):
    path, _ = smoothed
    shard = Shard("linear", "digits", "L2", (0.1, 0.3), 0, 8, 16, smoothing=Smoothing(0.25))
    (tmp_path / "part.sqlite").write_bytes(ray_cluster._cached(Store(path), shard))
    assert votes(tmp_path / "part.sqlite") == [row for row in votes(path) if row[0] >= 8]
    names = {record.spec.model for record in Store(tmp_path / "part.sqlite").records().values()}
    assert names == {"linear~0.25"}
