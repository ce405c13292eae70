"""The CIFAR data sets: pickled batches of 32 x 32 colour images, found here or fetched."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from robustbench_dyn.datasets.dataset import RawSplit, Split
from robustbench_dyn.datasets.download import download, from_first_mirror
from robustbench_dyn.datasets.published import PublishedFile, PublishedSet
from robustbench_dyn.datasets.search_path import DATA_VARIABLE, download_root, search_roots
from robustbench_dyn.datasets.verified_files import (
    LATER,
    check_content,
    find_together,
    read_verified,
)
from robustbench_dyn.errors import DataUnavailableError, IntegrityError
from robustbench_dyn.files import write_bytes


@dataclass(frozen=True)
class CifarSet:
    """The published files of a set, the archive that holds them, and where it is served.

    labels: the key of the labels in a batch.
    """

    published: PublishedSet
    archive: PublishedFile
    mirrors: Sequence[str]
    labels: str


def read_or_fetch(cifar: CifarSet, split: Split, data_dir: Path | None) -> RawSplit:
    """Read a split from the first folder that holds it, else download it; x is (n, 3, 32, 32).

    The examples are in the order of the files, which torchvision and RobustBench keep.
    Raises IntegrityError where a file is not the published one, DataUnavailableError where the
    split is nowhere and cannot be downloaded, and OutputError where it cannot be stored.
    """
    published = cifar.published
    files = published.files[split]
    roots = search_roots(data_dir)
    folders = [folder for root in roots for folder in (root / published.folder, root)]
    paths = find_together(files, folders, suffixes=("",))
    if paths is None:
        target = download_root(data_dir) / published.folder
        try:
            _fetch(cifar, target)
        except DataUnavailableError as error:
            raise DataUnavailableError(
                f"{published.title} is in none of {', '.join(map(str, roots))}, and its download "
                f"failed ({error}); do one of these: give the folder that holds "
                f"{published.folder} as --data-dir (data_dir=) or in {DATA_VARIABLE}; connect to a "
                "network"
            ) from error
        paths = [target / file.name for file in files]
    batches = [_read(path, file) for path, file in zip(paths, files, strict=True)]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([np.asarray(batch[cifar.labels]) for batch in batches])
    return RawSplit(x=images, y=labels, white=255)


class _Arrays(pickle.Unpickler):
    """Unpickle arrays, lists and strings: nothing that could run code."""

    _RECONSTRUCT = np.zeros(0).__reduce__()[0]

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name.startswith("numpy"):
            known = {"_reconstruct": self._RECONSTRUCT, "ndarray": np.ndarray, "dtype": np.dtype}
            if global_name in known:
                return known[global_name]
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def _read(path: Path, file: PublishedFile) -> dict[str, Any]:
    """Read a batch: data (n, 3072) and labels; it is unpickled only after its SHA-256 is right."""
    content = read_verified(path, file)
    batch: dict[str, Any] = _Arrays(io.BytesIO(content), encoding="latin1").load()
    return batch


def _fetch(cifar: CifarSet, folder: Path) -> None:
    """Download the archive, and store each batch in it once its content is right."""
    urls = (f"{mirror}{cifar.archive.name}" for mirror in cifar.mirrors)
    with (
        from_first_mirror(urls, partial(_fetch_archive, cifar.archive)) as archive,
        tarfile.open(fileobj=archive, mode="r:gz") as members,
    ):
        for file in (file for files in cifar.published.files.values() for file in files):
            name = str(cifar.published.folder / file.name)
            member = members.extractfile(name)
            content = b"" if member is None else member.read(file.n_bytes + 1)
            check_content(io.BytesIO(content), file, origin=name, remedy=LATER)
            write_bytes(folder / file.name, content)


def _fetch_archive(file: PublishedFile, url: str) -> IO[bytes]:
    archive = download(url, most_bytes=file.n_bytes)
    try:
        check_content(archive, file, origin=url, remedy=LATER)
    except IntegrityError:
        archive.close()
        raise
    archive.seek(0)
    return archive
