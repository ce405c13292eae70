"""Data sets in IDX files, the format of MNIST: images and labels in a file each, plain or .gz."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, Split
from robustbench_dyn.datasets.sources.examples import ArrayExamples, Examples, data_set, existing
from robustbench_dyn.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNSIGNED_BYTE = 8
_PIECE = 2**20
_IMAGES, _LABELS = (re.compile(rf"{kind}[.-]idx\d-ubyte(\.gz)?$") for kind in ("images", "labels"))
_TEST = re.compile(r"t10k|test|val")


def from_idx(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
) -> DatasetInfo:
    """Return the data set in IDX files.

    images and labels: two files, which are the test split; or images alone, a folder that has the
    four files of the MNIST family, such as t10k-images-idx3-ubyte.gz. name: as a plugin registers
    it; None names it by the file or folder and its hash.
    Raises InputError where a file is missing, and IntegrityError where one is damaged.
    """
    path = existing(images, "an IDX file of images, or a folder of IDX files")
    pairs: dict[Split, tuple[Path, Path]]
    if labels is not None:
        pairs = {"test": (path, existing(labels, "an IDX file of labels"))}
    elif path.is_dir():
        pairs = _pairs(path)
    else:
        raise InputError(f"{path} has images; give the file of their labels too: idx:IMAGES,LABELS")
    splits: dict[Split, Examples] = {
        split: ArrayExamples(read_idx(x), read_idx(y), origin=str(x))
        for split, (x, y) in pairs.items()
    }
    stem = path.resolve().name.split(".")[0]
    return data_set(splits, name=name, stem=stem, source=str(path))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the array of unsigned bytes in an IDX file, uncompressed where its name ends in .gz.

    Raises IntegrityError where the file is no such file, or longer or shorter than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            magic = stream.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE:
                raise IntegrityError(
                    f"{path} is no IDX file of bytes: it begins with {magic.hex()}, expected 000008"
                )
            shape = np.frombuffer(stream.read(4 * magic[3]), ">u4").tolist()
            n = math.prod(shape)
            content = _read_at_most(stream, n + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise IntegrityError(f"{path} cannot be read ({error}); replace it") from error
    if len(shape) != magic[3] or len(content) != n:
        says = " x ".join(map(str, shape))
        raise IntegrityError(
            f"{path} holds {'more than ' if len(content) > n else ''}{min(n, len(content))} bytes, "
            f"and its header says {says}; it is truncated or damaged: replace it"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_at_most(stream: Any, n: int) -> bytes:
    """Read n bytes, or all that there are; the memory it takes is that of what is there."""
    content = bytearray()
    while len(content) < n and (piece := stream.read(min(_PIECE, n - len(content)))):
        content += piece
    return bytes(content)


def _pairs(folder: Path) -> dict[Split, tuple[Path, Path]]:
    """Return the files of images and of labels of each split in a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file())

    def find(kind: re.Pattern[str], split: Split) -> Path | None:
        fitting = (path for path in files if kind.search(path.name))
        return next((p for p in fitting if bool(_TEST.search(p.name)) == (split == "test")), None)

    found = dict[Split, tuple[Path, Path]]()
    for split in ("test", "train"):
        images, labels = find(_IMAGES, split), find(_LABELS, split)
        if images and labels:
            found[split] = images, labels
    if "test" not in found:
        raise InputError(
            f"{folder} has no IDX files of a test split; give t10k-images-idx3-ubyte and "
            "t10k-labels-idx1-ubyte (.gz or not), or two files: idx:IMAGES,LABELS"
        )
    return found
