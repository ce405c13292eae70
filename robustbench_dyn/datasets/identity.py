"""SHA-256 of data: of arrays as they were read, and names made of a hash."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of a hash, in a name.
_DIGITS = 8
_LONGEST_STEM = 60


def fingerprint(x: NDArray[Any], y: NDArray[np.integer[Any]]) -> str:
    """SHA-256 of x's own bytes (little-endian), then of y as one byte a label.

    Labels above 255 do not fit a byte, and have eight.
    """
    little_endian = x.dtype.newbyteorder("<")
    digest = hashlib.sha256(x.astype(little_endian, copy=False).tobytes())
    digest.update(_bytes_of(y))
    return digest.hexdigest()


def _bytes_of(labels: NDArray[np.integer[Any]]) -> bytes:
    wide = labels.size and labels.max() > np.iinfo(np.uint8).max
    return labels.astype("<i8" if wide else np.uint8).tobytes()


def name_of(stem: str, sha256: str) -> str:
    """Return the name of data that nothing registered: custom-1a2b3c4d.

    stem: any text, of which what a name may hold is kept. The suffix is the first digits of the
    hash; no registered data set has such a name.
    """
    kept = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:_LONGEST_STEM]
    kept = kept if kept[:1].isalpha() else f"data_{kept}".rstrip("_")
    return f"{kept}-{sha256[:_DIGITS]}"
