"""Data sets: what is shipped is whole, what is damaged is refused, what is missing is explained."""

import dataclasses
import gzip
import hashlib
import importlib
import pickle
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from robustbench_dyn.datasets import (
    Dataset,
    cifar10,
    dataset_info,
    dataset_names,
    digits,
    fashion_mnist,
    load_dataset,
    mnist,
    toys,
)
from robustbench_dyn.datasets.dataset import RawSplit
from robustbench_dyn.datasets.idx import gunzip, parse_idx
from robustbench_dyn.datasets.search_path import cache_folder
from robustbench_dyn.errors import DataUnavailableError, InputError, IntegrityError

PACKAGE_ROOT = Path(fashion_mnist.__file__).parents[2]
DEBIAN_FOLDER = fashion_mnist.DEBIAN_FOLDER
GENERATED = ("digits", "moons", "spirals")

# Pinned on purpose: a change here changes every published number on these sets.
DIGITS_TEST_ROWS = [855, 921, 269, 1185, 11]
PINNED = {
    "digits": "296d8b2f121e277dadce7628a2407ceb4f280795074b4b1d3cb6153bc4a43d61",
    "moons": "dc4dbb6a14b45aa589e431e0a5795e6b508c72f109702d6e30b126a3a6a999a3",
    "spirals": "0c70c7589c0f133e9fd8cae7ac5145492e887fc18cade96f2ad985d5a9240d83",
}


@pytest.fixture(autouse=True)
def nothing_to_find(tmp_path, monkeypatch):
    """Hide this machine's data and network: each test brings what it needs."""
    monkeypatch.delenv("DYNBENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian-package")

    def refuse(*_, **__):
        raise OSError("the network is unplugged")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def imitate_torchvision(monkeypatch):
    """Put a class of our own in torchvision's place."""

    def imitate(class_name, kind):
        package, module = ModuleType("torchvision"), ModuleType("torchvision.datasets")
        setattr(module, class_name, kind)
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", module)

    return imitate


@pytest.fixture
def unplugged(imitate_torchvision):
    """Have the download of Fashion-MNIST fail."""

    def fail(root, *, train, download):
        del root, train, download
        raise RuntimeError("Error downloading:\nthe network is unplugged")

    imitate_torchvision("FashionMNIST", fail)


@pytest.fixture
def real_torchvision():
    """Import torchvision, or skip where its build does not match torch's."""
    try:
        return importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.fixture
def shipped_copy(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    shutil.copytree(fashion_mnist.SHIPPED_FOLDER, folder)
    monkeypatch.setattr(fashion_mnist, "SHIPPED_FOLDER", folder)
    return folder


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def random_images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


# --- the catalogue ---------------------------------------------------------------------------


def test_every_name_has_its_facts():
    assert set(dataset_names()) == {"fashion_mnist", "mnist", "cifar10", *GENERATED}
    for name in dataset_names():
        info = dataset_info(name)
        assert info.name == name
        assert info.n_classes == len(info.class_names) == len(set(info.class_names))
        assert len(info.input_shape) == 3
        assert set(info.sizes) == set(info.availability) == {"train", "test"}
        assert info.source
        assert info.licence


def test_the_catalogue_imports_nothing_heavy():
    script = (
        "import sys; from robustbench_dyn.datasets import dataset_names, dataset_info\n"
        "[dataset_info(name).n_classes for name in dataset_names()]\n"
        "{extra}\n"
        "print(sorted({{'torch', 'torchvision', 'sklearn'}} & set(sys.modules)))"
    )

    def heavy_modules(extra):
        command = [sys.executable, "-c", script.format(extra=extra)]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=PACKAGE_ROOT
        ).stdout.strip()

    assert heavy_modules("") == "[]"
    assert heavy_modules("import sklearn") == "['sklearn']"  # the check can see a heavy import


@pytest.mark.parametrize("lookup", [dataset_info, load_dataset])
def test_an_unknown_name_suggests_the_nearest(lookup):
    with pytest.raises(InputError, match=r"did you mean 'fashion_mnist'.*cifar10") as caught:
        lookup("Fashion-MINST")
    assert "digits" in str(caught.value)
    with pytest.raises(InputError) as caught:
        lookup("qqqqqq")
    assert "did you mean" not in str(caught.value)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match=r"split='val'.*train, test"):
        load_dataset("digits", split="val")


@pytest.mark.parametrize("n_examples", [0, -1, 501, 1.0, True])
def test_a_count_outside_the_split_is_refused_with_its_size(n_examples):
    with pytest.raises(InputError, match="500"):
        load_dataset("digits", n_examples=n_examples)


@pytest.mark.parametrize("n_examples", [1, 500])
def test_a_count_inside_the_split_is_kept(n_examples):
    assert len(load_dataset("digits", n_examples=n_examples)) == n_examples


def test_a_data_dir_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="is a file; give the folder"):
        load_dataset("mnist", data_dir=file)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda raw: raw._replace(x=raw.x[1:]), "x of shape"),
        (lambda raw: raw._replace(y=raw.y[1:]), "y of shape"),
        (lambda raw: raw._replace(y=raw.y + 1), "labels from 1 to 2"),
        (lambda raw: raw._replace(y=raw.y - 1), "labels from -1 to 0"),
        (lambda raw: raw._replace(x=raw.x * np.nan), "inputs from nan"),
        (lambda raw: raw._replace(x=raw.x + 1), "expected 0 to 1"),
    ],
)
def test_a_source_that_breaks_its_promise_is_refused(damage, complaint):
    info = dataset_info("moons")
    assert len(load_dataset(info)) == 500
    load_raw = lambda split, data_dir: damage(info.load_raw(split, data_dir))  # noqa: E731
    with pytest.raises(IntegrityError, match=complaint):
        load_dataset(dataclasses.replace(info, load_raw=load_raw))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "Two Moons"}, "lower case letters"),
        ({"input_shape": (2,)}, r"\(2,\) must be \(C, H, W\)"),
        ({"input_shape": (2, 0, 1)}, "three positive numbers"),
        ({"class_names": ("moon", "moon")}, "two or more different names"),
        ({"class_names": ("moon",)}, "two or more different names"),
        ({"sizes": {"train": 5}}, "a positive number for test"),
        ({"sizes": {"test": 0, "train": 5}}, "a positive number for test"),
        ({"sizes": {"test": 5, "validation": 5}}, "a positive number for test"),
        ({"sizes": {"test": 500}}, "must have the splits of sizes"),
    ],
)
def test_facts_that_cannot_be_true_are_refused(change, complaint):
    with pytest.raises(InputError, match=complaint):
        dataclasses.replace(dataset_info("moons"), **change)


def test_a_data_set_may_have_a_test_split_alone():
    info = dataset_info("moons")
    alone = dataclasses.replace(info, sizes={"test": 500}, availability={"test": "generated"})
    assert len(load_dataset(alone)) == 500
    with pytest.raises(InputError, match="moons has no train split; choose test"):
        load_dataset(alone, split="train")


# --- all that loads offline ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fashion_mnist", *GENERATED])
def test_tensors_have_the_promised_shapes_types_and_range(name):
    info = dataset_info(name)
    dataset = load_dataset(name)
    n = info.sizes["test"]
    assert isinstance(dataset, Dataset)
    assert dataset.x.shape == (n, *info.input_shape)
    assert dataset.x.dtype == torch.float32
    assert dataset.x.is_contiguous()
    assert dataset.x.min() >= 0
    assert dataset.x.max() <= 1
    assert dataset.x.max() > 0.7  # scaled once, not twice
    assert dataset.y.dtype == torch.int64
    assert dataset.y.unique().tolist() == list(range(info.n_classes))
    assert dataset.ids.tolist() == list(range(n))
    assert dataset.ids.dtype == torch.int64
    assert (dataset.name, dataset.split) == (name, "test")
    assert (dataset.n_classes, dataset.class_names) == (info.n_classes, info.class_names)
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


@pytest.mark.parametrize("name", ["fashion_mnist", *GENERATED])
def test_the_checksum_is_of_the_full_split(name):
    whole, part = load_dataset(name), load_dataset(name, n_examples=7)
    assert part.sha256 == whole.sha256
    assert torch.equal(part.x, whole.x[:7])
    assert torch.equal(part.y, whole.y[:7])


@pytest.mark.parametrize("name", GENERATED)
def test_the_checksum_tells_the_splits_apart(name):
    assert load_dataset(name, split="train").sha256 != load_dataset(name, split="test").sha256


def test_the_checksum_sees_one_label(monkeypatch):
    info = dataset_info("moons")
    catalogue = sys.modules["robustbench_dyn.datasets.catalogue"]
    raw = info.load_raw("test", None)
    flipped = raw.y.copy()
    flipped[-1] = 1 - flipped[-1]
    before = catalogue.fingerprint(raw)
    assert catalogue.fingerprint(RawSplit(raw.x, raw.y.copy(), 1)) == before
    assert catalogue.fingerprint(RawSplit(raw.x, flipped, 1)) != before


# --- Fashion-MNIST, shipped ------------------------------------------------------------------


def test_fashion_mnist_ships_ten_thousand_test_images():
    dataset = load_dataset("fashion_mnist")
    assert dataset.x.shape == (10_000, 1, 28, 28)
    assert torch.bincount(dataset.y).tolist() == [1_000] * 10
    assert dataset.x.max() == 1
    assert dataset.class_names[dataset.y[0]] == "Ankle boot"
    # The oracle reads the same files by itself.
    files = [
        gzip.decompress((fashion_mnist.SHIPPED_FOLDER / f"t10k-{kind}-ubyte.gz").read_bytes())
        for kind in ("images-idx3", "labels-idx1")
    ]
    assert dataset.sha256 == hashlib.sha256(files[0][16:] + files[1][8:]).hexdigest()
    assert (dataset.x * 255).round().to(torch.uint8).numpy().tobytes() == files[0][16:]


def test_the_shipped_files_carry_their_licence():
    text = (fashion_mnist.SHIPPED_FOLDER / "LICENSE.txt").read_text()
    assert "Copyright (c) 2017 Zalando SE" in text
    source = (fashion_mnist.SHIPPED_FOLDER / "SOURCE.txt").read_text()
    for sha256 in fashion_mnist.SHIPPED_SHA256.values():
        assert sha256 in source


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_a_flipped_byte_in_a_shipped_file_is_refused(shipped_copy, kind):
    assert len(load_dataset("fashion_mnist", n_examples=1)) == 1  # the copy itself is fine
    file = shipped_copy / f"t10k-{kind}-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{file.name} has SHA-256 .* expected .* reinstall"):
        load_dataset("fashion_mnist", n_examples=1)


def test_a_truncated_or_missing_shipped_file_is_refused(shipped_copy):
    file = shipped_copy / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"t10k-images-idx3-ubyte\.gz.*reinstall"):
        load_dataset("fashion_mnist")
    file.unlink()
    with pytest.raises(IntegrityError, match=r"t10k-images-idx3-ubyte\.gz cannot be read"):
        load_dataset("fashion_mnist")


# --- Fashion-MNIST, training split -----------------------------------------------------------

LAYOUTS = [".", "FashionMNIST/raw", "fashion-mnist"]


@pytest.fixture
def tiny_training_split(monkeypatch):
    """Let 20 images stand for the 60,000, checksums and all."""
    contents = idx_bytes(random_images(20, 28, 28)), idx_bytes(np.arange(20) % 10)
    files = [
        fashion_mnist.IdxFile(file.name, (20, *file.shape[1:]), hashlib.sha256(content).hexdigest())
        for file, content in zip(fashion_mnist.FILES["train"], contents, strict=True)
    ]
    monkeypatch.setitem(fashion_mnist.FILES, "train", fashion_mnist.IdxPair(*files))
    monkeypatch.setitem(fashion_mnist.INFO.sizes, "train", 20)
    return contents


def write_training_split(folder, contents, *, packed):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in zip(fashion_mnist.FILES["train"], contents, strict=True):
        name, data = (f"{file.name}.gz", gzip.compress(content)) if packed else (file.name, content)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_training_split_is_found_in_each_layout(tmp_path, tiny_training_split, layout, packed):
    write_training_split(tmp_path / "data" / layout, tiny_training_split, packed=packed)
    dataset = load_dataset("fashion_mnist", split="train", data_dir=tmp_path / "data")
    assert dataset.y.tolist() == [i % 10 for i in range(20)]
    assert (dataset.x * 255).round().to(torch.uint8).numpy().tobytes() == tiny_training_split[0][
        16:
    ]


def test_the_training_split_is_found_in_each_folder(
    tmp_path, monkeypatch, unplugged, tiny_training_split
):
    def loads():
        return len(load_dataset("fashion_mnist", split="train")) == 20

    folders = [
        tmp_path / "named",
        fashion_mnist.DEBIAN_FOLDER,
        cache_folder() / "FashionMNIST" / "raw",
    ]
    for folder in folders:
        with pytest.raises(DataUnavailableError):
            loads()
        write_training_split(folder, tiny_training_split, packed=True)
        with monkeypatch.context() as patch:
            patch.setenv("DYNBENCH_DATA", str(tmp_path / "named"))
            assert loads()
        shutil.rmtree(folder)


def test_fake_training_files_fail_with_clear_words(tmp_path, monkeypatch):
    fakes = idx_bytes(random_images(20, 28, 28)), idx_bytes(np.arange(20) % 10)
    write_training_split(tmp_path, fakes, packed=True)
    with pytest.raises(IntegrityError, match=r"train-images.*\(20, 28, 28\), expected \(60000"):
        load_dataset("fashion_mnist", split="train", data_dir=tmp_path)
    # Of the right shape, only the checksum can tell.
    images, labels = fashion_mnist.FILES["train"]
    shrunk = images._replace(shape=(20, 28, 28)), labels._replace(shape=(20,))
    monkeypatch.setitem(fashion_mnist.FILES, "train", fashion_mnist.IdxPair(*shrunk))
    with pytest.raises(IntegrityError, match=r"SHA-256 .*another data set with the same"):
        load_dataset("fashion_mnist", split="train", data_dir=tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:100], lambda b: b[:-1], lambda b: b"", lambda b: b"<html>" + b]
)
def test_a_damaged_training_archive_is_refused(tmp_path, tiny_training_split, damage):
    write_training_split(tmp_path, tiny_training_split, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(IntegrityError, match=r"train-images-idx3-ubyte\.gz .*delete it"):
        load_dataset("fashion_mnist", split="train", data_dir=tmp_path)


def test_a_missing_training_split_names_its_remedies(tmp_path, unplugged):
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset("fashion_mnist", split="train", data_dir=tmp_path / "empty")
    message = str(caught.value)
    for words in (
        "--data-dir",
        "DYNBENCH_DATA",
        "apt install dataset-fashion-mnist",
        "network",
        "the network is unplugged",
        str(tmp_path / "empty"),
    ):
        assert words in message
    assert "\n" not in message
    assert socket.getdefaulttimeout() is None  # put back


def test_a_download_goes_to_the_cache_and_is_checked(imitate_torchvision, tiny_training_split):
    roots = []

    def imitate_download(contents):
        def download(root, *, train, download):
            assert train
            assert download
            roots.append(Path(root))
            write_training_split(Path(root, "FashionMNIST", "raw"), contents, packed=False)

        imitate_torchvision("FashionMNIST", download)

    imitate_download((tiny_training_split[0][:-1] + b"?", tiny_training_split[1]))
    with pytest.raises(IntegrityError, match="SHA-256"):
        load_dataset("fashion_mnist", split="train")
    shutil.rmtree(cache_folder())

    imitate_download(tiny_training_split)
    for _ in range(2):  # the second load finds what the first one fetched
        assert len(load_dataset("fashion_mnist", split="train")) == 20
    assert roots == [cache_folder()] * 2


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_debians_training_split_passes_the_checks():
    dataset = load_dataset("fashion_mnist", split="train", n_examples=100, data_dir=DEBIAN_FOLDER)
    assert dataset.x.shape == (100, 1, 28, 28)
    assert dataset.class_names[dataset.y[0]] == "Ankle boot"


# --- IDX and gzip ----------------------------------------------------------------------------


def test_idx_round_trips():
    array = random_images(3, 4, 5)
    assert np.array_equal(parse_idx(idx_bytes(array), shape=(3, 4, 5), origin="f"), array)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda b: b[:7], "truncated"),
        (lambda b: b"", "truncated"),
        (lambda b: b[:-1], "truncated"),
        (lambda b: b + b"\0", "padded"),
        (lambda b: b"\0\0\x0d\x03" + b[4:], "magic"),
        (lambda b: b[:7] + b"\4" + b[8:], r"\(4, 4, 5\), expected \(3, 4, 5\)"),
    ],
)
def test_a_damaged_idx_file_is_refused(damage, complaint):
    content = damage(idx_bytes(random_images(3, 4, 5)))
    with pytest.raises(IntegrityError, match=f"file-name.*{complaint}"):
        parse_idx(content, shape=(3, 4, 5), origin="file-name")


def test_gunzip_returns_the_content_and_stops_at_a_bomb():
    content = bytes(10**6)
    packed = gzip.compress(content)
    assert gunzip(packed, n_bytes=10**6, origin="f") == content
    with pytest.raises(IntegrityError, match="more than the expected 99 bytes"):
        gunzip(packed, n_bytes=99, origin="f")
    with pytest.raises(IntegrityError, match="truncated"):
        gunzip(packed[:-4], n_bytes=10**6, origin="f")  # even its own checksum must be there
    flipped = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    with pytest.raises(IntegrityError, match="not an intact gzip"):
        gunzip(flipped, n_bytes=10**6, origin="f")


# --- MNIST and CIFAR-10, through torchvision -------------------------------------------------


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch, real_torchvision):
    """Write 12 training and 6 test images as torchvision keeps them."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, n in (("train", 12), ("t10k", 6)):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(random_images(n, 28, 28)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(n) % 10))
    for split, n in (("train", 12), ("test", 6)):
        monkeypatch.setitem(mnist.INFO.sizes, split, n)
    return tmp_path / "data"


@pytest.fixture
def tiny_cifar10(tmp_path, monkeypatch, real_torchvision):
    """Write 5 x 2 training and 3 test images as torchvision keeps them, with MD5s to match."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(n, seed):
        return {"data": random_images(n, 3072, seed=seed), "labels": [i % 10 for i in range(n)]}

    kind = real_torchvision.CIFAR10
    train = [[f"data_batch_{i}", write(f"data_batch_{i}", batch(2, i))] for i in range(1, 6)]
    test = [["test_batch", write("test_batch", batch(3, 0))]]
    meta = write("batches.meta", {"label_names": list(cifar10.INFO.class_names)})
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", test)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta})
    for split, n in (("train", 10), ("test", 3)):
        monkeypatch.setitem(cifar10.INFO.sizes, split, n)
    return tmp_path / "data"


@pytest.mark.parametrize(("split", "n"), [("train", 12), ("test", 6)])
def test_mnist_is_read_as_torchvision_keeps_it(tiny_mnist, split, n):
    dataset = load_dataset("mnist", split=split, data_dir=tiny_mnist)
    images = random_images(n, 28, 28)
    assert torch.equal(dataset.x[:, 0], torch.from_numpy(images.astype(np.float32) / 255))
    assert dataset.y.tolist() == [i % 10 for i in range(n)]
    labels = bytes(i % 10 for i in range(n))
    assert dataset.sha256 == hashlib.sha256(images.tobytes() + labels).hexdigest()


@pytest.mark.parametrize(("split", "n"), [("train", 10), ("test", 3)])
def test_cifar10_is_read_as_torchvision_keeps_it(tiny_cifar10, monkeypatch, split, n):
    monkeypatch.setenv("DYNBENCH_DATA", str(tiny_cifar10))
    dataset = load_dataset("cifar10", split=split)
    batches = {"train": [(2, i) for i in range(1, 6)], "test": [(3, 0)]}[split]
    images = np.vstack([random_images(size, 3072, seed=seed) for size, seed in batches])
    assert torch.equal(
        dataset.x, torch.from_numpy(images.reshape(n, 3, 32, 32).astype(np.float32) / 255)
    )
    assert dataset.x.is_contiguous()
    labels = bytes(i for size, _ in batches for i in range(size))
    assert dataset.sha256 == hashlib.sha256(images.tobytes() + labels).hexdigest()


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("t10k-images-idx3-ubyte", lambda b: b[:100]),
        ("t10k-images-idx3-ubyte", lambda b: b""),
        ("t10k-images-idx3-ubyte", lambda b: b"<html></html>"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1]),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0b"),
    ],
)
def test_damaged_mnist_is_refused(tiny_mnist, file, damage):
    path = tiny_mnist / "MNIST" / "raw" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match="delete"):
        load_dataset("mnist", data_dir=tiny_mnist)


def test_mnist_of_another_size_is_refused(tiny_mnist, monkeypatch):
    monkeypatch.setitem(mnist.INFO.sizes, "test", 10_000)
    with pytest.raises(IntegrityError, match=r"\(6, 1, 28, 28\).*expected \(10000, 1, 28, 28\)"):
        load_dataset("mnist", data_dir=tiny_mnist)


@pytest.mark.parametrize("file", ["test_batch", "batches.meta"])
def test_damaged_cifar10_is_refused(tiny_cifar10, file):
    path = tiny_cifar10 / "cifar-10-batches-py" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"cifar-10-batches-py is not the CIFAR10.*delete"):
        load_dataset("cifar10", data_dir=tiny_cifar10)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_missing_set_names_its_remedies(name, tmp_path, real_torchvision):
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset(name, data_dir=tmp_path / "empty")
    for words in ("--data-dir", "DYNBENCH_DATA", "network", "the network is unplugged"):
        assert words in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_torchvision_that_cannot_be_imported_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    with pytest.raises(DataUnavailableError, match="install the build of torchvision"):
        load_dataset(name, data_dir=tmp_path)
    # Files that are there are not to blame for it.
    present = {"mnist": mnist._MNIST, "cifar10": cifar10._CIFAR10}[name]
    (tmp_path / present.folder).mkdir(parents=True)
    for file in present.files:
        (tmp_path / present.folder / file).touch()
    with pytest.raises(DataUnavailableError, match="install the build of torchvision"):
        load_dataset(name, data_dir=tmp_path)


# --- digits ----------------------------------------------------------------------------------


def test_the_digits_splits_are_disjoint_and_complete():
    train, test = digits.split_indices("train"), digits.split_indices("test")
    assert (len(train), len(test)) == (1_297, 500)
    assert sorted([*train, *test]) == list(range(1_797))


def test_the_digits_split_never_changes():
    assert digits.split_indices("test")[:5].tolist() == DIGITS_TEST_ROWS
    assert load_dataset("digits").sha256 == PINNED["digits"]


def test_digits_are_scikit_learns_divided_by_16():
    images, labels = load_digits(return_X_y=True)
    rows = digits.split_indices("train")
    dataset = load_dataset("digits", split="train")
    # Sixteenths are exact in float32.
    assert np.array_equal(dataset.x.numpy().reshape(-1, 64), images[rows] / 16)
    assert np.array_equal(dataset.y.numpy(), labels[rows])


# --- toy sets --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_toy_sets_never_change(name):
    assert load_dataset(name).sha256 == load_dataset(name).sha256 == PINNED[name]


def test_another_seed_is_another_toy_set(monkeypatch):
    monkeypatch.setattr(toys, "SEED", 1)
    assert load_dataset("moons").sha256 != PINNED["moons"]


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_toy_classes_are_balanced_and_separable(name):
    train, test = load_dataset(name, split="train"), load_dataset(name)
    assert torch.bincount(test.y).tolist() == [250, 250]
    nearest = torch.cdist(test.x.flatten(1), train.x.flatten(1)).argmin(dim=1)
    assert torch.equal(train.y[nearest], test.y)
    # A linear rule is not enough: these sets are there to need curved boundaries.
    design = torch.cat([train.x.flatten(1), torch.ones(1_000, 1)], dim=1)
    weights = torch.linalg.lstsq(design, 2.0 * train.y[:, None] - 1).solution
    accuracy = ((design @ weights)[:, 0].gt(0) == train.y.bool()).double().mean()
    assert accuracy < 0.95
