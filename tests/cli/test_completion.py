"""Completion in shells: names without torch, in a real bash where there is one."""

import os
import shutil
import subprocess
import sys

import pytest
import shellingham
from oracles.digits_plugin import HONEST, write_plugin

from robustbench_dyn import cli
from robustbench_dyn.cli import completion

# The script of the shell calls the command by its name, and then this file stands for it.
DYNBENCH = f"""#!/bin/sh
exec {sys.executable} -c "
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == 'torch':
            raise RuntimeError('torch is imported')
sys.meta_path.insert(0, NoTorch())
from robustbench_dyn.cli import main
main()" "$@"
"""
BASH = shutil.which("bash")


@pytest.fixture
def bash(tmp_path):
    """A function that returns what bash offers after these words, the last one half written."""
    if BASH is None:
        pytest.skip("this system has no bash")
    command = tmp_path / "bin" / "dynbench"
    command.parent.mkdir()
    command.write_text(DYNBENCH)
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"

    def offered(*words):
        script = (
            'eval "$(SHELL=/bin/bash dynbench --show-completion)"; COMP_WORDS=("$@"); '
            "COMP_CWORD=$(($# - 1)); _dynbench_completion dynbench; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        result = subprocess.run(
            [BASH, "--norc", "-c", script, "bash", "dynbench", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
        )
        assert result.stderr == ""
        return result.stdout.split()

    return offered


def answered(monkeypatch, capsys, *words):
    """Return what the command answers to the script of bash."""
    monkeypatch.setenv("COMP_WORDS", "\n".join(["dynbench", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    command = cli.typer.main.get_command(cli.app)
    assert completion.answer(command, "complete_bash") == 0
    return capsys.readouterr().out.split()


def test_bash_completes_the_names_of_models(bash):
    offered = bash("run", "--model", "lip")
    assert "lipflow" in offered
    assert "lipflow/eps-1.0" in offered
    assert all(name.startswith("lip") for name in offered)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ru"], ["run"]),
        (["plot", "c"], ["curves"]),
        (["run", "--mod"], ["--model"]),
        (["run", "--dataset", "moo"], ["moons"]),
        (["run", "--model", "=", "gradient_f"], ["gradient_flow"]),
        (["run", "--model", "="], ["lipflow", "sll"]),
        (["run", "--norm", ""], ["Linf", "L2", "L1"]),
        (["run", "--attacks", "square,apgd-"], ["square,apgd-ce", "square,apgd-t"]),
        (["run", "--certifiers", "com"], ["complete"]),
        (["train", "--model", "sl"], ["sll"]),
        (["show", "aol_none"], []),
        (["check", "hop"], ["hop-skip-jump"]),
    ],
    ids=" ".join,
)
def test_names_are_completed(words, expected, monkeypatch, capsys):
    found = set(answered(monkeypatch, capsys, *words))
    assert set(expected) <= found
    assert bool(found) == bool(expected)


def test_plugins_on_the_line_are_completed_unrun(tmp_path, untrusted, monkeypatch, capsys):
    folder = write_plugin(tmp_path / "mine", f"raise SystemExit('it ran')\n{HONEST}")
    words = ["run", "--plugins", str(folder), "--model", "min"]
    assert answered(monkeypatch, capsys, *words) == ["mine"]


def test_an_error_in_the_middle_of_a_line_is_silent(monkeypatch, capsys):
    monkeypatch.setenv("DYNBENCH_CONFIG", "/no/such/file")
    assert answered(monkeypatch, capsys, "run", "--plugins", "/no/such", "--dataset", "moo")
    monkeypatch.setenv("COMP_WORDS", "dynbench\nrun\n--model\nlip")
    monkeypatch.setenv("COMP_CWORD", "3")
    command = cli.typer.main.get_command(cli.app)
    assert completion.answer(command, "complete_bash") == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_printed(shell, monkeypatch, capsys):
    monkeypatch.setattr(completion, "_shell", lambda: shell)
    assert cli.run(["--show-completion"]) == 0
    assert completion.VARIABLE in capsys.readouterr().out


def test_completion_is_installed_in_the_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(completion, "_shell", lambda: "bash")
    assert cli.run(["--install-completion"]) == 0
    (path,) = (tmp_path / ".bash_completions").iterdir()
    assert str(path) in capsys.readouterr().out
    assert str(path) in (tmp_path / ".bashrc").read_text()
    monkeypatch.setenv("HOME", "/dev/null/home")
    assert cli.run(["--install-completion"]) == 2
    assert "cannot be installed" in capsys.readouterr().err


def test_an_unknown_shell_is_named(monkeypatch, capsys):
    def detect_shell():
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", detect_shell)
    monkeypatch.setenv("SHELL", "/bin/csh")
    assert cli.run(["--show-completion"]) == 2
    assert "'csh'" in capsys.readouterr().err
