"""Commands whose whole work is a plugin's own code: they run in a process with limits.

`check` and `train` need the plugin's modules, classes and optimisers at hand. They are run a second
time, in a process that trusts the plugin, and this one waits for its report.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import NoReturn

import typer

from robustbench_dyn.cli.output import results
from robustbench_dyn.errors import ForeignCodeError
from robustbench_dyn.isolation.limits import Limits

_REPORT = "DYNBENCH_REPORT"
_CODE = "from robustbench_dyn.cli.supervised import main; main()"


def run_supervised(origin: str, limits: Limits, *, seconds: float | None = None) -> NoReturn:
    """Run the command of this process in another one, and end as that one does.

    origin: where its code comes from, for messages. seconds: that it may take; None for any time.
    Raises ForeignCodeError where it ends without having come to its end, or takes too long.
    """
    reads, writes = os.pipe()
    # Who reports the end of the command must know this; it is read before any foreign code runs.
    password, (secret, told_secret) = secrets.token_hex(16), os.pipe()
    os.write(told_secret, password.encode())
    os.close(told_secret)
    settings = f"{writes},{secret},{limits.memory_gib},{limits.open_files},{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, *sys.argv[1:]],
        env={**os.environ, _REPORT: settings},
        # Descriptor 1 is where libraries print; results have one of their own.
        stdout=results().fileno(),
        pass_fds=(writes, secret),
    )
    os.close(writes)
    os.close(secret)
    with os.fdopen(reads, "rb") as report:
        while True:
            try:
                process.wait(timeout=seconds)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise ForeignCodeError(
                    f"the code of {origin} took more than {seconds:g} s; it was ended"
                ) from None
            except KeyboardInterrupt:
                # The other process is interrupted as well, and says so.
                seconds = 10
        os.set_blocking(report.fileno(), False)
        told = (report.read(100) or b"").decode(errors="replace")
    known, _, ended = told.partition(" ")
    if known == password and ended.isdigit():
        raise typer.Exit(int(ended))
    code = process.returncode
    how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
    raise ForeignCodeError(
        f"the code of {origin} ended its process {how} before the command had come to its end"
    )


def main() -> None:
    """Run the command within limits, and report its exit code, unless foreign code exits first."""
    report, secret, memory, open_files, parent = os.environ.pop(_REPORT).split(",")
    os.set_inheritable(int(report), False)
    with os.fdopen(int(secret)) as file:
        password = file.read()
    # torch has taken its memory before the limit counts.
    import torch  # noqa: F401

    from robustbench_dyn import cli
    from robustbench_dyn.isolation.child import watch_parent
    from robustbench_dyn.isolation.confinement import end_with_parent, limit_resources
    from robustbench_dyn.plugins import trust_plugins

    end_with_parent()
    watch_parent(int(parent))
    trust_plugins()
    taken = int(float(memory) * 2**30)
    limit_resources(memory=taken, open_files=int(open_files), files_of=taken, address_space=False)
    try:
        cli.main()
    except SystemExit as end:
        os.write(int(report), f"{password} {end.code or 0}".encode())
        raise
