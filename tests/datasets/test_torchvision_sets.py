"""Data sets of torchvision: its own classes read small files in their formats."""

import pickle

import numpy as np
import pytest
import torch
from oracles.image_folders import colours, write_folder
from oracles.published_sets import idx_bytes, random_images
from oracles.torchvision_here import torchvision
from PIL import Image

from robustbench_dyn.datasets import from_torchvision, load_dataset
from robustbench_dyn.datasets.sources import torchvision_sets
from robustbench_dyn.errors import DataUnavailableError, InputError, IntegrityError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNBENCH_DATA", raising=False)
    monkeypatch.setattr("socket.create_connection", _unplugged)
    monkeypatch.setattr("socket.getaddrinfo", _unplugged)


@pytest.fixture
def theirs():
    return torchvision("datasets")


def _unplugged(*_, **__):
    raise OSError("the network is unplugged")


def test_a_set_in_memory_is_the_arrays_of_torchvision(tmp_path, theirs):
    folder = tmp_path / "KMNIST/raw"
    folder.mkdir(parents=True)
    images = {"train": random_images(9, 28, 28, seed=1), "t10k": random_images(6, 28, 28, seed=2)}
    for split, pixels in images.items():
        labels = (np.arange(len(pixels)) * 7) % 10
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    data = load_dataset("torchvision:KMNIST", data_dir=tmp_path)
    assert torch.equal(data.x, torch.from_numpy(images["t10k"][:, None] / np.float32(255)))
    assert data.y.tolist() == [0, 7, 4, 1, 8, 5]
    assert data.class_names == tuple(theirs.KMNIST.classes)
    assert data.name == f"kmnist-{data.sha256[:8]}"
    train = load_dataset("torchvision:KMNIST", split="train", data_dir=tmp_path)
    assert len(train) == 9


def test_images_in_files_are_decoded_when_they_are_read(tmp_path, monkeypatch, theirs):
    # EuroSAT has no splits, and images in class folders of which the labels are sorted.
    names = [f"kind{i}" for i in range(3)]
    write_folder(tmp_path / "eurosat/2750", dict.fromkeys(names, 12))
    data = load_dataset("torchvision:EuroSAT", data_dir=tmp_path)
    found = theirs.EuroSAT(root=str(tmp_path))
    expected = {np.asarray(image).tobytes(): label for image, label in found}
    for x, y in zip(data.x, data.y, strict=True):
        pixels = (x * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        assert expected.pop(pixels.tobytes()) == y
    assert len(set(data.y[:8].tolist())) > 1
    decoded = []
    load = Image.Image.convert
    monkeypatch.setattr(
        Image.Image, "convert", lambda *args: (decoded.append(args[0]), load(*args))[1]
    )
    load_dataset("torchvision:EuroSAT", data_dir=tmp_path, n_examples=2)
    # The two, and twice the first and the last, with those that stand for the decoder.
    assert len(decoded) < 20


def test_a_set_of_a_kind_of_its_own_is_read_image_by_image(tmp_path, monkeypatch, theirs):
    class Unusual(theirs.VisionDataset):
        def __init__(self, root, train=True):
            super().__init__(root)
            self.train = train

        def __len__(self):
            return 5

        def __getitem__(self, i):
            return Image.fromarray(colours(6, 6, seed=i + 10 * self.train)), i % 2

    monkeypatch.setattr(theirs, "Unusual", Unusual, raising=False)
    monkeypatch.setattr(theirs, "__all__", (*theirs.__all__, "Unusual"))
    data = load_dataset("torchvision:Unusual", data_dir=tmp_path)
    expected = np.stack([colours(6, 6, seed=i).transpose(2, 0, 1) for i in range(5)])
    assert torch.equal(data.x, torch.from_numpy(expected / np.float32(255)))
    assert data.y.tolist() == [0, 1, 0, 1, 0]

    monkeypatch.setattr(Unusual, "__getitem__", lambda _, i: (Image.new("RGB", (6 + i, 6)), i))
    with pytest.raises(IntegrityError, match="image 1 of Unusual of torchvision has other pixels"):
        load_dataset("torchvision:Unusual", data_dir=tmp_path)


def test_an_attribute_that_misleads_is_not_believed(tmp_path, monkeypatch, theirs):
    class Misleading(theirs.VisionDataset):
        def __init__(self, root):
            super().__init__(root)
            self.data, self.targets = random_images(4, 6, 6), [0, 1, 0, 1]

        def __len__(self):
            return 4

        def __getitem__(self, i):
            return Image.fromarray(255 - self.data[i]), self.targets[i]

    monkeypatch.setattr(theirs, "Misleading", Misleading, raising=False)
    monkeypatch.setattr(theirs, "__all__", (*theirs.__all__, "Misleading"))
    data = load_dataset("torchvision:Misleading", data_dir=tmp_path)
    expected = (255 - random_images(4, 6, 6)) / np.float32(255)
    assert torch.equal(data.x[:, 0], torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("name", "error", "complaint"),
    [
        ("SVNH", InputError, "did you mean 'SVHN'"),
        ("SVHN", (DataUnavailableError, InputError), "SVHN"),
        ("EMNIST", InputError, "EMNIST of torchvision needs split; give torchvision:EMNIST/"),
        ("KMNIST/letters", InputError, "has no variants; give torchvision:KMNIST"),
        ("FakeData", InputError, "no data set of torchvision"),
        ("KMNIST,Res", InputError, "no data set of torchvision is called 'KMNIST,Res'"),
    ],
)
def test_a_name_that_is_no_data_set_here_is_refused(tmp_path, theirs, name, error, complaint):
    with pytest.raises(error) as caught:
        load_dataset(f"torchvision:{name}", data_dir=tmp_path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_set_names_its_remedies(tmp_path, theirs):
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset("torchvision:KMNIST", data_dir=tmp_path / "here")
    for words in ("its download failed", "--data-dir", "DYNBENCH_DATA", str(tmp_path / "here")):
        assert words in str(caught.value)


def test_a_set_that_is_no_classification_is_refused(tmp_path, monkeypatch, theirs):
    write_folder(tmp_path / "eurosat/2750", {"a": 2, "b": 2})
    getitem = theirs.EuroSAT.__getitem__
    monkeypatch.setattr(theirs.EuroSAT, "__getitem__", lambda self, i: (*getitem(self, i), 3))
    with pytest.raises(InputError, match="EuroSAT of torchvision is not for classification"):
        from_torchvision("EuroSAT", root=tmp_path)


def test_a_torchvision_that_cannot_be_imported_is_explained(monkeypatch):
    monkeypatch.setitem(torchvision_sets.sys.modules, "torchvision", None)
    with pytest.raises(InputError, match="pip install torchvision"):
        load_dataset("torchvision:KMNIST")


def test_a_cifar_of_torchvision_has_the_pixels_of_ours(tmp_path, monkeypatch, theirs):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = random_images(4, 3072)
    batch = {"data": images, "labels": [3, 1, 4, 1]}
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(theirs.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(theirs.cifar, "check_integrity", lambda *_: True)
    data = load_dataset("torchvision:CIFAR10", data_dir=tmp_path)
    assert torch.equal(data.x, torch.from_numpy(images.reshape(-1, 3, 32, 32) / np.float32(255)))
    assert data.class_names == tuple("abcdefghij")
