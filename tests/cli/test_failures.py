"""Ends of a command: every error is one line on stderr with its exit code."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from oracles.command import dynbench, dynbench_here, refused
from oracles.digits_plugin import HONEST, write_plugin

from robustbench_dyn import cli
from robustbench_dyn.cli import failures
from robustbench_dyn.cli.output import print_json, print_result, reserving_stdout
from robustbench_dyn.errors import InputError, SoundnessError


class MuteError(Exception):
    def __str__(self):
        raise ValueError("no message either")


def endless():
    return endless()


def run(monkeypatch, command):
    """Run a function as a command; return the exit code."""
    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    app.command("do")(reserving_stdout(command))
    monkeypatch.setattr(cli, "command", lambda: typer.main.get_command(app))
    return cli.run(["do"])


def raising(error):
    def command():
        raise error

    return command


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.csv")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (SoundnessError("1 attack landed", []), 1, "soundness violation: 1 attack landed"),
        (InputError("eps=7 is\nwide"), 2, "eps=7 is wide"),
        (KeyboardInterrupt(), 130, "interrupted; finished work is kept, and the same command"),
        (SystemExit(0), 2, r"called sys.exit\(0\) before there was a result"),
        (SystemExit(), 2, r"called sys.exit\(\) before"),
        (NO_SPACE, 2, "out.csv cannot be used: No space left"),
        (MemoryError(), 2, r"the machine failed \(MemoryError\)"),
        (
            RuntimeError("a [/b] \x1b[31m\r\n bug"),
            70,
            r"RuntimeError: a \[/b\] \\x1b\[31m bug; det",
        ),
        (RuntimeError("x" * 10**7), 70, "internal error: RuntimeError: xxx"),
        (MuteError(), 70, "internal error: MuteError: no message; details in"),
        (KeyError("x"), 70, "internal error: KeyError: 'x'; details in .*; please report it"),
        (GeneratorExit(), 70, "internal error: GeneratorExit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line_with_its_code(error, code, words, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert run(monkeypatch, raising(error)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match(f"dynbench: .*{words}", printed.err)
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 3000


def test_a_command_that_ends_well_exits_0(monkeypatch, capsys):
    assert run(monkeypatch, lambda: print_result("the answer")) == 0
    assert capsys.readouterr() == ("the answer\n", "")


def test_endless_recursion_is_one_line(monkeypatch, capsys):
    assert run(monkeypatch, endless) == 70
    assert re.fullmatch("dynbench: internal error: RecursionError: .*\n", capsys.readouterr().err)


def test_details_of_an_internal_error_are_in_a_private_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["dynbench", "run", "--model", "a b"])
    run(monkeypatch, raising(RuntimeError("a bug")))
    (path,) = tmp_path.iterdir()
    assert str(path) in capsys.readouterr().err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    for part in ("dynbench run --model 'a b'", "Traceback", "a bug", "Python 3", "torch 2"):
        assert part in text


def test_a_full_disk_does_not_hide_an_internal_error(monkeypatch, capsys):
    monkeypatch.setattr(failures.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(NO_SPACE))
    assert run(monkeypatch, raising(RuntimeError("a bug"))) == 70
    assert "RuntimeError: a bug; details in no file (OSError)" in capsys.readouterr().err


def test_debugging_shows_the_traceback(monkeypatch, capsys):
    assert run(monkeypatch, raising(InputError("no"))) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv(failures.DEBUG, "1")
    assert run(monkeypatch, raising(InputError("no"))) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_full_stdout_is_one_line(monkeypatch, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(monkeypatch, lambda: print_result("x")) == 2
    assert "cannot be written to stdout: No space left" in capsys.readouterr().err


def test_print_of_a_plugin_leaves_json_alone(monkeypatch, capsys):
    def command():
        print("from a plugin")  # noqa: T201
        sys.stdout.write("and again\n")
        print_json({"eps": [float("nan"), float("inf"), 0.5], "flags": ()})

    assert run(monkeypatch, command) == 0
    out, err = capsys.readouterr()
    assert out == '{\n  "eps": [\n    null,\n    null,\n    0.5\n  ],\n  "flags": []\n}\n'
    assert err == "from a plugin\nand again\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no command is given"),
        (["rum"], "No such command 'rum'"),
        (["run"], "Missing option '--model'"),
        (["run", "--model"], "requires an argument"),
        (["run", "--model", "lipflow", "--no"], "No such option"),
        (["run", "--model", "lipflow", "--seed", "[/b]\x1b"], "valid integer"),
        (["list", "moons"], "'moons' is not one of"),
        (["plot"], "no command is given"),
    ],
)
def test_usage_errors_are_one_line(arguments, words, capsys):
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "; see: dynbench" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version_go_to_stdout_with_exit_0(arguments, capsys):
    assert cli.run(arguments) == 0
    out, err = capsys.readouterr()
    assert out
    assert err == ""


SLEEPY = "import time\nprint('here', flush=True)\ntime.sleep(60)\nDATASETS = ()\n"
PRINTING = HONEST + "print('at import')\n"
LEAVING = HONEST.replace("return", "raise SystemExit(0); return")


def test_ctrl_c_says_that_finished_work_is_kept(tmp_path):
    (tmp_path / "card.yaml").write_text(
        'name: sleepy\nsummary: It sleeps.\nversion: "1"\nprovides: [datasets]\n'
    )
    (tmp_path / "__init__.py").write_text(SLEEPY)
    script = "from robustbench_dyn.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "list", "datasets", "--plugins", str(tmp_path), "--trust"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "here\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert err == "dynbench: interrupted; finished work is kept, and the same command resumes it\n"
    assert (process.returncode, out) == (130, "")


def run_options(folder):
    options = ["run", "--model", folder.name, "--plugins", folder, "--dataset", "digits"]
    return [*options, "--n-examples", "4", "--attacks", "none", "--json"]


def test_sys_exit_of_a_plugin_is_no_success(tmp_path, monkeypatch, capsys):
    folder = write_plugin(tmp_path / "leaving", LEAVING)
    refused(dynbench_here(run_options(folder), tmp_path, monkeypatch, capsys), "exit")


@pytest.mark.slow
def test_json_stays_json_beside_a_plugin_that_prints(tmp_path):
    folder = write_plugin(tmp_path / "printing", PRINTING)
    result = dynbench(*run_options(folder), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("{")
    assert "at import" in result.stderr
