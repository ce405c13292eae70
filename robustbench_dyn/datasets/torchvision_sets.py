"""Data sets that torchvision reads and downloads; each failure becomes one of two errors."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from robustbench_dyn.datasets.search_path import DATA_VARIABLE, download_root, search_roots
from robustbench_dyn.errors import DataUnavailableError, IntegrityError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from robustbench_dyn.datasets.dataset import Split

_STALLED_AFTER_SECONDS = 30.0


@dataclass(frozen=True)
class TorchvisionSet:
    """A class in torchvision.datasets and the files, relative to its root, that it needs."""

    class_name: str
    folder: str
    files: tuple[str, ...]

    def lies_in(self, root: Path) -> bool:
        """Tell whether every file is there; says nothing about what is in them."""
        return all((root / self.folder / file).is_file() for file in self.files)


class DataAndTargets(NamedTuple):
    """torchvision's arrays of a split, in torchvision's own axis order."""

    data: NDArray[Any]
    targets: NDArray[Any]


def read_or_download(
    torchvision_set: TorchvisionSet, *, split: Split, data_dir: Path | None
) -> DataAndTargets:
    """Read a split from the first root that holds it, else download it and read it.

    Raises IntegrityError where files are there but unreadable, and DataUnavailableError where
    they are nowhere and the download fails, or torchvision cannot be imported.
    """
    roots = search_roots(data_dir)
    for root in roots:
        if torchvision_set.lies_in(root):
            return _read(torchvision_set, root, split)
    root = download_root(data_dir)
    reason = download(torchvision_set.class_name, root)
    if reason is not None:
        raise DataUnavailableError(
            f"{torchvision_set.class_name} is in none of {', '.join(map(str, roots))}, and its "
            f"download failed ({reason}); either give the folder that holds "
            f"{torchvision_set.folder} as --data-dir (data_dir=) or in {DATA_VARIABLE}, or "
            "connect to a network for torchvision's download"
        )
    return _read(torchvision_set, root, split)


def download(class_name: str, root: Path) -> str | None:
    """Have torchvision download a data set into root; return why it failed, None if it did not."""
    try:
        kind = _import_class(class_name)
        with _giving_up_on_stalled_sockets():
            kind(str(root), train=True, download=True)
    except DataUnavailableError as error:
        return str(error)
    # Sockets, HTTP, TLS, gzip, tarfile, pickle, full disks and bare RuntimeErrors all arrive here;
    # each of them means the same to the caller, who reports the reason.
    except Exception as error:
        return _one_line(error)
    return None


def _read(torchvision_set: TorchvisionSet, root: Path, split: Split) -> DataAndTargets:
    kind = _import_class(torchvision_set.class_name)
    try:
        examples = kind(str(root), train=split == "train", download=False)
        return DataAndTargets(np.asarray(examples.data), np.asarray(examples.targets))
    # Damaged files make torchvision raise anything from AssertionError to UnpicklingError.
    except Exception as error:
        folder = root / torchvision_set.folder
        raise IntegrityError(
            f"{folder} is not the {torchvision_set.class_name} that torchvision expects "
            f"({_one_line(error)}); delete that folder and load it again to download it anew"
        ) from error


def _import_class(class_name: str) -> Callable[..., Any]:
    """Import torchvision, which takes seconds and is rarely needed, and pick its class.

    Raises DataUnavailableError where torchvision cannot be imported.
    """
    try:
        module = importlib.import_module("torchvision.datasets")
    # A torchvision built for another torch is common, and raises RuntimeError on import.
    except (ImportError, RuntimeError, OSError) as error:
        raise DataUnavailableError(
            f"torchvision, which reads {class_name}, cannot be imported ({_one_line(error)}); "
            "install the build of torchvision that matches your torch"
        ) from error
    return cast("Callable[..., Any]", getattr(module, class_name))


@contextmanager
def _giving_up_on_stalled_sockets() -> Iterator[None]:
    """Bound each wait for the network, as torchvision sets no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED_AFTER_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
