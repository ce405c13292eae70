"""Messages between two processes that need not trust each other: JSON and plain tensors.

A message has a name, a JSON object, and tensors by name. The JSON goes through a socket; the bytes
of the tensors through two files in shared memory, one for each direction. Nothing is unpickled, and
a reader believes no length, type or shape before it has checked it.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustbench_dyn import errors

_LENGTH = struct.Struct("!Q")
_MOST_JSON = 4 * 2**20
_MOST_TENSORS = 64
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    )
}
_LONGEST_ERROR = 2000
# Errors that keep their type on the way here; all others become a RuntimeError.
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.InputError,
        errors.ShapeError,
        errors.IntegrityError,
        errors.RegistryError,
        errors.CertificateError,
        errors.DataUnavailableError,
        MemoryError,
        torch.cuda.OutOfMemoryError,
        NotImplementedError,
        ValueError,
        TypeError,
    )
}

# The name of a message that asks something in return, and of one that tells of an error.
ASKS, FAILED = "asks", "error"


class ChannelClosedError(Exception):
    """The other process has closed its end."""


class MalformedMessageError(Exception):
    """The other process sent something that is no message."""


@dataclass(frozen=True)
class Message:
    """A message of one process to the other; content: what JSON can say."""

    name: str
    content: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def as_message(error: Exception) -> Message:
    """Tell of an error: its type by name, and its text."""
    return Message(FAILED, {"type": type(error).__name__, "message": str(error)[:_LONGEST_ERROR]})


def as_exception(message: Message) -> Exception:
    """Return the error that a message tells of; of an unknown type, a RuntimeError."""
    told = (str(message.content.get(key, ""))[:_LONGEST_ERROR] for key in ("type", "message"))
    kind, text = map(errors.printable, told)
    known = _ERRORS.get(kind)
    if known is not None:
        return known(text)
    return RuntimeError(text if kind == "RuntimeError" else f"{kind}: {text}")


class Channel:
    """One end of a connection; it writes to one file in shared memory and reads the other.

    most_bytes: the largest sum of the tensors of one message that is read.
    """

    def __init__(
        self, connection: socket.socket, *, writes: int, reads: int, most_bytes: int
    ) -> None:
        self.connection = connection
        self._writes, self._reads, self._most_bytes = writes, reads, most_bytes

    def send(self, message: Message) -> None:
        """Send a message; raises ChannelClosedError where the other end is closed."""
        described, offset = list[tuple[str, str, list[int]]](), 0
        for name, tensor in message.tensors.items():
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            _write(self._writes, flat.numpy().data, offset)
            offset += flat.numel()
            described.append((name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)))
        text = json.dumps([message.name, dict(message.content), described]).encode()
        try:
            self.connection.sendall(_LENGTH.pack(len(text)) + text)
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self, ends: float | None = None) -> Message:
        """Wait for a message; raises ChannelClosedError or MalformedMessageError.

        ends: the time on the monotonic clock by which all of it must be here, or else TimeoutError
        is raised; None for any time.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, ends))
        if length > _MOST_JSON:
            raise MalformedMessageError(f"it announced {length} bytes of text")
        try:
            name, content, described = json.loads(self._exactly(length, ends))
            if not (isinstance(name, str) and isinstance(content, dict)):
                raise MalformedMessageError("it has no name or no content")
            return Message(name, content, self._tensors(described))
        # JSON may be no JSON, nested without end, or of another form.
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise MalformedMessageError(f"{type(error).__name__}: {error}"[:200]) from error

    def _tensors(self, described: Any) -> dict[str, Tensor]:
        if not isinstance(described, list) or len(described) > _MOST_TENSORS:
            raise MalformedMessageError("its list of tensors is none")
        tensors, offset = dict[str, Tensor](), 0
        for name, kind, shape in described:
            whole = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
            if not whole or kind not in _DTYPES or not isinstance(name, str):
                raise MalformedMessageError("a tensor has no such type or shape")
            dtype = _DTYPES[kind]
            size = math.prod(shape) * dtype.itemsize
            if offset + size > self._most_bytes:
                raise MalformedMessageError(f"its tensors have more than {self._most_bytes} bytes")
            content = torch.empty(size, dtype=torch.uint8)
            # Read, not mapped: a mapped file that the other process cuts would end this one.
            _read(self._reads, content.numpy().data, offset)
            tensors[name] = content.view(dtype).reshape(shape)
            offset += size
        return tensors

    def _exactly(self, length: int, ends: float | None) -> bytes:
        received = bytearray()
        while len(received) < length:
            try:
                if ends is not None:
                    left = ends - time.monotonic()
                    if left <= 0:
                        raise TimeoutError
                    self.connection.settimeout(left)
                part = self.connection.recv(min(length - len(received), 2**16))
            except TimeoutError:
                raise
            except OSError as error:
                raise ChannelClosedError from error
            if not part:
                raise ChannelClosedError
            received += part
        return bytes(received)


def _write(file: int, content: memoryview, offset: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(file, content[done:], offset + done)


def _read(file: int, content: memoryview, offset: int) -> None:
    done = 0
    while done < len(content):
        n = os.preadv(file, [content[done:]], offset + done)
        if n == 0:
            raise MalformedMessageError("its tensors are shorter than their shapes")
        done += n
