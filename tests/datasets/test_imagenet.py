"""ImageNet's validation images, on a small folder in their layout."""

import shutil

import numpy as np
import pytest
import torch
from oracles.image_folders import colours, write_image
from PIL import Image

from robustbench_dyn.datasets import dataset_info, imagenet, load_dataset
from robustbench_dyn.errors import DataUnavailableError, IntegrityError

CLASSES = (("n01440764", "tench"), ("n01443537", "goldfish"), ("n01484850", "shark"))
# Image number to class.
IMAGES = {7: 0, 3: 2, 5: 1, 9: 2, 1: 0, 8: 1, 2: 2}
ORDER = (5, 9, 1)


@pytest.fixture
def few(monkeypatch):
    """Let three classes and seven images stand for ImageNet."""
    monkeypatch.setattr(imagenet, "classes", lambda: CLASSES)
    monkeypatch.setattr(imagenet, "robustbench_order", lambda: ORDER)
    monkeypatch.setattr(imagenet, "N_IMAGES", len(IMAGES))
    for info in imagenet.INFOS:
        monkeypatch.setitem(info.sizes, "test", len(IMAGES))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNBENCH_DATA", raising=False)


def path_of(number):
    return f"{CLASSES[IMAGES[number]][0]}/ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def folder(tmp_path):
    for number in IMAGES:
        size = (300 + number, 260)
        write_image(tmp_path / "set/val" / path_of(number), colours(*size, seed=number))
    grey = Image.open(tmp_path / "set/val" / path_of(9)).convert("L")
    grey.save(tmp_path / "set/val" / path_of(9))
    return tmp_path / "set"


def test_its_classes_and_its_order_ship():
    identifiers, names = zip(*imagenet.classes(), strict=True)
    assert list(identifiers) == sorted(set(identifiers))
    assert len(set(names)) == len(names) == 1000
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
    order = imagenet.robustbench_order()
    assert len(set(order)) == len(order) == 5000
    assert order[:2] == (15253, 20685)
    assert 1 <= min(order) < max(order) <= imagenet.N_IMAGES


@pytest.mark.parametrize("place", ["", "val", "imagenet/val"])
def test_the_first_examples_are_those_of_robustbench(few, folder, tmp_path, place):
    root = folder / "val"
    if place:
        (tmp_path / "root" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(root, tmp_path / "root" / place)
        root = tmp_path / "root"
    data = load_dataset("imagenet", data_dir=root)
    assert data.x.shape == (len(IMAGES), 3, 224, 224)
    assert data.y[: len(ORDER)].tolist() == [IMAGES[number] for number in ORDER]
    assert sorted(data.y.tolist()) == sorted(IMAGES.values())
    part = load_dataset("imagenet", data_dir=root, first=1, n_examples=2)
    assert torch.equal(part.x, data.x[1:3])
    assert part.sha256 == data.sha256


def test_pixels_are_those_of_the_middle(few, folder):
    data = load_dataset("imagenet", data_dir=folder, n_examples=1)
    image = Image.open(folder / "val" / path_of(ORDER[0])).resize((300, 256), Image.BILINEAR)
    expected = np.asarray(image)[16:240, 38:262] / np.float32(255)
    assert torch.equal(data.x[0].permute(1, 2, 0), torch.from_numpy(expected))


def test_sizes_of_other_models_are_data_sets_of_their_own(few, folder):
    found = {
        name: load_dataset(name, data_dir=folder, n_examples=1)
        for name in imagenet.BY_PREPROCESSING.values()
    }
    assert found["imagenet_crop288"].x.shape[1:] == dataset_info("imagenet_crop288").input_shape
    assert len({data.sha256 for data in found.values()}) == len(found)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda d: (d / path_of(2)).unlink(), "has 6 validation images of ImageNet, expected 7"),
        (
            lambda d: (d / path_of(9)).rename(d / CLASSES[2][0] / "ILSVRC2012_val_00000099.JPEG"),
            "has no image ILSVRC2012_val_00000009",
        ),
        (
            lambda d: (d / path_of(5)).write_bytes(b"x"),
            r"00000005\.JPEG cannot be read",
        ),
        (
            lambda d: write_image(d / "more/x.png", colours(9, 9)),
            r"x\.png is in no folder",
        ),
    ],
)
def test_a_folder_that_is_not_imagenet_is_refused(few, folder, spoil, complaint):
    assert len(load_dataset("imagenet", data_dir=folder)) == len(IMAGES)
    spoil(folder / "val")
    with pytest.raises(IntegrityError, match=complaint):
        load_dataset("imagenet", data_dir=folder)


def test_a_missing_imagenet_names_its_remedies(tmp_path):
    with pytest.raises(DataUnavailableError, match=r"--data-dir .* or in DYNBENCH_DATA") as caught:
        load_dataset("imagenet", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
