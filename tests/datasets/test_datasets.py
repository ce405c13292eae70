"""Data sets: what is shipped is whole, what is damaged is refused, what is missing is explained."""

import dataclasses
import gzip
import hashlib
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.published_sets import BATCHES, NAMES, random_images, shrink
from sklearn.datasets import load_digits

from robustbench_dyn.datasets import (
    Dataset,
    dataset_info,
    dataset_names,
    digits,
    fashion_mnist,
    imagenet,
    load_dataset,
    toys,
)
from robustbench_dyn.datasets.identity import fingerprint
from robustbench_dyn.datasets.published import DIGITS, FASHION_MNIST
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
def shipped_copy(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    shutil.copytree(fashion_mnist.SHIPPED_FOLDER, folder)
    monkeypatch.setattr(fashion_mnist, "SHIPPED_FOLDER", folder)
    return folder


# --- the catalogue ---------------------------------------------------------------------------


def test_every_name_has_its_facts():
    fetched = {"fashion_mnist", "mnist", "cifar10", "cifar10_jpeg", "cifar100"}
    assert set(dataset_names()) == {*fetched, *imagenet.BY_PREPROCESSING.values(), *GENERATED}
    for name in dataset_names():
        info = dataset_info(name)
        assert info.name == name
        assert info.n_classes == len(info.class_names) == len(set(info.class_names))
        assert len(info.input_shape) == 3
        splits = {"test"} if name.startswith("imagenet") else {"train", "test"}
        assert set(info.sizes) == set(info.availability) == splits
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


@pytest.mark.parametrize(("first", "n_examples"), [(0, 3), (7, 2), (499, 1), (490, None)])
def test_a_range_of_examples_keeps_its_ids(first, n_examples):
    whole = load_dataset("digits")
    part = load_dataset("digits", first=first, n_examples=n_examples)
    kept = slice(first, first + n_examples if n_examples else None)
    assert part.ids.tolist() == list(range(500))[kept]
    assert torch.equal(part.x, whole.x[kept])
    assert torch.equal(part.y, whole.y[kept])
    assert part.sha256 == whole.sha256


@pytest.mark.parametrize(
    ("first", "n_examples"), [(-1, 1), (500, None), (1.0, 1), (True, 1), (10, 491), (499, 2)]
)
def test_a_range_outside_the_split_is_refused(first, n_examples):
    with pytest.raises(InputError, match=r"give [01] to"):
        load_dataset("digits", first=first, n_examples=n_examples)


@pytest.mark.parametrize("name", ["fashion_mnist", *GENERATED])
def test_the_checksum_is_of_the_full_split(name):
    whole, part = load_dataset(name), load_dataset(name, n_examples=7)
    assert part.sha256 == whole.sha256
    assert torch.equal(part.x, whole.x[:7])
    assert torch.equal(part.y, whole.y[:7])


@pytest.mark.parametrize("name", GENERATED)
def test_the_checksum_tells_the_splits_apart(name):
    assert load_dataset(name, split="train").sha256 != load_dataset(name, split="test").sha256


def test_the_checksum_sees_one_label():
    info = dataset_info("moons")
    raw = info.load_raw("test", None)
    flipped = raw.y.copy()
    flipped[-1] = 1 - flipped[-1]
    before = fingerprint(raw.x, raw.y)
    assert fingerprint(raw.x, raw.y.copy()) == before
    assert fingerprint(raw.x, flipped) != before


def test_labels_above_255_do_not_wrap_in_the_checksum():
    x, y = np.zeros((2, 1, 1, 1), dtype=np.uint8), np.array([0, 256])
    assert fingerprint(x, y) != fingerprint(x, y % 256)


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
    for file in FASHION_MNIST.files["test"]:
        packed = (fashion_mnist.SHIPPED_FOLDER / f"{file.name}.gz").read_bytes()
        assert file.sha256 in source
        assert hashlib.sha256(packed).hexdigest() in source


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_a_flipped_byte_in_a_shipped_file_is_refused(shipped_copy, kind):
    assert len(load_dataset("fashion_mnist", n_examples=1)) == 1  # the copy itself is fine
    file = shipped_copy / f"t10k-{kind}-ubyte.gz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{file.name} .* expected .* reinstall"):
        load_dataset("fashion_mnist", n_examples=1)


@pytest.mark.parametrize("file", DIGITS, ids=lambda file: file.name)
def test_a_flipped_byte_in_the_digits_is_refused(file, monkeypatch, tmp_path):
    folder = tmp_path / "digits_files"
    shutil.copytree(digits.SHIPPED_FOLDER, folder)
    monkeypatch.setattr(digits, "SHIPPED_FOLDER", folder)
    assert len(load_dataset("digits", n_examples=1)) == 1  # the copy itself is fine
    path = folder / f"{file.name}.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    with pytest.raises(IntegrityError, match=f"{file.name}.* expected .* reinstall"):
        load_dataset("digits", n_examples=1)


def test_the_shipped_digits_name_their_makers_and_their_licence():
    source = (digits.SHIPPED_FOLDER / "SOURCE.txt").read_text()
    assert "E. Alpaydin and C. Kaynak" in source
    assert "CC BY 4.0" in source
    assert all(file.sha256 in source for file in DIGITS)


def test_a_truncated_or_missing_shipped_file_is_refused(shipped_copy):
    file = shipped_copy / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"t10k-images-idx3-ubyte\.gz.*reinstall"):
        load_dataset("fashion_mnist")
    file.unlink()
    with pytest.raises(IntegrityError, match=r"t10k-images-idx3-ubyte\.gz cannot be read"):
        load_dataset("fashion_mnist")


# --- sets that are found ---------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def tiny(request, monkeypatch):
    """Let few images stand for a published split, checksums and all."""
    return shrink(monkeypatch, request.param)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below_root", [True, False])
def test_a_set_is_found_in_each_layout(tmp_path, tiny, below_root, packed):
    folder = tiny.write(tmp_path, packed=packed)
    data_dir = tmp_path if below_root else folder
    dataset = load_dataset(tiny.name, split=tiny.split, data_dir=data_dir)
    content = next(iter(tiny.contents.values()))
    pixels = (dataset.x * 255).round().to(torch.uint8).numpy().tobytes()
    assert pixels in content
    assert dataset.y.tolist() == [i % 10 for i in range(len(dataset))]


def test_sets_with_the_same_file_names_share_a_root(tmp_path, monkeypatch):
    mnist = shrink(monkeypatch, "mnist")
    mnist.write(tmp_path)
    for name, content in mnist.contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(len(content))))
    assert len(load_dataset("mnist", data_dir=tmp_path)) == 20
    shutil.rmtree(tmp_path / "MNIST")
    with pytest.raises(IntegrityError, match="another data set with the same file names"):
        load_dataset("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifars_are_read_with_channels_first_in_the_order_of_files(tmp_path, monkeypatch, name):
    shrink(monkeypatch, name).write(tmp_path)
    for split, batches in BATCHES[name].items():
        dataset = load_dataset(name, split=split, data_dir=tmp_path)
        images = np.vstack([random_images(size, 3072, seed=seed) for _, size, seed in batches])
        expected = images.reshape(-1, 3, 32, 32).astype(np.float32) / 255
        assert torch.equal(dataset.x, torch.from_numpy(expected))
        assert dataset.x.is_contiguous()
        labels = bytes(i for _, size, _ in batches for i in range(size))
        assert dataset.sha256 == hashlib.sha256(images.tobytes() + labels).hexdigest()


def test_a_set_is_found_in_each_folder(tmp_path, monkeypatch, tiny):
    def load():
        return load_dataset(tiny.name, split=tiny.split)

    for root in (tmp_path / "named", cache_folder()):
        with pytest.raises(DataUnavailableError):
            load()
        tiny.write(root)
        with monkeypatch.context() as patch:
            patch.setenv("DYNBENCH_DATA", str(tmp_path / "named"))
            assert len(load()) > 0
        shutil.rmtree(root)


def test_fashion_mnist_is_found_in_debians_folder(tmp_path, monkeypatch):
    tiny = shrink(monkeypatch, "fashion_mnist")
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tiny.write(tmp_path / "debian"))
    assert len(load_dataset("fashion_mnist", split="train")) == 20


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_set_names_its_remedies(name, tmp_path):
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset(name, split="train", data_dir=tmp_path / "empty")
    message = str(caught.value)
    remedies = ["--data-dir", "DYNBENCH_DATA", "network", "the network is unplugged"]
    if name == "fashion_mnist":
        remedies.append("apt install dataset-fashion-mnist")
    for words in (*remedies, str(tmp_path / "empty")):
        assert words in message
    assert "\n" not in message
    assert not (tmp_path / "empty").exists()


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_debians_training_split_passes_the_checks():
    dataset = load_dataset("fashion_mnist", split="train", n_examples=100, data_dir=DEBIAN_FOLDER)
    assert dataset.x.shape == (100, 1, 28, 28)
    assert dataset.class_names[dataset.y[0]] == "Ankle boot"


# --- digits ----------------------------------------------------------------------------------


def test_the_digits_splits_are_disjoint_and_complete():
    train, test = digits.split_indices("train"), digits.split_indices("test")
    assert (len(train), len(test)) == (1_297, 500)
    assert sorted([*train, *test]) == list(range(1_797))


def test_the_digits_split_never_changes():
    assert digits.split_indices("test")[:5].tolist() == DIGITS_TEST_ROWS
    assert load_dataset("digits").sha256 == PINNED["digits"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_scikit_learns_divided_by_16(split):
    images, labels = load_digits(return_X_y=True)
    rows = digits.split_indices(split)
    dataset = load_dataset("digits", split=split)
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
