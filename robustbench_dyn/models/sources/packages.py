"""Packages that sources need: import them, and say in one sentence what is missing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

from robustbench_dyn.errors import DataUnavailableError, DynbenchError, RegistryError, one_line
from robustbench_dyn.models.sources.base import absent
from robustbench_dyn.models.sources.unused_parts import import_torchvision, standing_in

_READ_AS_DATA = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
# By name, since the libraries that define them may not be installed.
_OF_THE_NETWORK = frozenset(
    {
        "ConnectionError",
        "TimeoutError",
        "URLError",
        "RequestException",
        "TransportError",
        "HTTPError",
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "FileURLRetrievalError",
    }
)


def require(package: str, wanted_by: str, install: str, *, without: tuple[str, ...] = ()) -> Any:
    """Import a module of a package; raises RegistryError, with the pip command, where it fails.

    wanted_by: what needs it, for the message. install: what pip is given. without: modules that the
    package imports, and that no part of it uses which is used here; they need not be installed.
    """
    name = package.partition(".")[0]
    try:
        # What the libraries say of each other's old names is not for the user.
        with warnings.catch_warnings(), standing_in(*without):
            warnings.simplefilter("ignore")
            import_torchvision()
            return import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise RegistryError(absent(missing, wanted_by, install)) from error
    # A package may fail in any way, as when it was built for another torch.
    except Exception as error:
        raise RegistryError(
            f"{wanted_by} needs the package {name}, which cannot be imported: "
            f"{type(error).__name__}: {one_line(str(error))}; install it again: "
            f"pip install --force-reinstall {install}"
        ) from error


def version(package: str) -> str:
    """Return the name and the version of a package that is installed."""
    return f"{package} {metadata.version(package)}"


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Tell of a library's failures in one sentence; checkpoints are read as data, without code.

    what: the model, for messages. Raises DataUnavailableError where the network is at fault, and
    RegistryError for any other failure of the library.
    """
    before = os.environ.get(_READ_AS_DATA)
    os.environ[_READ_AS_DATA] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DynbenchError:
        raise
    # A library may raise anything, and one of them calls sys.exit().
    except (Exception, SystemExit) as error:
        if is_of_the_network(error):
            raise DataUnavailableError(
                f"{what} is not on this machine, and its download failed: "
                f"{one_line(_first_cause(error))}; try again with a network"
            ) from error
        raise RegistryError(
            f"{what} cannot be loaded: {type(error).__name__}: {one_line(str(error))}"
        ) from error
    finally:
        if before is None:
            del os.environ[_READ_AS_DATA]
        else:
            os.environ[_READ_AS_DATA] = before


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def is_of_the_network(error: BaseException) -> bool:
    """Say whether an error of a library, or what caused it, is that of a connection."""
    return any(
        base.__name__ in _OF_THE_NETWORK for cause in _causes(error) for base in type(cause).__mro__
    )


def _first_cause(error: BaseException) -> str:
    """Return what failed first: of a chain of errors, the last one that says something."""
    told = [f"{type(cause).__name__}: {cause}" for cause in _causes(error) if str(cause)]
    return told[-1] if told else type(error).__name__
