"""Models of a function in a Python file of the user's own."""

from __future__ import annotations

import hashlib
import inspect
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from robustbench_dyn.errors import InputError, RegistryError, one_line, shown
from robustbench_dyn.models.sources.base import Loaded, Source, Task, safe
from robustbench_dyn.models.sources.checkpoints import fill_from_file


class PythonFile(Source):
    """module:FILE.py:FUNCTION, a function that returns a network.

    It is called without arguments, or with input_shape and n_classes where it takes them. The
    network maps (batch, *input_shape) in [0, 1] to logits, with any normalisation inside. The code
    runs inside this process: it is the user's own.
    """

    name = "module"
    form = "module:FILE.py:FUNCTION"
    description = "a function in a Python file of yours that returns a torch.nn.Module"
    takes_weights = True
    only_files = True
    runs_own_code = True

    def check(self, reference: str) -> None:
        """Raise InputError unless the reference is FILE.py:FUNCTION, and the file exists."""
        _split(reference)

    def table_name(self, reference: str) -> str:
        """Return module/FILE/FUNCTION, without folders and suffix."""
        path, function = _split(reference)
        return f"{self.name}/{safe(path.stem)[:60]}/{safe(function)}"

    def absolute(self, reference: str) -> str:
        """Return FILE.py:FUNCTION with the whole path of the file."""
        path, function = _split(reference)
        return f"{path.resolve()}:{function}"

    def load(self, reference: str, task: Task, weights: Path | None, *, local: bool) -> Loaded:
        """Import the file, call the function, and fill what it returns."""
        import torch
        from torch import nn

        del local
        path, function = _split(reference)
        content = path.read_bytes()
        code = hashlib.sha256(content).hexdigest()
        # Random weights are the same ones each time: a run resumes, and shards agree.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _called(_imported(path, code), function, path, task)
        if not isinstance(network, nn.Module):
            raise RegistryError(
                f"{function} of {path} returned {type(network).__name__}; it must return a "
                "torch.nn.Module"
            )
        sha256 = "" if weights is None else fill_from_file(network, weights)
        return Loaded(network, weights_sha256=sha256, code_sha256=code, measured=True)


def _split(reference: str) -> tuple[Path, str]:
    file, _, function = reference.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise InputError(
            f"module:{shown(reference)} names no function of a file; give "
            "module:FILE.py:FUNCTION, as module:nets/mine.py:build"
        )
    path = Path(file)
    try:
        exists = path.is_file()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise InputError(f"there is no file {shown(file)}; give module:FILE.py:FUNCTION")
    return path, function


def _imported(path: Path, sha256: str) -> ModuleType:
    name = f"dynbench_module_{safe(path.stem).replace('.', '_')}_{sha256[:12]}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    # Last, so that no file beside it takes the place of an installed module.
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    # It is the user's code.
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RegistryError(
            f"{path} cannot be imported: {type(error).__name__}: {one_line(str(error))}"
        ) from error
    return module


def _called(module: ModuleType, function: str, path: Path, task: Task) -> Any:
    made = getattr(module, function, None)
    if not callable(made):
        there = [
            n for n, v in vars(module).items() if callable(v) and v.__module__ == module.__name__
        ]
        raise InputError(
            f"{path} has no function {function!r}; it has: {', '.join(there) or 'none'}"
        )
    facts = {"input_shape": task.input_shape, "n_classes": task.n_classes}
    try:
        taken = inspect.signature(made).parameters
        given = {name: fact for name, fact in facts.items() if name in taken}
        for name, fact in given.items():
            if fact is None and taken[name].default is inspect.Parameter.empty:
                raise InputError(f"{function} of {path} takes {name}; give the data set as well")
        return made(**{name: fact for name, fact in given.items() if fact is not None})
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"{function} of {path} made no network: {type(error).__name__}: {one_line(str(error))}"
        ) from error
