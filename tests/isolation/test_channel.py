"""Messages between processes: what is sent arrives, and what is no message is refused."""

import json
import os
import socket
import struct
import time

import pytest
import torch

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.isolation.channel import (
    Channel,
    ChannelClosedError,
    MalformedMessageError,
    Message,
    as_exception,
    as_message,
)


@pytest.fixture
def ends():
    """Two ends of one connection, and the plain socket and file that the second writes to."""
    ours, theirs = socket.socketpair()
    files = [os.memfd_create(name) for name in ("there", "back")]
    near = Channel(ours, writes=files[0], reads=files[1], most_bytes=10_000)
    far = Channel(theirs, writes=files[1], reads=files[0], most_bytes=10_000)
    yield near, far, theirs, files[1]
    ours.close()
    theirs.close()
    for file in files:
        os.close(file)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (4, 1, 5, 5)])
def test_tensors_arrive_as_they_were(ends, dtype, shape):
    near, far, _, _ = ends
    sent = (10 * torch.rand(shape)).to(dtype)
    near.send(
        Message("name", {"a": [1, None]}, {"x": sent, "y": sent.t() if sent.dim() == 2 else sent})
    )
    message = far.receive()
    assert (message.name, message.content) == ("name", {"a": [1, None]})
    assert message.tensors["x"].dtype == dtype
    assert torch.equal(message.tensors["x"], sent)
    assert message.tensors["y"].shape == (sent.t() if sent.dim() == 2 else sent).shape


def text_of(described, name="x", content=None):
    return json.dumps([name, content or {}, described]).encode()


NO_MESSAGES = {
    "a length beyond all limits": struct.pack("!Q", 2**60),
    "no JSON": b"no JSON",
    "no UTF-8": b"\xff\xfe\xff",
    "JSON of another form": b"[1, 2]",
    "JSON that is nested without end": b"[" * 100_000,
    "a number of 5,000 digits": b"[" + b"9" * 5000 + b"]",
    "a content that is a list": json.dumps(["x", [], []]).encode(),
    "a type that is none": text_of([["x", "object", [1]]]),
    "a negative size": text_of([["x", "float32", [-1]]]),
    "a size that is no whole number": text_of([["x", "float32", [1.5]]]),
    "a size that is true": text_of([["x", "float32", [True]]]),
    "more bytes than allowed": text_of([["x", "float64", [2000]]]),
    "a product beyond 64 bits": text_of([["x", "float64", [2**40, 2**40]]]),
    "a tensor that is not there": text_of([["x", "float64", [100]]]),
    "too many tensors": text_of([["x", "bool", [0]]] * 65),
    "a list of tensors that is a word": text_of("tensors"),
}


@pytest.mark.parametrize("kind", NO_MESSAGES)
def test_what_is_no_message_is_refused(ends, kind):
    near, _, theirs, _ = ends
    content = NO_MESSAGES[kind]
    if not kind.startswith("a length"):
        content = struct.pack("!Q", len(content)) + content
    theirs.sendall(content)
    with pytest.raises(MalformedMessageError):
        near.receive()


def test_a_file_that_is_cut_is_no_end_of_this_process(ends):
    near, far, _, file = ends
    far.send(Message("x", {}, {"x": torch.zeros(1000)}))
    os.ftruncate(file, 8)
    with pytest.raises(MalformedMessageError, match="shorter"):
        near.receive()


def test_half_a_message_is_waited_for_no_longer_than_allowed(ends):
    near, _, theirs, _ = ends
    theirs.sendall(b"\0\0")
    with pytest.raises(TimeoutError):
        near.receive(time.monotonic() + 0.1)


def test_a_closed_end_is_told(ends):
    near, _, theirs, _ = ends
    theirs.close()
    with pytest.raises(ChannelClosedError):
        near.receive()
    with pytest.raises(ChannelClosedError):
        near.send(Message("x"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CertificateError("no"), CertificateError),
        (MemoryError("no"), MemoryError),
        (ZeroDivisionError("no"), RuntimeError),
        (RuntimeError("no"), RuntimeError),
    ],
)
def test_errors_keep_their_type_where_it_is_known(error, kind):
    raised = as_exception(as_message(error))
    assert type(raised) is kind
    assert "no" in str(raised)


def test_a_type_that_is_forged_makes_no_other_object():
    raised = as_exception(Message("error", {"type": "SystemExit", "message": ["x"]}))
    assert type(raised) is RuntimeError
