"""Plugins that are not trusted: what they bring, as their own process describes it.

Stand-ins take the places of their attacks, certifiers and data sets in the registries.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator
from dataclasses import field, make_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from robustbench_dyn.errors import DynbenchError, RegistryError
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.plugins.card import Kind
from robustbench_dyn.plugins.discovery import Plugin, folders_in_use, hash_code, limits_in_use
from robustbench_dyn.plugins.registry import Entry

if TYPE_CHECKING:
    from robustbench_dyn.isolation.process import ChildProcess

# The module whose functions a process runs; it imports more than this package may.
SERVICE = "evaluation.serving"
# To import a plugin, with the libraries that it needs, takes the time of so many calls.
_TO_IMPORT = 2

Facts = TypeVar("Facts", bound="FactsOfThing")
# The processes of attacks, by folder, code and limits.
_PROCESSES = dict[tuple[Path, str, Limits], "ChildProcess"]()
_MADE = dict[tuple[Path, str, Kind, str], Any]()
Default = bool | int | float | str | None


class StandIn:
    """A base of the classes that take the place of a foreign plugin's classes."""

    plugin: ClassVar[Plugin]


class FactsOfThing(BaseModel):
    """What a process says of one thing that a plugin brings; what is no such fact is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z][\w.-]{0,63}$")]


class FactsOfStage(FactsOfThing):
    """What attacks and certifiers have in common; see their base classes.

    settings: the names of their fields, each with its default. of_the_base: names that a setting
    cannot have.
    """

    of_the_base: ClassVar[frozenset[str]] = frozenset()

    description: Annotated[str, Field(max_length=500)] = ""
    norms: frozenset[Literal["L2", "Linf", "L1"]]
    version: int = 1
    settings: dict[Annotated[str, Field(pattern=r"^[a-z]\w{0,63}$")], Default] = {}

    @field_validator("settings")
    @classmethod
    def _usable(cls, settings: dict[str, Default]) -> dict[str, Default]:
        taken = {*dir(StandIn), *StandIn.__annotations__, *cls.model_fields, *cls.of_the_base}
        for name in settings:
            if keyword.iskeyword(name) or name in taken:
                raise ValueError(f"no setting may be called {name!r}")
        return settings


def facts_of_stage(kind: type[Any], facts: type[FactsOfStage]) -> dict[str, Any]:
    """Return what the stand-in of an attack or a certifier must know, as JSON can say it."""
    told = {name: getattr(kind, name) for name in set(facts.model_fields) - {"settings"}}
    plain = {name: fact.value if isinstance(fact, Enum) else fact for name, fact in told.items()}
    return plain | {"norms": sorted(kind.norms), "settings": kind().settings()}


def make_stage(base: type[Any], plugin: Plugin, facts: FactsOfStage) -> type[Any]:
    """Return a stand-in for an attack or a certifier: a dataclass of its settings."""
    known = {name: getattr(facts, name) for name in type(facts).model_fields}
    settings = known.pop("settings")
    return make_dataclass(
        facts.name,
        [(name, type(default), field(default=default)) for name, default in settings.items()],
        bases=(base,),
        namespace={**known, "plugin": plugin},
        frozen=True,
        kw_only=True,
    )


def stand_ins(
    plugin: Plugin, kind: Kind, facts: type[Facts], make: Callable[[Plugin, Facts], Any]
) -> Iterator[Entry]:
    """Yield an Entry for each thing of a kind that an untrusted plugin brings.

    facts: what is believed of it. make(plugin, facts): returns its stand-in. Where the process
    fails or describes nonsense, the Entry has that problem.
    """
    try:
        code = hash_code(plugin.folder)
        described = _described(plugin.folder, code, plugin.origin)
        if isinstance(described, str):
            raise RegistryError(described)
        for told in described.get(kind, ()):
            if "facts" not in told:
                yield Entry(
                    str(told.get("name")),
                    None,
                    origin=plugin.origin,
                    problem=str(told.get("problem")),
                )
                continue
            known = facts.model_validate(told["facts"])
            place = (plugin.folder, code, kind, known.model_dump_json())
            # One stand-in for all lookups: a class is equal to itself alone.
            if place not in _MADE:
                _MADE[place] = make(plugin, known)
            thing = _MADE[place]
            yield Entry(
                name=known.name,
                target=thing,
                description=str(getattr(thing, "description", "")),
                origin=plugin.origin,
            )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"its process describes {kind} that make no sense ({where}: {first['msg']})"
        yield Entry(plugin.name, None, origin=plugin.origin, problem=problem)
    # A process may describe anything; a broken plugin must not break the others.
    except Exception as error:
        problem = f"its process describes {kind} that make no sense"
        problem = str(error) if isinstance(error, DynbenchError) else problem
        yield Entry(plugin.name, None, origin=plugin.origin, problem=problem)


def start_process(plugin: Plugin, *reads: Path) -> ChildProcess:
    """Return a new process that has the plugin and all folders in use at hand.

    reads: what it may read besides. Raises ForeignCodeError where it ends.
    """
    from robustbench_dyn.isolation.process import ChildProcess, reported

    folders = list(dict.fromkeys([plugin.folder, *folders_in_use()]))
    who = f"plugin {plugin.name!r} from {plugin.origin}"
    process = ChildProcess(who, limits=limits_in_use(), reads=[*folders, *reads])
    with reported(who):
        process.call(f"{SERVICE}:use", {"folders": [str(folder) for folder in folders]})
    return process


def process_of(plugin: Plugin) -> ChildProcess:
    """Return the process of a plugin's attacks: one for all calls, as long as it lives."""
    place = (plugin.folder, hash_code(plugin.folder), limits_in_use())
    process = _PROCESSES.get(place)
    if process is None or process.has_ended:
        process = _PROCESSES[place] = start_process(plugin)
    return process


@cache
def _described(folder: Path, code_sha256: str, origin: str) -> dict[str, list[Any]] | str:
    """Return what a plugin brings, by kind, or why that is not known."""
    from robustbench_dyn.isolation.process import reported

    del code_sha256  # it is here for the cache: code that was edited is described again
    try:
        process = process_of(Plugin(folder.name, folder, origin))
        with reported():
            told = process.call(f"{SERVICE}:describe", {"folder": str(folder)}, times=_TO_IMPORT)
        return {
            kind: [thing for thing in things if isinstance(thing, dict)]
            for kind, things in told.content.items()
            if isinstance(things, list)
        }
    # The plugin's code may raise anything there.
    except Exception as error:
        return str(error) if isinstance(error, DynbenchError) else f"it fails: {error}"
