"""Settings of the user: environment variables, and a file, for the options of many commands.

A value on the command line goes before one in the environment, that before one in the file, and
that before the default. Each value means what it would mean on the command line.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_config_dir

from robustbench_dyn.errors import InputError, one_line, shown
from robustbench_dyn.limited_yaml import read_text

APPLICATION = "robustbench_dyn"
# Names another file; empty, no file is read.
FILE_VARIABLE = "DYNBENCH_CONFIG"
DATA_VARIABLE = "DYNBENCH_DATA"
DEFAULT = "default"


class Setting(NamedTuple):
    """A setting that a user can make.

    name: its key in the file. variable: its environment variable; empty where it has none. parse:
    returns the value that a text or a TOML value stands for; raises ValueError, with the rule.
    """

    name: str
    variable: str
    default: Any
    parse: Callable[[Any], Any]
    description: str


class Value(NamedTuple):
    """The value of a setting, and where it comes from: a variable, a file, or the default."""

    value: Any
    origin: str


def _text(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError("give a text")
    return given


def _path(given: Any) -> Path:
    return Path(_text(given)).expanduser()


def _paths(given: Any) -> list[Path]:
    if isinstance(given, str):
        given = [part for part in given.split(os.pathsep) if part]
    if not isinstance(given, list):
        raise ValueError("give a list of folders")
    return [_path(part) for part in given]


def _truth(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError("give true or false")
    return given


SETTINGS = (
    Setting(
        "store",
        "DYNBENCH_STORE",
        # A study has its folder, and its verdicts belong there: one store for all of a user's work
        # would publish rows of unrelated studies in one leaderboard.
        Path("dynbench.sqlite"),
        _path,
        "file of the verdicts",
    ),
    Setting("plugins", "DYNBENCH_PLUGINS", [], _paths, "folders of plugins"),
    Setting("data_dir", DATA_VARIABLE, None, _path, "folder of data sets"),
    Setting("device", "DYNBENCH_DEVICE", "cpu", _text, "device of torch"),
    Setting("strict", "", False, _truth, "worst-case rounding"),
)
_NAMES = tuple(setting.name for setting in SETTINGS)


def settings_file() -> Path | None:
    """Return the file of the settings; None where there is none.

    It is the one that DYNBENCH_CONFIG names, or else config.toml in the user's configuration
    folder. Raises InputError where the named one does not exist.
    """
    named = os.environ.get(FILE_VARIABLE)
    if named == "":
        return None
    path = Path(named).expanduser() if named else usual_file()
    if path.is_file():
        return path
    if named:
        raise InputError(f"{FILE_VARIABLE}={shown(named)} names no file; correct it, or unset it")
    return None


def usual_file() -> Path:
    """Return where the file of the settings is looked for."""
    return Path(user_config_dir(APPLICATION, appauthor=False)) / "config.toml"


def read_settings() -> dict[str, Value]:
    """Return each setting with its origin.

    Raises InputError for a file that is no TOML or has an unknown key, and for a value that breaks
    a rule, with the place that it comes from.
    """
    path = settings_file()
    written = _read(path) if path is not None else {}
    found = dict[str, Value]()
    for setting in SETTINGS:
        told = os.environ.get(setting.variable, "") if setting.variable else ""
        if told:
            origin = setting.variable
            found[setting.name] = Value(_parsed(setting, told, origin), origin)
        elif setting.name in written:
            given = _parsed(setting, written[setting.name], str(path))
            found[setting.name] = Value(given, str(path))
        else:
            found[setting.name] = Value(setting.default, DEFAULT)
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file."""
    try:
        written = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"the settings {path} are no TOML: {one_line(str(error))}; write lines such as "
            'store = "dynbench.sqlite"'
        ) from error
    for key in written:
        if key not in _NAMES:
            raise InputError(
                f"the settings {path} have an unknown key {shown(key)}; the keys are "
                f"{', '.join(_NAMES)}"
            )
    return written


def _parsed(setting: Setting, given: Any, origin: str) -> Any:
    try:
        return setting.parse(given)
    except (ValueError, RuntimeError) as rule:  # RuntimeError: the home of ~ is unknown
        raise InputError(f"{setting.name}={shown(given)} of {origin}: {rule}") from rule
