"""Data sets of the Hugging Face hub: folders in the formats that its library writes and reads."""

import sys

import numpy as np
import pytest
import torch
from oracles.image_folders import colours, write_folder
from PIL import Image

from robustbench_dyn.datasets import load_dataset
from robustbench_dyn.errors import DataUnavailableError, InputError, IntegrityError

datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")

IMAGES = [colours(7, 6, seed=i) for i in range(9)]
LABELS = [2, 0, 1, 1, 0, 2, 0, 1, 2]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub" / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.create_connection", _unplugged)
    monkeypatch.setattr("socket.getaddrinfo", _unplugged)


def _unplugged(*_, **__):
    raise OSError("the network is unplugged")


@pytest.fixture
def save(tmp_path):
    def write(splits, *, kind="saved", labels=LABELS, **columns):
        features = datasets.Features(
            {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "owl"])}
        )
        images = [Image.fromarray(pixels) for pixels in IMAGES]
        table = datasets.Dataset.from_dict(
            {"picture": images, "label": labels} | columns,
            features=features if not columns else None,
        )
        found = datasets.DatasetDict(dict.fromkeys(splits, table))
        if kind == "saved":
            found.save_to_disk(str(tmp_path / "set"))
        else:
            for split, part in found.items():
                part.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
        return f"hf:{tmp_path / 'set'}"

    return write


@pytest.mark.parametrize("kind", ["saved", "parquet"])
@pytest.mark.parametrize("test", ["test", "validation"])
def test_examples_are_the_images_of_the_table(save, kind, test):
    name = save(["train", test], kind=kind)
    data = load_dataset(name, first=2, n_examples=5)
    expected = np.stack([pixels.transpose(2, 0, 1) for pixels in IMAGES[2:7]])
    assert torch.equal(data.x, torch.from_numpy(expected / np.float32(255)))
    assert data.y.tolist() == LABELS[2:7]
    assert data.class_names == ("cat", "dog", "owl")
    assert data.name == f"set-{data.sha256[:8]}"
    assert load_dataset(name).sha256 == data.sha256
    assert len(load_dataset(name, split="train")) == 9


def test_the_hash_sees_labels_and_images(save, monkeypatch):
    before = load_dataset(save(["test"])).sha256
    assert load_dataset(save(["test"])).sha256 == before
    assert load_dataset(save(["test"], labels=[*LABELS[:-1], 0])).sha256 != before
    monkeypatch.setitem(globals(), "IMAGES", [*IMAGES[:-1], IMAGES[0]])
    assert load_dataset(save(["test"])).sha256 != before


def test_a_folder_of_images_is_read_by_the_library(tmp_path):
    write_folder(tmp_path / "set/test", {"a": 12, "b": 12})
    data = load_dataset(f"hf:{tmp_path / 'set'}")
    assert data.class_names == ("a", "b")
    assert set(data.y[:8].tolist()) == {0, 1}  # though the rows are sorted by class


@pytest.mark.parametrize(
    ("splits", "complaint"),
    [(["train"], "has the splits train; one of them must be test or validation")],
)
def test_a_table_without_a_test_split_is_refused(save, splits, complaint):
    with pytest.raises(InputError, match=complaint):
        load_dataset(save(splits))


def test_a_table_without_images_is_refused(tmp_path):
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    table.save_to_disk(str(tmp_path / "set"))
    with pytest.raises(InputError, match=r"has the columns text \(Value\), label \(Value\); one"):
        load_dataset(f"hf:{tmp_path / 'set'}")


def test_a_damaged_image_is_named_by_its_row(save, tmp_path):
    table = datasets.load_from_disk(save(["test"]).removeprefix("hf:"))["test"]
    raw = table.cast_column("picture", datasets.Image(decode=False)).to_dict()
    raw["picture"][5]["bytes"] = raw["picture"][5]["bytes"][:60]
    spoiled = datasets.Dataset.from_dict(raw, features=table.features)
    spoiled.save_to_disk(str(tmp_path / "spoiled"))
    assert len(load_dataset(f"hf:{tmp_path / 'spoiled'}", n_examples=5)) == 5
    with pytest.raises(IntegrityError, match=r"row 5 of the test split of hf:.* cannot be read"):
        load_dataset(f"hf:{tmp_path / 'spoiled'}")


@pytest.mark.parametrize("name", ["nobody/nothing", "/nowhere/at/all"])
def test_a_name_that_cannot_be_fetched_is_one_sentence(name):
    with pytest.raises((DataUnavailableError, InputError)) as caught:
        load_dataset(f"hf:{name}")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        load_dataset("hf:cifar10")
