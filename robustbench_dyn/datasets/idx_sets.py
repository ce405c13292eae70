"""Data sets of the MNIST family: two IDX files a split, found on this machine or fetched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robustbench_dyn.datasets.dataset import RawSplit, Split
from robustbench_dyn.datasets.download import download, from_first_mirror
from robustbench_dyn.datasets.published import PublishedFile, PublishedSet
from robustbench_dyn.datasets.search_path import DATA_VARIABLE, download_root, search_roots
from robustbench_dyn.datasets.verified_files import (
    LATER,
    REMEDY,
    find_together,
    gunzip_verified,
    most_packed_bytes,
    read_verified,
)
from robustbench_dyn.errors import DataUnavailableError
from robustbench_dyn.files import write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".gz", "")


def read_or_fetch(
    published: PublishedSet,
    split: Split,
    data_dir: Path | None,
    *,
    system_folders: Sequence[Path] = (),
    other_remedy: str = "",
) -> RawSplit:
    """Read a split from the first folder that holds it, else download it; x is (n, 1, H, W).

    system_folders: searched after the named folders, before the cache. other_remedy: one more thing
    that the user can do, for the message.
    Raises IntegrityError where a file is not the published one, DataUnavailableError where the
    split is nowhere and cannot be downloaded, and OutputError where it cannot be stored.
    """
    files = published.files[split]
    folders = list(_candidate_folders(published, data_dir, system_folders))
    paths = find_together(files, folders, suffixes=SUFFIXES)
    if paths is None:
        target = download_root(data_dir) / published.folder
        try:
            paths = [_fetch(file, published.mirrors, target) for file in files]
        except DataUnavailableError as error:
            looked_in = ", ".join(map(str, (*search_roots(data_dir), *system_folders)))
            raise DataUnavailableError(
                f"the {split} split of {published.title} is in none of {looked_in}, and its "
                f"download failed ({error}); do one of these: give the folder that holds "
                f"{files[0].name}.gz as --data-dir (data_dir=) or in {DATA_VARIABLE}; "
                f"{other_remedy}connect to a network"
            ) from error
    return read_split(files, paths)


def read_split(
    files: Sequence[PublishedFile], paths: Sequence[Path], *, remedy: str = REMEDY
) -> RawSplit:
    """Read the images and the labels of a split; raises IntegrityError as read_verified does."""
    images, labels = (
        parse_idx(read_verified(path, file, remedy=remedy), file)
        for path, file in zip(paths, files, strict=True)
    )
    return RawSplit(x=images[:, None], y=labels, white=255)


def read_shipped(files: Sequence[PublishedFile], folder: Path) -> RawSplit:
    """Read images and labels that come with this package, packed, in a folder of it.

    Raises IntegrityError where a file is damaged.
    """
    paths = [folder / f"{file.name}.gz" for file in files]
    return read_split(files, paths, remedy="reinstall robustbench-dyn")


def parse_idx(content: bytes, file: PublishedFile) -> NDArray[np.uint8]:
    """Return the array in a verified IDX file, whose header is therefore the published one."""
    header = file.n_bytes - math.prod(file.shape)
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(file.shape)


def _candidate_folders(
    published: PublishedSet, data_dir: Path | None, system_folders: Sequence[Path]
) -> Iterator[Path]:
    *named, cache = search_roots(data_dir)
    for root in named:
        # The root itself comes last, since sets of this family have the same file names.
        yield from (root / published.folder, root / published.title.lower(), root)
    yield from system_folders
    yield cache / published.folder


def _fetch(file: PublishedFile, mirrors: Sequence[str], folder: Path) -> Path:
    """Download a .gz file, and store it once its content is right."""
    path = folder / f"{file.name}.gz"

    def use(url: str) -> bytes:
        with download(url, most_bytes=most_packed_bytes(file)) as stream:
            stream.seek(0)
            compressed = stream.read()
        gunzip_verified(compressed, file, origin=url, remedy=LATER)
        return compressed

    content = from_first_mirror((f"{mirror}{path.name}" for mirror in mirrors), use)
    write_bytes(path, content)
    return path
