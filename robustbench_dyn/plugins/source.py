"""The code of a plugin as text: what is wrong with it, found without running any of it."""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from robustbench_dyn.errors import one_line, shown
from robustbench_dyn.plugins.card import Kind

# A module is written by a person; a parser takes long for what is not.
_LARGEST = 2**20
_PACKAGE = __name__.partition(".")[0]


def problem_of_code(folder: Path, provides: tuple[Kind, ...]) -> str:
    """Return why the code in a plugin's folder cannot work, or nothing where none is seen.

    Read are __init__.py and the modules beside it that it imports: their syntax, the packages that
    they import, and whether __init__.py defines what the card provides. Names that are made in
    other ways (by `from .x import *`, exec or __getattr__) are believed to be there.
    """
    try:
        changed = tuple(
            (path.name, path.stat().st_mtime_ns, path.stat().st_size)
            for path in sorted(folder.glob("*.py"))
        )
    except OSError:
        changed = ()
    return _problem(folder, provides, changed)


@cache
def _problem(
    folder: Path, provides: tuple[Kind, ...], changed: tuple[tuple[str, int, int], ...]
) -> str:
    del changed  # it is here for the cache: code that was edited is read again
    entry = folder / "__init__.py"
    if not entry.is_file():
        return "it has no __init__.py; write one that defines what card.yaml promises"
    waiting, seen = [entry], set[Path]()
    trees = dict[Path, ast.Module]()
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        tree = _parse(path)
        if isinstance(tree, str):
            return tree
        trees[path] = tree
        for module in _needed(tree):
            if not _is_there(module):
                return (
                    f"its {path.name} imports {shown(module)}, which is not installed: pip install "
                    f"it, and name its package under requires in card.yaml"
                )
        for module in _beside(tree):
            found = _module_file(folder, module)
            if found is None:
                return f"its {path.name} imports .{module}, and there is no {module}.py"
            # What lies deeper has relative imports of its own meaning.
            if found.parent == folder:
                waiting.append(found)
    return _missing(trees[entry], provides)


def _parse(path: Path) -> ast.Module | str:
    """Return the syntax tree of a module, or what is wrong with it."""
    try:
        if path.stat().st_size > _LARGEST:
            return f"its {path.name} is larger than {_LARGEST // 2**20} MiB"
        source = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        return f"its {path.name} is no Python{where}: {one_line(str(error.msg))}; mend it"
    # Of odd bytes, of nests of brackets, of files of other users.
    except (ValueError, RecursionError, MemoryError, OSError) as error:
        return f"its {path.name} cannot be read: {type(error).__name__}: {one_line(str(error))}"


def _needed(tree: ast.Module) -> Iterator[str]:
    """Yield the packages whose import no `try` and no `if` guards."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and not statement.level and statement.module:
            yield statement.module.partition(".")[0]


def _beside(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of the same folder that a module imports."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.level == 1:
            if statement.module:
                yield statement.module.partition(".")[0]
            else:
                yield from (alias.name for alias in statement.names if alias.name != "*")


def _is_there(package: str) -> bool:
    if package == _PACKAGE:
        return True
    try:
        return importlib.util.find_spec(package) is not None
    # The finders of other packages may raise anything; the import will tell.
    except Exception:
        return True


def _module_file(folder: Path, module: str) -> Path | None:
    for path in (folder / f"{module}.py", folder / module / "__init__.py"):
        if path.is_file():
            return path
    # A folder without __init__.py is a namespace, and a compiled module has a suffix of its own.
    others = (folder / module).is_dir() or any(folder.glob(f"{module}.*"))
    return folder / module / "_" if others else None


def _missing(tree: ast.Module, provides: tuple[Kind, ...]) -> str:
    """Return which name that the card promises is nowhere defined, or nothing."""
    names = set(_defined(tree.body))
    if any(isinstance(statement, ast.Raise) for statement in tree.body):
        return ""  # its import will tell why
    if names & {"*", "__getattr__", "exec", "globals", "setattr"}:
        return ""
    for kind in provides:
        if kind == "architecture" and "build" not in names:
            return (
                "its __init__.py must define build(input_shape, n_classes, **options) -> nn.Module"
            )
        if kind != "architecture" and kind.upper() not in names:
            return (
                f"its card.yaml promises {kind}, and its __init__.py does not define "
                f"{kind.upper()}, a tuple of them"
            )
    return ""


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements may bind or call, those inside of if and try included."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
            continue
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from (a.asname or a.name.partition(".")[0] for a in statement.names)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                yield from (a.asname or a.name.partition(".")[0] for a in node.names)
