"""The IDX format of the MNIST family: a big-endian header, then unsigned bytes.

Format: http://yann.lecun.com/exdb/mnist, "The IDX file format".
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from robustbench_dyn.errors import IntegrityError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNSIGNED_BYTE = 0x08
_GZIP_CONTAINER = 16 + zlib.MAX_WBITS


def parse_idx(content: bytes, *, shape: tuple[int, ...], origin: str) -> NDArray[np.uint8]:
    """Read uncompressed IDX bytes as an array of the given shape.

    origin: the file's name, for the message.
    Raises IntegrityError where the magic number, the shape or the length is another.
    """
    header = 4 + 4 * len(shape)
    if len(content) < header:
        raise IntegrityError(
            f"{origin} has {len(content)} bytes, expected an IDX header of {header}; "
            "the file is truncated: fetch it again"
        )
    magic = bytes([0, 0, _UNSIGNED_BYTE, len(shape)])
    if content[:4] != magic:
        raise IntegrityError(
            f"{origin} starts with {content[:4].hex()}, expected the IDX magic number "
            f"{magic.hex()}; it is another kind of file: fetch it again"
        )
    found = struct.unpack(f">{len(shape)}I", content[4:header])
    if found != shape:
        raise IntegrityError(
            f"{origin} holds an array of shape {found}, expected {shape}; "
            "it is another data set or a part of one: fetch it again"
        )
    length = header + math.prod(shape)
    if len(content) != length:
        raise IntegrityError(
            f"{origin} has {len(content)} bytes, expected {length}; "
            "the file is truncated or padded: fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def gunzip(compressed: bytes, *, n_bytes: int, origin: str) -> bytes:
    """Decompress a .gz file that should hold n_bytes.

    Stops soon after n_bytes, so a hostile file cannot fill the memory; origin is the file's name,
    for the message.
    Raises IntegrityError where the file is no gzip, is truncated, is damaged, or holds more.
    """
    stream = zlib.decompressobj(wbits=_GZIP_CONTAINER)
    try:
        content = stream.decompress(compressed, n_bytes + 1)
    except zlib.error as error:
        raise IntegrityError(
            f"{origin} is not an intact gzip file ({error}), expected {n_bytes} bytes of "
            "content; delete it and fetch it again"
        ) from error
    if len(content) > n_bytes:
        raise IntegrityError(
            f"{origin} holds more than the expected {n_bytes} bytes; "
            "it is another file: delete it and fetch it again"
        )
    if not stream.eof:
        raise IntegrityError(
            f"{origin} ends early, after {len(content)} of the expected {n_bytes} bytes; "
            "the file is truncated: delete it and fetch it again"
        )
    return content
