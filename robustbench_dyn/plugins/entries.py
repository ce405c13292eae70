"""Entries of registries for the things that plugins provide."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from robustbench_dyn.errors import InputError, RegistryError, one_line, shown
from robustbench_dyn.plugins.card import Kind
from robustbench_dyn.plugins.discovery import Plugin, find_plugins, import_plugin, is_trusted
from robustbench_dyn.plugins.registry import Entry


def from_plugins(
    kind: Kind,
    check: Callable[[str, Any], None],
    *,
    of_foreign: Callable[[Plugin], Iterator[Entry]] | None = None,
) -> Callable[[], Iterator[Entry]]:
    """Return a function that yields an Entry for each thing of a kind in the plugins in use.

    kind names an attribute of a plugin's module, in capitals: a tuple of things that have a name,
    or a mapping from names to things. check(name, thing) raises InputError where a thing is of the
    wrong type. of_foreign: yields the entries of a plugin that is not trusted. A plugin that cannot
    be imported, or lacks what its card promises, is an Entry with a problem.
    """

    def entries() -> Iterator[Entry]:
        for plugin in find_plugins():
            if not plugin.provides(kind):
                continue
            if of_foreign is None or plugin.problem or is_trusted(plugin):
                yield from entries_of(plugin, kind, check)
            else:
                yield from of_foreign(plugin)

    return entries


def entries_of(plugin: Plugin, kind: Kind, check: Callable[[str, Any], None]) -> Iterator[Entry]:
    """Yield an Entry for each thing of a kind in one plugin; see from_plugins."""
    attribute = kind.upper()
    try:
        things = getattr(import_plugin(plugin), attribute, None)
        if not isinstance(things, (tuple, list, Mapping)) or not things:
            raise RegistryError(
                f"its card.yaml promises {kind}, and its __init__.py does not define {attribute}, "
                "a tuple of them"
            )
        named = list(_named(things))
    except RegistryError as error:
        yield Entry(plugin.name, None, origin=plugin.origin, problem=str(error))
        return
    # Attributes may be foreign code, which must not stop the other plugins.
    except (Exception, SystemExit) as error:
        problem = f"{attribute} cannot be read: {_raised(error)}"
        yield Entry(plugin.name, None, origin=plugin.origin, problem=problem)
        return
    for index, (name, thing) in enumerate(named):
        yield _entry(name or f"{plugin.name}.{attribute}[{index}]", name, thing, plugin, check)


def _entry(
    listed: str, name: str, thing: Any, plugin: Plugin, check: Callable[[str, Any], None]
) -> Entry:
    """Return the entry of a thing; its problem is what check, or the thing itself, raises."""
    problem, description = "" if name else "it has no name", ""
    try:
        description = str(getattr(thing, "description", ""))
        check(name, thing)
    except InputError as error:
        problem = str(error)
    except (Exception, SystemExit) as error:
        problem = f"it cannot be checked: {_raised(error)}"
    return Entry(listed, thing, description, plugin.origin, problem)


def subclass_of(base: type) -> Callable[[str, Any], None]:
    """Return a check for from_plugins that passes usable subclasses of base.

    They are concrete dataclasses, all of whose fields have defaults, and have a name that can stand
    in a list with commas and settings.
    """

    def check(name: str, thing: Any) -> None:
        if not (isinstance(thing, type) and issubclass(thing, base)):
            raise InputError(f"{_shown(thing)} is no subclass of {base.__name__}; give a class")
        if not re.fullmatch(r"[a-zA-Z][\w.-]*", name):
            raise InputError(f"name={shown(name)} must be letters, digits, '-', '_' and '.'")
        if "__dataclass_params__" not in vars(thing):
            raise InputError(
                f"{thing.__name__} needs the decorator @dataclass(frozen=True, kw_only=True), "
                "which makes its fields settings"
            )
        try:
            thing()
        # The constructor is the plugin's own code.
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{thing.__name__}() must make an object with default settings, and raises "
                f"{_raised(error)}"
            ) from error

    return check


def _shown(thing: object) -> str:
    return thing.__name__ if isinstance(thing, type) else shown(thing)


def _raised(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {one_line(str(error))}"
    # The class of an error may be foreign code, too.
    except Exception:
        return type(error).__name__


def _named(things: Iterable[Any] | Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name of each thing, empty where it has none, and the thing."""
    for name, thing in (
        things.items()
        if isinstance(things, Mapping)
        else ((getattr(thing, "name", ""), thing) for thing in things)
    ):
        yield name if isinstance(name, str) else "", thing
