"""The reference of the Python API: every public name, by the part of the package it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

import robustbench_dyn
from generators.markdown import block, page, toctree

# The first group whose module begins a name's own takes it.
GROUPS = {
    "evaluation": ("Evaluate a model", ("evaluation", "reporting")),
    "smoothing": ("Randomised smoothing", ("smoothing",)),
    "models": ("Models, data sets and threat models", ("models", "datasets", "threat_models")),
    "plugins": ("Plugins", ("plugins", "attacks", "certification", "properties")),
    "results": ("Results and errors", ("",)),
}
EXAMPLE = """
from robustbench_dyn import ThreatModel, evaluate, load_model

evaluation = evaluate(load_model("lipflow"), "fashion_mnist", ThreatModel("L2", 0.5))
"""
MORE = """\
The descriptions are the docstrings of the code. [Your own model](../../how-to/own-model.md) and
[data formats](../../data-formats.md) show how the names work together."""


def pages(_docs: Path) -> dict[str, str]:
    """Return a page for each group of names, and their list."""
    written = {
        f"reference/api/{group}.md": of(title, names_of(group))
        for group, (title, _) in GROUPS.items()
    }
    written["reference/api/index.md"] = page(
        "Python reference",
        "All public names, imported from `robustbench_dyn`:",
        block(EXAMPLE.strip(), "python"),
        MORE,
        toctree(GROUPS),
    )
    return written


def names_of(group: str) -> list[str]:
    """Return the public names of a group, in alphabetical order."""
    return [name for name in robustbench_dyn.__all__ if group_of(name) == group]


def group_of(name: str) -> str:
    """Return the group of a public name; of none where it is no function or class."""
    thing = getattr(robustbench_dyn, name)
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return ""
    module = thing.__module__.removeprefix("robustbench_dyn.")
    return next(
        group
        for group, (_, starts) in GROUPS.items()
        if any(module.startswith(start) for start in starts)
    )


def of(title: str, names: Iterable[str]) -> str:
    """Return the page of one group."""
    parts = [section(name) for name in names]
    return page(title, *parts)


def section(name: str) -> str:
    """Return the entry of one name: its signature, docstring and public members."""
    thing = getattr(robustbench_dyn, name)
    if not inspect.isclass(thing):
        return f"## {name}\n\n" + directive("autofunction", name)
    options = ["members"] if not issubclass(thing, BaseException) else []
    return f"## {name}\n\n" + directive("autoclass", name, *options)


def directive(kind: str, name: str, *options: str) -> str:
    """Return a directive of autodoc."""
    lines = [f".. {kind}:: robustbench_dyn.{name}", *(f"   :{option}:" for option in options)]
    return "\n".join(["```{eval-rst}", *lines, "```"])
