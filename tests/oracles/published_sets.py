"""Small forged copies of the published data sets, with the checksums to match."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from robustbench_dyn.datasets import cifar10, cifar100, fashion_mnist, mnist, published
from robustbench_dyn.datasets.published import PublishedFile, PublishedSet, idx_file

NAMES = ("fashion_mnist", "mnist", "cifar10", "cifar100")
# The batches of each split of a CIFAR: file, images, seed.
BATCHES = {
    "cifar10": {
        "train": [(f"data_batch_{i}", 2, i) for i in range(1, 6)],
        "test": [("test_batch", 3, 0)],
    },
    "cifar100": {"train": [("train", 4, 1)], "test": [("test", 3, 0)]},
}
N_IMAGES = 20


@dataclass(frozen=True)
class TinySet:
    """A split with few images: the content of each file, uncompressed, by its name."""

    name: str
    split: str
    published: PublishedSet
    contents: dict[str, bytes]
    archive: bytes = b""

    @property
    def is_idx(self) -> bool:
        return self.name not in BATCHES

    @property
    def victim(self) -> str:
        """The name, on the disk, of the file to damage."""
        return next(iter(self.contents)) + (".gz" if self.is_idx else "")

    def write(self, root: Path, *, packed: bool = True) -> Path:
        """Write the files below a root as torchvision lays them out; return their folder."""
        folder = root / self.published.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            if packed and self.is_idx:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder

    def served(self) -> dict[str, bytes]:
        """What a mirror serves, by the path below its address."""
        if self.is_idx:
            return {f"/{name}.gz": gzip.compress(data) for name, data in self.contents.items()}
        return {f"/{_archive_of(self.name).name}": self.archive}


def shrink(monkeypatch, name: str) -> TinySet:
    """Let a few random images stand for a published split, checksums and all."""
    if name in BATCHES:
        return _shrink_cifar(monkeypatch, name)
    info, table, split = {
        "fashion_mnist": (fashion_mnist.INFO, published.FASHION_MNIST, "train"),
        "mnist": (mnist.INFO, published.MNIST, "test"),
    }[name]
    images, labels = random_images(N_IMAGES, 28, 28), np.arange(N_IMAGES) % 10
    contents = {
        file.name: idx_bytes(array)
        for file, array in zip(table.files[split], (images, labels), strict=True)
    }
    files = tuple(
        idx_file(file.name, (N_IMAGES, *file.shape[1:]), sha256(contents[file.name]))
        for file in table.files[split]
    )
    monkeypatch.setitem(table.files, split, files)
    monkeypatch.setitem(info.sizes, split, N_IMAGES)
    return TinySet(name, split, table, contents)


def _shrink_cifar(monkeypatch, name) -> TinySet:
    module, table = _module(name), getattr(published, name.upper())
    labels = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    contents: dict[str, bytes] = {}
    for split, batches in BATCHES[name].items():
        for file, n, seed in batches:
            images = random_images(n, 3072, seed=seed)
            contents[file] = pickled_batch(images, list(range(n)), labels=labels)
        files = tuple(described(file, contents[file]) for file, _, _ in batches)
        monkeypatch.setitem(table.files, split, files)
        monkeypatch.setitem(module.INFO.sizes, split, sum(n for _, n, _ in batches))
    packed = archive(contents, table.folder)
    file = described(_archive_of(name).name, packed)
    monkeypatch.setattr(module, f"{name.upper()}_ARCHIVE", file)
    ((tested, _, _),) = BATCHES[name]["test"]
    only_test = {tested: contents.pop(tested)}
    return TinySet(name, "test", table, {**only_test, **contents}, packed)


def _module(name):
    return {"cifar10": cifar10, "cifar100": cifar100}[name]


def _archive_of(name) -> PublishedFile:
    return getattr(published, f"{name.upper()}_ARCHIVE")


def use_mirrors(monkeypatch, tiny: TinySet, *mirrors: str) -> None:
    """Let a set be served from other addresses."""
    if tiny.is_idx:
        owner = {"mnist": mnist, "fashion_mnist": fashion_mnist}[tiny.name]
        attribute = {"mnist": "MNIST", "fashion_mnist": "FASHION_MNIST"}[tiny.name]
        moved = PublishedSet(
            tiny.published.title, tiny.published.folder, tiny.published.files, mirrors
        )
        monkeypatch.setattr(owner, attribute, moved)
    else:
        module = _module(tiny.name)
        monkeypatch.setattr(module, f"{tiny.name.upper()}_ARCHIVE_MIRRORS", mirrors)


def random_images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def pickled_batch(images, y, *, labels="labels") -> bytes:
    """Pickle a batch as Python 2 and old numpy did, which is how the CIFARs are published."""
    content = pickle.dumps({"data": images, labels: y}, protocol=3)
    n = struct.pack("<i", images.nbytes)
    binbytes, binstring = (opcode + n + images.tobytes() for opcode in (b"B", b"T"))
    short, short_string = (
        opcode + bytes([images.nbytes % 256]) + images.tobytes() for opcode in (b"C", b"U")
    )
    content = content.replace(binbytes, binstring).replace(short, short_string)
    return content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def archive(contents: dict[str, bytes], folder: PurePosixPath) -> bytes:
    """Pack files as the archive of a CIFAR does."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as members:
        for name, content in contents.items():
            member = tarfile.TarInfo(str(folder / name))
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def described(name: str, content: bytes) -> PublishedFile:
    return PublishedFile(name, len(content), sha256(content))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
