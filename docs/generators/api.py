"""The reference of the Python API: every public name, by the part of the package it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
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
# Modules whose names are public, too: what a plugin is made of.
MODULES = {
    "flows": ("Layers of flows", "robustbench_dyn.flows"),
    "properties": ("Properties that architectures claim", "robustbench_dyn.properties"),
    "problems": ("Attack problems", "robustbench_dyn.attacks.problem"),
    "datasets": ("Data sets from files", "robustbench_dyn.datasets"),
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
    for name, (title, module) in MODULES.items():
        written[f"reference/api/{name}.md"] = of_module(title, module)
    written["reference/api/index.md"] = page(
        "Python reference",
        "The public names, imported from `robustbench_dyn`:",
        block(EXAMPLE.strip(), "python"),
        MORE,
        toctree([*GROUPS, *MODULES]),
    )
    return written


def names_of(group: str) -> list[str]:
    """Return the public names of a group, in alphabetical order."""
    return [name for name in robustbench_dyn.__all__ if group_of(name) == group]


def group_of(name: str) -> str:
    """Return the group of a public name; of none where it is no function or class."""
    thing = getattr(robustbench_dyn, name)
    if not described(thing):
        return ""
    module = thing.__module__.removeprefix("robustbench_dyn.")
    return next(
        group
        for group, (_, starts) in GROUPS.items()
        if any(module.startswith(start) for start in starts)
    )


def described(thing: object) -> bool:
    """Return whether something is a function or class, which has a docstring of its own."""
    return inspect.isclass(thing) or inspect.isroutine(thing)


def of(title: str, names: Iterable[str]) -> str:
    """Return the page of one group."""
    return page(title, *(section("robustbench_dyn", name) for name in names))


def of_module(title: str, name: str) -> str:
    """Return the page of the public names of a module that the package itself does not have."""
    module = import_module(name)
    public = getattr(module, "__all__", None) or [
        name for name, thing in vars(module).items() if _is_its_own(thing, module.__name__)
    ]
    new = [n for n in public if n not in robustbench_dyn.__all__ and described(vars(module)[n])]
    return page(title, f"Imported from `{name}`.", *(section(name, one) for one in new))


def _is_its_own(thing: object, module: str) -> bool:
    return described(thing) and getattr(thing, "__module__", "") == module


def section(module: str, name: str) -> str:
    """Return the entry of one name: its signature, docstring and public members."""
    thing = getattr(import_module(module), name)
    if not inspect.isclass(thing):
        return f"## {name}\n\n" + directive("autofunction", f"{module}.{name}")
    options = ["members"] if not issubclass(thing, BaseException) else []
    return f"## {name}\n\n" + directive("autoclass", f"{module}.{name}", *options)


def directive(kind: str, name: str, *options: str) -> str:
    """Return a directive of autodoc."""
    lines = [f".. {kind}:: {name}", *(f"   :{option}:" for option in options)]
    return "\n".join(["```{eval-rst}", *lines, "```"])
