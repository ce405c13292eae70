"""Registries: things of one kind by name, looked up and made in one way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Generic, TypeVar

from robustbench_dyn.errors import DynbenchError, InputError, RegistryError, one_line, shown
from robustbench_dyn.limited_yaml import parse

T = TypeVar("T")

BUILT_IN = "built-in"

# What is longer resembles no name, and to find that out takes long.
_LONGEST_NAME = 200
# Also of what YAML takes for a text, as 1e-3.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Lazy:
    """A target that is made when it is used.

    load() raises RegistryError, with the reason alone, where it cannot be made.
    """

    load: Callable[[], Any]


@dataclass(frozen=True)
class Entry:
    """A name and its target.

    target: the thing itself, "module:attribute", which is imported at first use, or a Lazy. origin:
    where it comes from, for messages. problem: why it cannot be used; empty where it can.
    """

    name: str
    target: Any
    description: str = ""
    origin: str = BUILT_IN
    problem: str = ""


class Registry(Generic[T]):
    """Things of one kind by name: the built-in ones, then those of plugins.

    kind: what one of them is called in messages. hint: what else a user can give or do, for the
    message about an unknown name. from_plugins: yields the entries of the plugins in use, at each
    call anew. error: what is raised for an unknown name or a name that is taken.
    """

    def __init__(
        self,
        kind: str,
        entries: Iterable[Entry] = (),
        *,
        hint: str = "",
        from_plugins: Callable[[], Iterable[Entry]] = tuple,
        error: type[DynbenchError] = InputError,
    ) -> None:
        self.kind, self.hint, self.error = kind, hint, error
        self._from_plugins = from_plugins
        self._built_in = dict[str, Entry]()
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Take an entry in; raises `error`, naming both origins, where its name is taken."""
        other = self._built_in.get(entry.name)
        if other is not None and other != entry:
            raise self.error(f"{entry.origin}: {name_is_taken(self.kind, other)}")
        self._built_in[entry.name] = entry

    def entries(self) -> dict[str, Entry]:
        """Return all entries by name: built-in ones, those of plugins, broken ones of plugins.

        Of two that can be used and have one name, the first keeps it, and the other is broken.
        """
        found, broken = dict(self._built_in), list[Entry]()
        for entry in self._from_plugins():
            first = found.get(entry.name)
            if entry.problem:
                broken.append(entry)
            elif first is not None and first != entry:
                broken.append(replace(entry, target=None, problem=name_is_taken(self.kind, first)))
            else:
                found[entry.name] = entry
        for entry in broken:
            # A broken plugin must not take a name away from one that works.
            free = entry.name not in found
            found[entry.name if free else f"{entry.name} ({entry.origin})"] = entry
        return found

    def built_in(self) -> tuple[Entry, ...]:
        """Return the entries that come with this package; no plugin's code is run."""
        return tuple(self._built_in.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries())

    def __contains__(self, name: object) -> bool:
        return name in self._built_in or name in self.entries()

    def entry(self, name: str) -> Entry:
        """Return one entry; raises `error`, with the nearest name, where there is none."""
        # Plugins cannot take such a name, and are not looked for.
        if name in self._built_in:
            return self._built_in[name]
        entries = self.entries()
        if name not in entries:
            usable = [known for known, entry in entries.items() if not entry.problem]
            raise self.error(unknown(self.kind, name, usable, hint=self.hint))
        return entries[name]

    def get(self, name: str) -> T:
        """Return the target of a name; raises `error` where it is unknown or cannot be used."""
        entry = self.entry(name)
        try:
            if entry.problem:
                raise RegistryError(entry.problem)
            if isinstance(entry.target, Lazy):
                return entry.target.load()
        except RegistryError as reason:
            raise self.error(
                f"{self.kind} {name!r} from {entry.origin} is broken: {reason}"
            ) from reason
        if not isinstance(entry.target, str):
            return entry.target
        module, _, attribute = entry.target.partition(":")
        return getattr(import_module(module), attribute)

    def create(self, name: str, settings: Mapping[str, Any] | None = None) -> Any:
        """Make an object of the class, a dataclass, that a name stands for.

        settings: values of its fields; those with the metadata {"setting": False} are not given.
        Raises InputError for a field that it does not have, or a value that it refuses.
        """
        kind: Any = self.get(name)
        settings = settings or {}
        known = (
            [part.name for part in fields(kind) if _is_setting(part)] if is_dataclass(kind) else []
        )
        for setting in settings:
            if setting not in known:
                what = f"setting of {self.kind} {name!r}"
                raise InputError(unknown(what, setting, known or ["none"]))
        try:
            return kind(**settings)
        except (TypeError, ValueError) as problem:
            raise InputError(f"{self.kind} {name!r}: {one_line(str(problem))}") from problem
        # The checks of a plugin's settings are its own code.
        except Exception as problem:
            reason = f"{type(problem).__name__}: {one_line(str(problem))}"
            raise InputError(f"{self.kind} {name!r}: {reason}") from problem


def name_is_taken(kind: str, by: Entry) -> str:
    """Return the problem of a thing whose name another one of its kind has already."""
    return f"the name {shown(by.name)} is taken, by the {kind} from {by.origin}; rename one of them"


def _is_setting(part: Field[Any]) -> bool:
    return part.init and part.metadata.get("setting", True)


def unknown(kind: str, name: str, known: Iterable[str], *, hint: str = "", see: str = "") -> str:
    """Say that no thing of a kind has that name, which is the nearest, and which there are.

    hint: what else can be given. see: the command that lists the names, where they are too many.
    """
    names = list(known)
    wanted = name[:_LONGEST_NAME]
    near = get_close_matches(wanted.lower().replace("-", "_"), names, n=1, cutoff=0.4)
    near = near or get_close_matches(wanted, names, n=1, cutoff=0.4)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    choice = f"see: {see}" if see else f"choose {hint}{', '.join(names)}"
    return f"no {kind} is called {shown(name)}; {suggestion}{choice}"


def parse_names(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split 'pgd:n_steps=100,restarts=2,square' into names, each with its settings.

    A part with '=' and without ':' is a further setting of the name before it. Values are read as
    YAML: numbers, true and false, words. Raises InputError for a setting without a name or value.
    """
    found = list[tuple[str, dict[str, Any]]]()
    for part in (piece.strip() for piece in text.split(",")):
        name, colon, setting = part.partition(":")
        if not colon and "=" in part:
            name, setting = "", part
        if name or not setting:
            found.append((name.strip(), {}))
        if not setting:
            continue
        key, equals, value = (piece.strip() for piece in setting.partition("="))
        if not found or not equals or not re.fullmatch(r"[a-zA-Z_]\w*", key):
            raise InputError(
                f"{shown(part)} is not a name with settings; give NAME:SETTING=VALUE, and further "
                "settings after commas"
            )
        found[-1][1][key] = _read_value(value)
    return found


def _read_value(text: str) -> Any:
    try:
        value = parse(text)
    except InputError as error:
        raise InputError(
            f"{shown(text)} is no value of a setting; give a number or a word"
        ) from error
    return float(text) if isinstance(value, str) and _NUMBER.fullmatch(text) else value
