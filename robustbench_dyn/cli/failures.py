"""Ends of a command that is not done: one line on stderr for every error, and its exit code."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import typer

from robustbench_dyn import __version__, interruption
from robustbench_dyn.cli.output import discard_results, print_error, results
from robustbench_dyn.errors import DynbenchError, SoundnessError, one_line

REFUTED, INVALID, INTERNAL, INTERRUPTED = 1, 2, 70, interruption.EXIT_CODE

# Set it to see the traceback of any error.
DEBUG = "DYNBENCH_DEBUG"

# A message may be as long as the memory allows.
_MOST_DETAILS = 200_000

# Of click, or of the copy of click inside typer; a name that both have does not exist.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def end(error: BaseException) -> int:
    """Print what ended a command in one line; return the exit code.

    Only typer raises Exit, with the code of a command that has printed all. A SystemExit comes from
    foreign code, and what it claims about the result counts for nothing.
    """
    if isinstance(error, typer.Exit):
        return error.exit_code
    if interruption.is_interrupted():
        error = KeyboardInterrupt()
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):
        # The reader of stdout has closed the pipe, as `head` does.
        discard_results()
        return 1
    code, message = _explain(error)
    print_error(message)
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    """Return exit code and message."""
    code = INVALID
    match error:
        case KeyboardInterrupt():
            # A second Ctrl-C must not cut the message off.
            interruption.ignore()
            code, message = INTERRUPTED, interruption.MESSAGE
        case SoundnessError():
            code, message = REFUTED, f"soundness violation: {error}"
        case DynbenchError():
            message = str(error)
        case _UsageError():
            message = _usage(error)
        case SystemExit():
            message = (
                f"{_place(error)} called sys.exit({_text(error)}) before there was a result; "
                "remove the call, or the plugin; finished work is kept"
            )
        case OSError(filename=str() | bytes() as name) if error.strerror:
            message = f"{os.fsdecode(name)} cannot be used: {error.strerror}"
        case _ if _is_of_the_machine(error):
            message = (
                f"the machine failed ({_text(error) or type(error).__name__}); free memory, or "
                "give fewer examples or a smaller --batch-size; finished work is kept"
            )
        case _:
            what = f"{type(error).__name__}: {_text(error)}; details in {_write_details(error)}"
            if _plugin_frames(error):
                message = f"{_place(error)} failed: {what}"
            else:
                code = INTERNAL
                message = f"internal error: {what}; please report it with this file"
    return code, message


def _usage(error: Exception) -> str:
    """Return what is wrong with the command line, and how to see what is right."""
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = cast("typer.Context | None", getattr(error, "ctx", None))
    command = context.command_path if context is not None else "dynbench"
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        with suppress(OSError):
            # Unlike print, it leaves out the colours where stdout is no terminal.
            typer.echo(message, file=results())
        return f"no command is given; see: {command} --help"
    return f"{message.rstrip('.')}; see: {command} --help"


def _text(error: BaseException) -> str:
    """Return the message of an error of any class in one line that is not too long."""
    try:
        return one_line(str(error), most=300)
    # Its class may be foreign code.
    except Exception:
        return "no message"


def _place(error: BaseException) -> str:
    """Say which code raised an error: of a plugin, if there is any, or else the innermost."""
    frames = _plugin_frames(error) or traceback.extract_tb(error.__traceback__)
    if not frames:
        return "foreign code"
    return f"{frames[-1].filename}, line {frames[-1].lineno},"


def _plugin_frames(error: BaseException) -> list[traceback.FrameSummary]:
    from robustbench_dyn.plugins.discovery import is_plugin_module

    return [
        traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if is_plugin_module(str(frame.f_globals.get("__name__")))
    ]


def _is_of_the_machine(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules or not isinstance(error, Exception):
        return False
    from robustbench_dyn.models.machine_errors import is_machine_error

    try:
        return is_machine_error(error)
    # Foreign errors may fail to say what they are.
    except Exception:
        return False


def _write_details(error: BaseException) -> str:
    """Write what a report needs to a private file; return its path, or that there is none."""
    try:
        lines = [
            f"dynbench {__version__}, Python {platform.python_version()}, torch {_torch()}",
            platform.platform(),
            f"command: dynbench {shlex.join(sys.argv[1:])}",
            "",
            *traceback.format_exception(error),
        ]
        handle, name = tempfile.mkstemp(prefix="dynbench-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines)[:_MOST_DETAILS])
    # Whatever fails here must not take the place of the error itself.
    except Exception as problem:
        return f"no file ({type(problem).__name__})"
    return name


def _torch() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "not installed"
