"""Forged data files are refused in one sentence, and nothing of them is loaded or run."""

import gzip
import os
import pickle
import socket
import struct
import tracemalloc

import numpy as np
import pytest
from oracles.published_sets import NAMES, described, idx_bytes, pickled_batch, random_images, shrink

from robustbench_dyn.datasets import fashion_mnist, load_dataset
from robustbench_dyn.errors import DynbenchError, IntegrityError


@pytest.fixture(autouse=True)
def no_other_data(tmp_path, monkeypatch):
    monkeypatch.delenv("DYNBENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian-package")

    def refuse(*_, **__):
        raise OSError("the network is unplugged")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(params=NAMES)
def tiny(request, monkeypatch):
    return shrink(monkeypatch, request.param)


def flipped(content, index):
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


class Code:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# From the right content to that of a forged file.
FORGED = {
    "empty": lambda right: b"",
    "one byte": lambda right: right[:1],
    "truncated": lambda right: right[:-1],
    "padded": lambda right: right + b"\0",
    "all zeros": lambda right: bytes(len(right)),
    "zeros below the true header": lambda right: right[:16] + bytes(len(right) - 16),
    "a web page": lambda right: b"<html><body>404</body></html>",
    "another type": lambda right: b"\0\0\x0d\x03" + right[4:],
    "a header of more images": lambda right: right[:7] + b"\xff" + right[8:],
    "a header of 2^96 pixels": lambda right: b"\0\0\x08\x03" + b"\xff" * 12 + right[16:],
    "fewer images": lambda right: idx_bytes(random_images(19, 28, 28)),
    "other images": lambda right: idx_bytes(random_images(20, 28, 28, seed=1)),
    "the first bit flipped": lambda right: flipped(right, 0),
    "a pixel flipped": lambda right: flipped(right, len(right) // 2),
    "the last bit flipped": lambda right: flipped(right, -1 + len(right)),
    "another batch": lambda right: pickled_batch(random_images(3, 3072, seed=9), [0, 1, 2]),
    "ten times as long": lambda right: right * 10,
}

# From the right .gz file to a forged one.
FORGED_GZIP = {
    "not packed": gzip.decompress,
    "packed twice": gzip.compress,
    "truncated": lambda packed: packed[:-9],
    "without its checksum": lambda packed: packed[:-8],
    "another checksum": lambda packed: flipped(packed, len(packed) - 8),
    "another header": lambda packed: b"PK" + packed[2:],
    "a bomb": lambda packed: gzip.compress(bytes(15_000_000)),
    "a bomb behind the right content": lambda packed: gzip.compress(
        gzip.decompress(packed) + bytes(10**6)
    ),
    "a header that promises a name without end": lambda packed: packed[:3] + b"\x08" + b"a" * 99,
    "a wrong length in the trailer": lambda packed: packed[:-4] + struct.pack("<I", 2**31),
}


def put_socket(path):
    short = path.parent.parent / "s"  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short))
    short.replace(path)


# What may stand in the place of a file, and what the message calls it.
PLACED = {
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a named pipe": (os.mkfifo, "is a named pipe"),
    "a socket": (put_socket, "cannot be read"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "Too many levels"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "a link to a folder": (lambda path: path.symlink_to("/"), "is a folder"),
    "a link to another file": (lambda path: path.symlink_to(__file__), "expected"),
}


def refusal(tiny, root):
    """Load the set, which must fail in one sentence about the damaged file; return the sentence."""
    with pytest.raises(IntegrityError) as caught:
        load_dataset(tiny.name, split=tiny.split, data_dir=root)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_file_is_refused(tmp_path, tiny, kind, packed):
    folder = tiny.write(tmp_path, packed=packed)
    assert len(load_dataset(tiny.name, split=tiny.split, data_dir=tmp_path)) > 0
    for name, right in tiny.contents.items():
        path = next(path for path in folder.iterdir() if path.name.startswith(name))
        before = path.read_bytes()
        forged = FORGED[kind](right)
        path.write_bytes(gzip.compress(forged) if path.suffix == ".gz" else forged)
        if name in {file.name for file in tiny.published.files[tiny.split]}:
            assert path.name in refusal(tiny, tmp_path)
        path.write_bytes(before)
    assert len(load_dataset(tiny.name, split=tiny.split, data_dir=tmp_path)) > 0


@pytest.mark.parametrize("kind", FORGED_GZIP)
@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_a_forged_gzip_is_refused(tmp_path, monkeypatch, name, kind):
    tiny = shrink(monkeypatch, name)
    path = tiny.write(tmp_path) / tiny.victim
    path.write_bytes(FORGED_GZIP[kind](path.read_bytes()))
    assert path.name in refusal(tiny, tmp_path)


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_a_bomb_does_not_fill_the_memory(tmp_path, monkeypatch, name):
    tiny = shrink(monkeypatch, name)
    path = tiny.write(tmp_path) / tiny.victim
    path.write_bytes(gzip.compress(bytes(15_000_000)))
    tracemalloc.start()
    refusal(tiny, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes and devices")
@pytest.mark.parametrize("kind", PLACED)
def test_what_is_no_file_is_refused(tmp_path, tiny, kind):
    put, words = PLACED[kind]
    path = tiny.write(tmp_path) / tiny.victim
    path.unlink()
    put(path)
    message = refusal(tiny, tmp_path)
    assert path.name in message
    assert words in message


def test_a_link_to_the_right_file_is_read(tmp_path, tiny):
    path = tiny.write(tmp_path / "data") / tiny.victim
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert len(load_dataset(tiny.name, split=tiny.split, data_dir=tmp_path / "data")) > 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path, tiny):
    path = tiny.write(tmp_path) / tiny.victim
    path.chmod(0)
    assert path.name in refusal(tiny, tmp_path)


@pytest.mark.parametrize("listed", [False, True])
def test_a_pickle_with_code_is_not_run(tmp_path, monkeypatch, listed):
    tiny = shrink(monkeypatch, "cifar10")
    path = tiny.write(tmp_path) / tiny.victim
    content = pickle.dumps({"data": np.zeros((3, 3072), np.uint8), "labels": Code(tmp_path / "x")})
    path.write_bytes(content)
    if listed:  # even if its checksum were the published one
        monkeypatch.setitem(tiny.published.files, "test", (described("test_batch", content),))
    with pytest.raises(pickle.UnpicklingError if listed else IntegrityError):
        load_dataset("cifar10", data_dir=tmp_path)
    assert not (tmp_path / "x").exists()
    pickle.loads(content)
    assert (tmp_path / "x").exists()


def test_forged_mnist_of_zeros_is_refused(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((10_000, 28, 28))))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(10_000)))
    with pytest.raises(DynbenchError, match=r"0fa7898d.*damaged or another data set"):
        load_dataset("mnist", data_dir=tmp_path)
