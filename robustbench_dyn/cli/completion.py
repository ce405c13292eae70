"""Completion in shells: the names of models, data sets, attacks and certifiers, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from robustbench_dyn.errors import InputError, OutputError, shown
from robustbench_dyn.threat_models import NORMS

PROGRAM = "dynbench"
# The script of a shell sets it, and calls the command with the line so far.
VARIABLE = "_DYNBENCH_COMPLETE"
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")

Completions = list[tuple[str, str]]


def answer(command: Any, instruction: str) -> int:
    """Print what can stand at the cursor, as the script of a shell wants it; return 0 or 1.

    Nothing but names is printed: an error in the middle of a line would be in the user's way.
    """
    from typer._completion_classes import completion_init
    from typer.completion import shell_complete

    completion_init()
    _join_assignments()
    try:
        return shell_complete(command, {}, PROGRAM, VARIABLE, instruction)
    # A plugin, the settings or a half line may fail at anything.
    except (Exception, KeyboardInterrupt):
        return 1


def _join_assignments() -> None:
    """Take out the = that bash makes a word of its own in --model=NAME."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    try:
        current = int(os.environ.get("COMP_CWORD", ""))
    except ValueError:  # another shell
        return
    if words[current : current + 1] == ["="]:
        words.insert(current + 1, "")
        current += 1
    kept = [place for place, word in enumerate(words) if word != "=" or place > current]
    os.environ["COMP_WORDS"] = "\n".join(words[place] for place in kept)
    os.environ["COMP_CWORD"] = str(sum(place < current for place in kept))


def script() -> str:
    """Return the script that makes the shell of the user complete the command."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=_shell())


def install() -> str:
    """Write the script where the shell reads it at its start; return the path."""
    from typer._completion_shared import install as write

    try:
        _, path = write(shell=_shell(), prog_name=PROGRAM, complete_var=VARIABLE)
    except (OSError, UnicodeError, RuntimeError) as error:
        raise OutputError(
            f"the completion cannot be installed: {error}; print it by --show-completion, and put "
            "it where your shell reads it"
        ) from error
    return str(path)


def _shell() -> str:
    """Return the shell that runs the command, or else the one that SHELL names."""
    import shellingham

    try:
        shell = str(shellingham.detect_shell()[0])
    except (shellingham.ShellDetectionFailure, OSError):
        shell = Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise InputError(
            f"there is no completion for the shell {shown(shell)}; run this in one of "
            f"{', '.join(SHELLS)}, or set SHELL"
        )
    return shell


def _listed(
    names: Callable[[], Iterable[tuple[str, str]]], *, with_commas: bool = False
) -> Callable[[str], Completions]:
    """Return a function that completes one of these names, or the last one in a list of them."""

    def complete(incomplete: str) -> Completions:
        before, comma, last = incomplete.rpartition(",") if with_commas else ("", "", incomplete)
        return [
            (f"{before}{comma}{name}", about) for name, about in names() if name.startswith(last)
        ]

    return complete


def _models() -> Iterator[tuple[str, str]]:
    """Yield each model that has weights; cards are read, and no code is run."""
    from robustbench_dyn.models.architectures import full_name
    from robustbench_dyn.plugins import find_plugins

    _use_settings()
    for plugin in find_plugins():
        if plugin.card is not None and plugin.provides("architecture") and not plugin.problem:
            card = plugin.card
            for variant in sorted({weights.variant for weights in card.weights}):
                yield full_name(card.name, variant), card.summary


def _architectures() -> Iterator[tuple[str, str]]:
    from robustbench_dyn.plugins import find_plugins

    _use_settings()
    for plugin in find_plugins():
        if plugin.card is not None and plugin.provides("architecture"):
            yield plugin.card.name, plugin.card.summary


def _datasets() -> Iterator[tuple[str, str]]:
    from robustbench_dyn.datasets import DATASETS

    # Those of plugins would have their code run.
    return ((entry.name, entry.description) for entry in DATASETS.built_in())


def _attacks() -> Iterator[tuple[str, str]]:
    from robustbench_dyn.attacks import ATTACKS, SUITES

    return ((entry.name, entry.description) for entry in (*SUITES.built_in(), *ATTACKS.built_in()))


def _certifiers() -> Iterator[tuple[str, str]]:
    from robustbench_dyn.certification.catalogue import CERTIFIERS

    yield "auto", "every certifier that applies"
    yield "none", "no certifier"
    for entry in CERTIFIERS.built_in():
        yield entry.name, entry.description


def _things() -> Iterator[tuple[str, str]]:
    for names in (_architectures, _attacks, _certifiers, _datasets):
        yield from names()


def _use_settings() -> None:
    """Load the plugins that the settings name; those of --plugins are loaded already."""
    from robustbench_dyn.plugins import load_plugins
    from robustbench_dyn.settings import read_settings

    load_plugins(*read_settings()["plugins"].value)


models = _listed(_models)
architectures = _listed(_architectures)
datasets = _listed(_datasets)
attacks = _listed(_attacks, with_commas=True)
certifiers = _listed(_certifiers, with_commas=True)
things = _listed(_things)
engines = _listed(lambda: [("local", ""), ("ray", "")])
norms = _listed(lambda: [(norm, "") for norm in NORMS])
devices = _listed(lambda: [("cpu", ""), ("cuda", ""), ("mps", "")])
