"""Find plugins: shipped folders, folders that the user names, entry points of packages."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import (
    EntryPoint,
    PackageNotFoundError,
    distributions,
    entry_points,
    version,
)
from pathlib import Path
from types import ModuleType
from typing import Any

from robustbench_dyn.errors import DynbenchError, RegistryError, one_line, shown
from robustbench_dyn.isolation.limits import Limits
from robustbench_dyn.plugins.card import Card, Kind
from robustbench_dyn.plugins.source import problem_of_code
from robustbench_dyn.resources import shipped
from robustbench_dyn.strict_yaml import read_yaml

log = logging.getLogger(__name__)

# The second one is of packages that bring architectures alone.
ENTRY_POINT_GROUPS = ("robustbench_dyn", "robustbench_dyn.architectures")

_MODULE_PREFIX = "_dynbench_plugin_"

_registered: list[Path] = []
# Folders whose plugins may run in this process; the root of all stands for every plugin.
_trusted: list[Path] = []
_EVERYTHING = Path("/")
_limits = [Limits()]


@dataclass(frozen=True)
class Plugin:
    """A plugin as found, before its code is imported: a card, or the problem that it has.

    name: as in the card, or the folder's name. origin: the folder or package, for messages.
    """

    name: str
    folder: Path
    origin: str
    card: Card | None = None
    problem: str = ""

    def provides(self, kind: Kind) -> bool:
        """Whether the card names that kind; without a card, the plugin may bring any."""
        return self.card is None or kind in self.card.provides


def load_plugins(*folders: str | Path, trust: bool = False) -> None:
    """Use the plugins in these folders, each a plugin or a folder of plugins, from now on.

    trust: run their code inside this process, where it can do all that the user can; otherwise it
    runs in a process of its own, with limits (docs/security.md). A folder that is in use already
    changes nothing, but for trust. Raises RegistryError where one does not exist.
    """
    for folder in folders:
        if not isinstance(folder, (str, Path)):
            raise RegistryError(f"{shown(folder)} is no path of a plugin folder; give a folder")
        root = _existing(Path(folder))
        if root not in _registered:
            _registered.append(root)
        if trust and root not in _trusted:
            _trusted.append(root)


def trust_plugins() -> None:
    """Run the code of all plugins inside this process, those of installed packages included."""
    _trusted.append(_EVERYTHING)


def limit_plugins(limits: Limits) -> None:
    """Set the limits of the processes that run plugins from now on."""
    _limits[:] = [limits]


def limits_in_use() -> Limits:
    """Return the limits of the processes that run plugins."""
    return _limits[-1]


def folders_in_use() -> list[Path]:
    """Return the folders that load_plugins was given."""
    return [*_registered]


def is_trusted(plugin: Plugin) -> bool:
    """Return whether a plugin may run inside this process: it ships, or the user trusts it."""
    roots = [shipped("plugins").resolve(), *_trusted]
    return _EVERYTHING in roots or any(plugin.folder.is_relative_to(root) for root in roots)


def find_plugins(*folders: Path) -> list[Plugin]:
    """Return the shipped plugins, those in use, those in folders, and those of installed packages.

    A folder is one plugin where it holds card.yaml, and otherwise a folder of plugins, or the
    project of a package that has them in src/. Raises RegistryError where a folder does not exist.
    """
    found = dict[Path, Plugin]()
    for root in (shipped("plugins"), *_registered, *folders):
        for folder in plugin_folders(_existing(root)):
            found.setdefault(folder, read_plugin(folder, f"the folder {folder}"))
    for origin, folder in _packaged(tuple(sys.path)):
        found.setdefault(folder, read_plugin(folder, origin))
    return list(found.values())


def read_plugin(folder: Path, origin: str) -> Plugin:
    """Read the card and the code of the plugin in a folder, without running any of it."""
    try:
        changed = (folder / "card.yaml").stat().st_mtime_ns
    except (OSError, ValueError):  # reading it will say why
        changed = 0
    card = _read_card(folder, changed)
    if isinstance(card, str):
        return Plugin(folder.name, folder, origin, problem=card)
    missing = [package for package in card.requires if not _installed(package)]
    problem = ""
    if missing:
        # Found without importing the plugin, which a list of all names must not do.
        problem = (
            f"it needs {' and '.join(missing)}, which is not installed: "
            f"pip install {' '.join(missing)}"
        )
    return Plugin(
        card.name, folder, origin, card, problem or problem_of_code(folder, card.provides)
    )


def import_plugin(plugin: Plugin) -> ModuleType:
    """Import the plugin's __init__.py; raises RegistryError, with the reason, where that fails.

    That may be because the plugin is not trusted.
    """
    if plugin.problem:
        raise RegistryError(plugin.problem)
    if not is_trusted(plugin):
        raise RegistryError(
            "its code is not part of this package, and what it does there cannot be done in a "
            "process of its own; give --trust (in Python: load_plugins(FOLDER, trust=True)) to "
            "run it inside this one"
        )
    module = _import_folder(plugin.folder, plugin.name, hash_code(plugin.folder))
    if isinstance(module, str):
        raise RegistryError(module)
    return module


def hash_code(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of a folder's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        if not path.is_file():
            continue
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def code_of(thing: Callable[..., Any]) -> str:
    """Return the SHA-256 of the code that defines a class or function of a plugin.

    That is all Python files of its folder; outside of plugins, the file that defines it. Empty for
    this package, whose parts have versions, and for what no file defines.
    """
    plugin = getattr(thing, "plugin", None)
    if isinstance(plugin, Plugin):  # a stand-in for a class of a plugin in another process
        return hash_code(plugin.folder)
    root = thing.__module__.partition(".")[0]
    if root == __name__.partition(".")[0]:
        return ""
    if is_plugin_module(root):
        return hash_code(Path(sys.modules[root].__path__[0]))
    try:
        return hashlib.sha256(Path(inspect.getfile(thing)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # defined in a notebook or a shell
        return ""


def is_plugin_module(name: str) -> bool:
    """Whether a module of this name is code of a plugin."""
    return name.startswith(_MODULE_PREFIX)


def _existing(root: Path) -> Path:
    try:
        if root.is_dir():
            return root.resolve()
    except OSError as error:
        raise RegistryError(
            f"the plugin folder {shown(str(root))} cannot be used: {error.strerror}"
        ) from error
    raise RegistryError(f"the plugin folder {root} does not exist; give a folder")


def plugin_folders(root: Path) -> list[Path]:
    """Return the folder itself where it is a plugin, and otherwise the plugins in it.

    Those of the project of a package lie in its folder src. Raises RegistryError where the folder
    cannot be read.
    """
    if (root / "card.yaml").is_file():
        return [root]
    try:
        inside = [folder.resolve() for folder in sorted(root.iterdir()) if _is_plugin(folder)]
        if not inside and (root / "pyproject.toml").is_file() and (root / "src").is_dir():
            return plugin_folders(root / "src")
        return inside
    except OSError as error:
        raise RegistryError(f"the plugin folder {root} cannot be read: {error.strerror}") from error


def _is_plugin(folder: Path) -> bool:
    try:
        return (folder / "card.yaml").is_file() or (folder / "__init__.py").is_file()
    except OSError:  # of another user
        return False


@cache
def _packaged(path: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Return origin and folder of each plugin of an installed package; path: as sys.path is."""
    del path  # it is here for the cache: a scan of all packages takes longer than all else
    found = list[tuple[str, Path]]()
    for entry in _entry_points():
        package = entry.dist.name if entry.dist else "an installed package"
        origin = f"the package {package} (entry point {one_line(f'{entry.name} = {entry.value}')})"
        found.append((origin, _entry_folder(entry)))
    return found


def _entry_points() -> list[EntryPoint]:
    try:
        return [entry for group in ENTRY_POINT_GROUPS for entry in entry_points(group=group)]
    # One package whose entry_points.txt cannot be read must not hide those of the others.
    except Exception:
        found = list[EntryPoint]()
        for package in distributions():
            try:
                found += [e for e in package.entry_points if e.group in ENTRY_POINT_GROUPS]
            except Exception as error:
                log.warning(
                    "the entry points of an installed package cannot be read: %s: %s; reinstall it",
                    getattr(package, "_path", "unknown"),
                    one_line(str(error)),
                )
        return found


def _entry_folder(entry: EntryPoint) -> Path:
    """Return the folder of an entry point's module, found without importing any package."""
    module = entry.value.partition(":")[0].partition("[")[0].strip()
    top, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for part in parts:
            # find_spec("a.b") would import a, whose code may do and raise anything.
            inside = spec.submodule_search_locations if spec is not None else None
            spec = PathFinder.find_spec(part, [*inside]) if inside is not None else None
    # The finders of other packages and odd names may raise anything.
    except Exception:
        spec = None
    if spec is None or spec.origin is None or not spec.has_location:
        # Such a folder does not exist, so the plugin's problem names the module.
        return Path(f"<module {shown(module)} not found>") / (entry.name or "unnamed")
    return Path(spec.origin).resolve().parent


@cache
def _read_card(folder: Path, changed: int) -> Card | str:
    """Return a plugin's card, or what is wrong with it."""
    del changed  # it is here for the cache: a card that was edited is read again
    try:
        return read_yaml(folder / "card.yaml", Card)
    except DynbenchError as error:
        return str(error)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


@cache
def _import_folder(folder: Path, name: str, code_sha256: str) -> ModuleType | str:
    """Return the module of a folder, or the reason why it cannot be imported."""
    # A name of its own in sys.modules: a plugin must not shadow an installed package.
    place = hashlib.sha256(f"{folder} {code_sha256}".encode()).hexdigest()[:16]
    module_name = f"{_MODULE_PREFIX}{name}_{place}"
    path = folder / "__init__.py"
    if not path.is_file():
        return "it has no __init__.py"
    spec = importlib.util.spec_from_file_location(
        module_name, path, submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        return "its __init__.py is no Python module"
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    # A plugin's code may raise anything, which must not stop the other plugins.
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        return f"it cannot be imported: {type(error).__name__}: {error}"
    return module
