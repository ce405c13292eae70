"""Ctrl-C: one line and exit code 130, whatever code it meets."""

import os
import signal
import subprocess
import sys
import time

import pytest

from robustbench_dyn import cli, interruption

SENTENCE = f"dynbench: {interruption.MESSAGE}\n"


@pytest.fixture
def listening():
    """Note Ctrl-C during a test, and leave no trace of it."""
    before = signal.getsignal(signal.SIGINT)
    interruption.listen()
    yield
    signal.signal(signal.SIGINT, before)
    interruption._heard[0] = False


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def raising_another_error():
    try:
        interrupt()
    except KeyboardInterrupt:
        raise ImportError("numpy cannot be imported") from None


@pytest.mark.parametrize("code", [interrupt, raising_another_error])
def test_ctrl_c_is_one_line_whatever_is_raised(code, listening, monkeypatch, capsys):
    monkeypatch.setattr(cli.settings, "read_settings", code)
    assert cli.run(["settings"]) == interruption.EXIT_CODE
    assert capsys.readouterr().err == SENTENCE


def test_an_error_without_ctrl_c_stays_one(listening, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli.failures.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cli.settings, "read_settings", lambda: 1 / 0)
    assert cli.run(["settings"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_ctrl_c_that_is_ignored_stays_ignored(listening):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption.listen()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


# The import of a module takes long; with "hide", it makes of Ctrl-C an error of its own.
SCRIPT = """
import sys, time

module, manner = sys.argv.pop(1), sys.argv.pop(1)

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name != module:
            return
        print("importing", file=sys.stderr, flush=True)
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            if manner == "hide":
                raise ImportError(name) from None
            raise

sys.meta_path.insert(0, Slow())
from robustbench_dyn.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "manner"), [("typer", "pass"), ("torch._C", "pass"), ("torch._C", "hide")]
)
def test_ctrl_c_during_an_import_is_one_line(module, manner, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, module, manner, "run", "--model", "lipflow"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", SENTENCE)


def test_the_package_is_a_command(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "robustbench_dyn", "run", "-h"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("Usage: dynbench run --model NAME [OPTIONS] [EPS...]\n")
