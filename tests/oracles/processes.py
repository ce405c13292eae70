"""The command dynbench in processes of its own, which begin with its imports done.

A server imports what a command imports, and each command is a fork of it: with its own arguments,
folder, environment and files, and its own end. Importing anew takes two seconds a command. Tests
of a command's first moments start Python instead.
"""

import atexit
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

_IMPORTED = [
    "robustbench_dyn.cli",
    "robustbench_dyn.cli.supervised",
    "robustbench_dyn.evaluation.api",
    "robustbench_dyn.training.loop",
    "pandas",
]


class Command:
    """A running command; what it prints is kept in files, of any length.

    It has the parts of subprocess.Popen that tests use, and its exit codes.
    """

    def __init__(self, arguments, folder):
        printed = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, printed, ignore_errors=True)
        self._printed = [printed / name for name in ("stdout", "stderr")]
        for path in self._printed:
            path.touch()
        self._process = _context().Process(
            target=_run, args=([*map(str, arguments)], folder, {**os.environ}, self._printed)
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def communicate(self, timeout=None):
        """Wait for the end; return what was printed on stdout and on stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("dynbench", timeout)
        return tuple(path.read_text(encoding="utf-8") for path in self._printed)


def completed(arguments, folder, timeout=600):
    """Run a command to its end; return what subprocess.run returns."""
    process = Command(arguments, folder)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess([*arguments], process.returncode, out, err)


def _context():
    # Elsewhere, libraries that torch loads do not outlive a fork.
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _run(arguments, folder, environment, printed):
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(printed, start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open to the end
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["dynbench", *arguments]
    from robustbench_dyn.__main__ import main  # noqa: PLC0415 - the server has imported it

    try:
        main()
    finally:
        # The process ends without them otherwise; Python itself would run them.
        atexit._run_exitfuncs()
