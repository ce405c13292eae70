"""The benchmark of faults finds programs that lose results, and clears those that do not."""

import random
import signal
import sys

import fault_jobs
import fault_runs
import faults
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STEPS = """
import os, pathlib, signal, subprocess, sys, time
out = pathlib.Path("out")
{start}
for i in range(8):
    path = out / str(i)
    if path.exists() and path.read_text() == f"new {{i}}":
        continue
    time.sleep(0.02)
    {write}
"""
WHOLE = 'pathlib.Path("out/.part").write_text(f"new {i}"); pathlib.Path("out/.part").replace(path)'
IN_PLACE = 'f = path.open("w"); f.write("new"); f.flush(); time.sleep(0.02); f.write(f" {i}")'
PROGRAMS = {
    "honest": ("", WHOLE),
    "forgetful": ("[path.unlink() for path in out.iterdir()]", WHOLE),
    "different each time": ("", f"i = os.getpid(); {WHOLE}"),
    "in place": ("", f"{IN_PLACE}; f.close()"),
    "leaves a child": (
        'subprocess.Popen(["sleep", "2"], start_new_session=True)',
        WHOLE,
    ),
    "never ends": (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        f"{WHOLE}\n    time.sleep(0.2)",
    ),
}


def job(kind):
    start, write = PROGRAMS[kind]
    return fault_jobs.Job(
        name=kind,
        arguments=(STEPS.format(start=start, write=write),),
        prepare=lambda folder: [
            (folder / "out").mkdir(),
            [(folder / "out" / str(i)).write_text(f"old {i}") for i in range(8)],
        ],
        find=fault_jobs.find_files("out"),
        progress=fault_jobs.files_written,
        output="out/0",
        replaces=True,
        program=(sys.executable, "-S", "-c"),
    )


@pytest.fixture
def strike(tmp_path, monkeypatch):
    """Return a function that strikes a program, and waits for nothing longer than half a second."""

    def struck(kind, number, *, tries):
        row = faults.Row(number.name, kind)
        experiment = faults.Experiment(job(kind), row, random.Random(0), tmp_path)
        experiment.measure(None)
        monkeypatch.setattr(fault_runs, "ORPHANED_AFTER_SECONDS", 0.3)
        monkeypatch.setattr(fault_runs, "HUNG_AFTER_SECONDS", 0.4)
        experiment.repeat(tries, fault_runs.send(number))
        return row

    return struck


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_honest_program_survives_every_fault(strike, number):
    row = strike("honest", number, tries=4)
    assert (row.tried, row.survived) == (4, 4)
    assert row.lost == row.unequal == row.half_written == row.corrupt == row.orphans == 0
    assert row.at_work > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number", "harm"),
    [
        ("forgetful", signal.SIGKILL, "lost"),
        ("different each time", signal.SIGKILL, "unequal"),
        ("in place", signal.SIGKILL, "half_written"),
        ("leaves a child", signal.SIGKILL, "orphans"),
        ("never ends", signal.SIGTERM, "hung"),
    ],
)
def test_a_program_that_does_harm_is_found(strike, kind, number, harm):
    # A kill that comes too late finds nothing.
    row = strike(kind, number, tries=2 if kind in ("leaves a child", "never ends") else 6)
    assert getattr(row, harm) > 0
    assert row.survived < row.tried


def test_shares_are_fair_and_complete():
    assert faults.shares(200, 7) == [29, 29, 29, 29, 28, 28, 28]
    assert faults.shares(2, 3) == [1, 1, 0]
