"""Kills, signals and full disks in the middle of commands: what was written stays, all goes on."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import cache

import pytest
import yaml
from oracles.digits_plugin import write_plugin
from oracles.processes import Command
from oracles.stores import rows_in
from oracles.sweeps import SMALL, timeless

from robustbench_dyn.results.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs signals")]

COMMAND = [sys.executable, "-c", "from robustbench_dyn.cli import main; main()"]
OPTIONS = ["--dataset", "digits", "--plugins", ".", "--trust", "--store", "s.sqlite"]
RUN = [
    *["run", "--model", "linear", *OPTIONS, "--eps", "0.3", "--eps", "0.6", "--n-examples", "60"],
    *["--attacks", "apgd-ce,square", "--batch-size", "6", "--json"],
]
SMOOTH = [
    *["smooth", "--model", "linear", *OPTIONS, "--sigma", "0.25", "--eps", "0.2"],
    *["--n-examples", "10", "--n", "2000", "--batch-size", "50", "--json"],
]
SWEEP = [
    "sweep",
    "sweep.yaml",
    "--plugins",
    ".",
    "--trust",
    "--store",
    "s.sqlite",
    "--workers",
    "2",
    "--json",
]
COMMANDS = {"run": RUN, "smooth": SMOOTH, "sweep": SWEEP}


def start(command, folder):
    return Command(command, folder)


def prepared(folder):
    write_plugin(folder / "linear")
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


def content(folder):
    """Return all that a store holds, without times, passes and costs, which kills add to."""
    store = Store(folder / "s.sqlite")
    assert store.check() == []
    verdicts = [
        (key, v.example_id, v.eps, v.status, repr(v.certified_radius), v.attack, v.trail, v.x_adv)
        for key in sorted(store.records())
        for v in store.verdicts(key)
    ]
    costly = ("forward_passes", "backward_passes")
    rows = [
        {k: v for k, v in timeless(run.summary).items() if k not in costly} for run in store.runs()
    ]
    store.close()
    return verdicts, json.dumps(rows)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """Return, for the name of a command, how long it takes without faults, and what it stores."""

    @cache
    def without_faults(name):
        folder = prepared(tmp_path_factory.mktemp(name))
        started = time.monotonic()
        finish(COMMANDS[name], folder)
        return time.monotonic() - started, content(folder)

    return without_faults


def wait_for_verdicts(folder, process, n):
    """Wait until a store holds n more rows of verdicts or votes, or the process has ended."""
    counted = folder / "s.sqlite", "verdicts", "votes"
    before = rows_in(*counted)
    while process.poll() is None and rows_in(*counted) < before + n:
        time.sleep(0.02)


def children(process):
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def finish(command, folder):
    process = start(command, folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("name", COMMANDS)
def test_kills_at_random_moments_change_nothing(name, quiet, tmp_path):
    seconds, expected = quiet(name)
    folder, draw, killed = prepared(tmp_path), random.Random(name), 0
    for after in (0, 1, 20):
        process = start(COMMANDS[name], folder)
        wait_for_verdicts(folder, process, after)
        time.sleep(draw.uniform(0, 0.05 * seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    finish(COMMANDS[name], folder)
    assert killed > 0
    assert content(folder) == expected


def test_killed_workers_of_a_sweep_change_nothing(quiet, tmp_path):
    folder = prepared(tmp_path)
    process = start(SWEEP, folder)
    for after in (1, 20):
        wait_for_verdicts(folder, process, after)
        for pid in children(process)[-1:]:
            os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert content(folder) == quiet("sweep")[1]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("run", signal.SIGTERM),
        ("run", signal.SIGINT),
        ("run", signal.SIGHUP),
        ("sweep", signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_command_which_goes_on_later(number, name, quiet, tmp_path):
    folder = prepared(tmp_path)
    process = start(COMMANDS[name], folder)
    wait_for_verdicts(folder, process, 1)
    workers = children(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 1, errors
    assert "Traceback" not in errors
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    finish(COMMANDS[name], folder)
    assert content(folder) == quiet(name)[1]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Full disks


@pytest.mark.parametrize("kib", [60])
def test_a_limit_on_file_sizes_is_told_and_nothing_lost(kib, quiet, tmp_path):
    def limit():
        # Without the signal, a write fails as it does on a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024))

    folder = prepared(tmp_path)
    process = subprocess.run(
        [*COMMAND, *RUN],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=limit,
    )
    errors = process.stderr
    assert process.returncode == 2, errors
    assert errors.strip().splitlines()[-1].startswith("dynbench: the store s.sqlite failed")
    assert "is kept" in errors
    finish(RUN, folder)
    assert content(folder) == quiet("run")[1]


FULL = """
mount -t tmpfs -o size=$1k tmpfs "$2/small" || exit 77
cd "$2/small" && cp -r ../linear . && shift 2 && "$@"; code=$?
cp s.sqlite .. 2>/dev/null; exit $code
"""


@pytest.mark.parametrize("kib", [80])
def test_a_full_disk_is_told_and_nothing_lost(kib, quiet, tmp_path):
    folder = prepared(tmp_path)
    (folder / "small").mkdir()
    command = ["unshare", "-m", "sh", "-c", FULL, "sh", str(kib), str(folder), *COMMAND, *RUN]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if found.returncode == 77 or "unshare" in found.stderr:
        pytest.skip("mounts are not allowed here")
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    finish(RUN, folder)
    assert content(folder) == quiet("run")[1]
