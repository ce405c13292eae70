"""The command settings, and the defaults of options that the user's settings give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_dyn.cli.options import AsJson
from robustbench_dyn.cli.output import print_json
from robustbench_dyn.settings import (
    DATA_VARIABLE,
    DEFAULT,
    SETTINGS,
    Value,
    read_settings,
    settings_file,
    usual_file,
)

# The parameter of the commands that a setting is the default of.
_PARAMETERS = {"strict": "strict_rounding"}


def settings(as_json: AsJson = False) -> None:
    """Show the settings, with the variable or the file that each comes from.

    A value on the command line goes before one in the environment, that before one in the file,
    and that before the default.
    """
    found, path = read_settings(), settings_file()
    if as_json:
        told = {
            name: {"value": _plain(value), "origin": origin}
            for name, (value, origin) in found.items()
        }
        print_json({"settings": told, "file": None if path is None else str(path)})
        return
    from robustbench_dyn.cli.consoles import Column, note, table

    rows = [
        (setting.name, _line(found[setting.name]), found[setting.name].origin, setting.variable)
        for setting in SETTINGS
    ]
    columns = ("setting", Column("value", wraps=True), "from", Column("variable", importance=1))
    table(columns, rows, instead="--json")
    note(f"file: {path or f'none; it would be {usual_file()}'}")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _line(found: Value) -> str:
    plain = _plain(found.value)
    if isinstance(plain, bool):
        return str(plain).lower()
    return ", ".join(plain) if isinstance(plain, list) else str(plain or "")


def defaults_of(command: Any) -> dict[str, Any]:
    """Return the defaults of a command's options, or of a group's commands, that are settings.

    Raises InputError where the settings cannot be read.
    """
    given = {
        _PARAMETERS.get(name, name): _plain(value)
        for name, (value, origin) in read_settings().items()
        # Data sets are searched in the folder of the variable anyway, after that of --data-dir.
        if origin not in (DEFAULT, DATA_VARIABLE)
    }
    return _defaults(command, given)


def _defaults(command: Any, given: dict[str, Any]) -> dict[str, Any]:
    if hasattr(command, "commands"):
        return {name: _defaults(child, given) for name, child in command.commands.items()}
    return {
        param.name: given[param.name]
        for param in command.params
        # Where a command takes several stores, none means something else than the usual one.
        if param.name in given and not (param.name == "store" and param.multiple)
    }
