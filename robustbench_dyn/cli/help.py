"""The help of a command as plain text of the terminal's width: no name in it is cut."""

from __future__ import annotations

import inspect
import os
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import typer

from robustbench_dyn.cli.options import MACHINE, OUTPUT, PLUGINS

_WIDEST, _NARROWEST = 100, 40
# Between the names of options and their texts.
_GAP = 2
_MOST_OF_NAMES = 26
_ARGUMENTS, _OPTIONS, _COMMANDS, HELP = "Arguments", "Options", "Commands", "Help"
# The other panels come in between, in the order of their options.
_FIRST, _LAST = (_ARGUMENTS, _OPTIONS), (OUTPUT, PLUGINS, MACHINE, HELP)


class Entry(NamedTuple):
    """One line of a list: a name, and a text about it."""

    name: str
    text: str


def help_of(command: Any, context: Any) -> str:
    """Return the help of a command or a group: usage, summary, options by panel, examples."""
    width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
    blocks = [_usage(command, context, width), _summary(command, width)]
    lists = dict[str, list[Entry]]()
    for child in _children(command, context):
        about = inspect.cleandoc(child.help or "").partition("\n\n")[0]
        panel = getattr(child, "rich_help_panel", None) or _COMMANDS
        lists.setdefault(panel, []).append(Entry(child.name, about))
    for param in command.get_params(context):
        if not getattr(param, "hidden", False):
            panel = getattr(param, "rich_help_panel", None) or _panel(param)
            lists.setdefault(panel, []).append(_entry(param, context))
    blocks += [_list(title, lists[title], width) for title in sorted(lists, key=_place)]
    if command.epilog:
        blocks.append(f"{_heading('Examples')}\n{textwrap.indent(command.epilog, '  ')}")
    return "\n\n".join(block for block in blocks if block)


def _panel(param: Any) -> str:
    """Return the panel of an argument or option that names none."""
    if _is_argument(param):
        return _ARGUMENTS
    return HELP if "--help" in param.opts else _OPTIONS


def _place(panel: str) -> int:
    """Return the place of a panel among the others."""
    if panel in _FIRST:
        return _FIRST.index(panel) - len(_FIRST)
    return _LAST.index(panel) + 1 if panel in _LAST else 0


def _children(command: Any, context: Any) -> Iterable[Any]:
    if not hasattr(command, "commands"):
        return []
    children = (command.get_command(context, name) for name in command.list_commands(context))
    return [child for child in children if child is not None and not child.hidden]


def _usage(command: Any, context: Any, width: int) -> str:
    params = command.get_params(context)
    needed = [param for param in params if param.required and not _is_argument(param)]
    parts = [context.command_path, *(" ".join(_named(param)) for param in needed), "[OPTIONS]"]
    for param in params:
        if _is_argument(param) and not getattr(param, "hidden", False):
            parts.append(_argument(param) if param.required else f"[{_argument(param)}]")
    if hasattr(command, "commands"):
        parts.append("COMMAND ...")
    line = " ".join(parts)
    return _wrapped(line, width, first="Usage: ", later=" " * len("Usage: "))


def _summary(command: Any, width: int) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(_wrapped(paragraph, width) for paragraph in paragraphs)


def _entry(param: Any, context: Any) -> Entry:
    name = _argument(param) if _is_argument(param) else " ".join(_named(param))
    told = [(getattr(param, "help", None) or "").strip()]
    if param.required:
        told.append("[required]")
    elif default := _default(param, context):
        told.append(f"[default: {default}]")
    return Entry(name, " ".join(part for part in told if part))


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return f"{name}..." if param.nargs != 1 and not name.endswith("...") else name


def _named(param: Any) -> list[str]:
    """Return the names of an option, and what its value is called; a flag has none."""
    # The short name comes first; those of --help are made of a set, in no order.
    names = sorted(param.opts, key=len)
    if param.secondary_opts:
        names = [f"{names[0]}/{param.secondary_opts[0]}"]
    shown = [", ".join(names)]
    return shown if param.is_flag else [*shown, param.metavar or _kind(param)]


def _kind(param: Any) -> str:
    """Return what the value of an option without a metavar is called."""
    described = getattr(param, "type_descriptor", None) or param.type
    choices = getattr(described, "choices", None)
    return "|".join(map(str, choices)) if choices else param.name.upper()


def _default(param: Any, context: Any) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    value = None if param.show_default is False else param.get_default(context, call=False)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    # A number may be 0.
    return "" if value is None or isinstance(value, bool) else str(value)


def _list(title: str, entries: Sequence[Entry], width: int) -> str:
    """Return a panel: names on the left, texts on the right, under a long name where it is one."""
    longest = min(_MOST_OF_NAMES, width // 2 - 4)
    fitting = [len(entry.name) for entry in entries if len(entry.name) <= longest]
    column = max(fitting, default=longest) + 2 + _GAP
    lines = [_heading(title)]
    for name, text in entries:
        start = f"  {name}"
        if len(start) + _GAP > column:
            lines.append(start)
            start = ""
        later = " " * column
        lines.append(_wrapped(text, width, first=f"{start:<{column}}", later=later).rstrip())
    return "\n".join(lines)


def _heading(title: str) -> str:
    # What prints it leaves out the style where stdout is no terminal.
    plain = os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
    return title if plain else typer.style(title, bold=True)


def _wrapped(text: str, width: int, *, first: str = "", later: str = "") -> str:
    lines = textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) or first
