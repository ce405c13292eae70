"""Run the command dynbench, in a new process or in this one."""

import os
import subprocess
import sys
from unittest import mock

import pytest

from oracles.processes import completed
from robustbench_dyn.cli import main


def dynbench(*arguments, cwd, env=None):
    """Run the command in a process of its own: a new Python where it is given an environment."""
    if env is None:
        return completed(arguments, cwd)
    script = "from robustbench_dyn.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | env,
    )


def dynbench_here(arguments, folder, monkeypatch, capsys):
    """Run the command in this process, without the cost of imports; returns as dynbench does."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["dynbench", *map(str, arguments)])
    # What the command sets is for its own process.
    with mock.patch.dict(os.environ), pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    return subprocess.CompletedProcess(sys.argv, left.value.code or 0, printed.out, printed.err)


def refused(result, *words):
    """Check that invalid input gave one line, exit code 2 and no traceback."""
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
