"""A page for each command of dynbench, from the same definitions as its `--help`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from generators.markdown import block, escaped, inline, literal, page, table, toctree
from robustbench_dyn.cli import app

INTRODUCTION = (
    "Written from the definitions that `--help` reads. [Commands](../../cli.md) explains how the "
    "commands work together, and what the exit codes mean."
)


def pages(_docs: Path) -> dict[str, str]:
    """Return a page for each command, and their list."""
    found = dict(leaves(typer.main.get_command(app)))
    written = {f"reference/cli/{place(name)}.md": of(name, found[name]) for name in found}
    rows = [
        (f"[`{name}`]({place(name)}.md)", inline(summary(command)))
        for name, command in found.items()
    ]
    written["reference/cli/index.md"] = page(
        "Command-line reference",
        INTRODUCTION,
        table(("command", "what it does"), rows),
        toctree(map(place, found), "hidden"),
    )
    return written


def place(name: str) -> str:
    """Return the name of a command's page."""
    return name.replace(" ", "-")


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the name and definition of each command, of groups too."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            if not child.hidden:
                yield from leaves(child, (*path, name))
    else:
        yield " ".join(path), command


def summary(command: Any) -> str:
    """Return the first sentence of a command's help."""
    return inspect.cleandoc(command.help or "").split("\n\n")[0]


def of(name: str, command: Any) -> str:
    """Return the page of one command."""
    context = typer.Context(command, info_name=f"dynbench {name}")
    usage = " ".join([f"dynbench {name}", *command.collect_usage_pieces(context)])
    paragraphs = [text for text in inspect.cleandoc(command.help or "").split("\n\n") if text]
    parts = [*map(inline, paragraphs), block(usage)]
    for panel, parameters in panels(command).items():
        rows = [row(parameter) for parameter in parameters]
        parts += [f"## {escaped(panel)}", table(("option", "meaning", "default"), rows)]
    if command.epilog:
        parts += ["## Examples", block(inspect.cleandoc(command.epilog).replace("\n\n", "\n"))]
    return page(f"dynbench {name}", *parts)


def panels(command: Any) -> dict[str, list[Any]]:
    """Return the shown parameters of a command by the panel of its help."""
    found: dict[str, list[Any]] = {}
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panel = getattr(parameter, "rich_help_panel", None) or usual
            found.setdefault(panel, []).append(parameter)
    return found


def row(parameter: Any) -> tuple[str, str, str]:
    """Return the names, the meaning and the default of a parameter."""
    needed = " Required." if parameter.required else ""
    shown = ", ".join(literal(name) for name in names(parameter))
    return shown, inline(parameter.help or "") + needed, default(parameter)


def names(parameter: Any) -> list[str]:
    """Return how a parameter is written; the longest name with the name of its value."""
    if parameter.param_type_name == "argument":
        return [parameter.metavar or parameter.name.upper()]
    *others, longest = sorted(parameter.opts, key=len)
    value = "" if parameter.is_flag or not parameter.metavar else f" {parameter.metavar}"
    return [f"{longest}{value}", *parameter.secondary_opts, *others]


def default(parameter: Any) -> str:
    """Return the default of a parameter as code; nothing for flags and for options without one."""
    shown = getattr(parameter, "show_default", None)
    value = shown if isinstance(shown, str) else parameter.default
    if value is None or value is False or value in ((), [], "") or parameter.required:
        return ""
    if callable(value) or type(value).__name__ == "Sentinel":
        return ""
    return literal(getattr(value, "value", value))
