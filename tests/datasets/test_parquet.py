"""Parquet files of encoded images, in the layouts in which the Hugging Face hub has them."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from oracles.image_folders import colours
from PIL import Image
from pyarrow import parquet

from robustbench_dyn.datasets import cifar10_jpeg, load_dataset
from robustbench_dyn.errors import DataUnavailableError, InputError, IntegrityError

PIXELS = [colours(7, 6, seed=i) for i in range(9)]
LABELS = [2, 0, 1, 1, 0, 2, 0, 1, 2]


def encoded(pixels, form="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


IMAGES = [encoded(pixels) for pixels in PIXELS]


def write(path, images=IMAGES, labels=LABELS, *, image="img", label="label", names=(), rows=None):
    """Write a table of encoded images; names: of the classes, into the schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = [
        None if content is None else {"bytes": content, "path": f"{k}.png"}
        for k, content in enumerate(images)
    ]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(stored, struct), label: pa.array(labels, pa.int64())})
    if names:
        features = {label: {"names": list(names), "_type": "ClassLabel"}}
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    parquet.write_table(table, path, row_group_size=rows)
    return path


def expected(pixels):
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2) / np.float32(255))


@pytest.mark.parametrize("image", ["img", "image", "picture"])
@pytest.mark.parametrize("label", ["label", "fine_label", "species"])
def test_examples_are_the_rows_in_their_order(image, label, tmp_path):
    write(tmp_path / "set/test.parquet", image=image, label=label, rows=2)
    data = load_dataset(f"parquet:{tmp_path / 'set'}", first=1, n_examples=6)
    assert torch.equal(data.x, expected(PIXELS[1:7]))
    assert data.y.tolist() == LABELS[1:7]
    assert data.class_names == ("0", "1", "2")
    assert data.name == f"set-{data.sha256[:8]}"


def test_the_names_of_the_classes_are_those_of_the_schema(tmp_path):
    write(tmp_path / "validation.parquet", names=["cat", "dog", "owl", "fox"])
    data = load_dataset(f"parquet:{tmp_path}")
    assert data.class_names == ("cat", "dog", "owl", "fox")


def test_parts_of_a_split_follow_each_other(tmp_path):
    for k, part in enumerate((slice(0, 4), slice(4, 9))):
        name = f"data/test-0000{k}-of-00002.parquet"
        write(tmp_path / name, IMAGES[part], LABELS[part])
    write(tmp_path / "data/train-00000-of-00001.parquet", IMAGES[:3], LABELS[:3])
    write(tmp_path / "test_originals.parquet", IMAGES[:1], LABELS[:1])
    data = load_dataset(f"parquet:{tmp_path}")
    assert torch.equal(data.x, expected(PIXELS))
    assert len(load_dataset(f"parquet:{tmp_path}", split="train")) == 3


def test_one_file_is_a_test_split(tmp_path):
    path = write(tmp_path / "anything.parquet")
    data = load_dataset(f"parquet:{path}")
    assert (data.split, len(data)) == ("test", 9)
    with pytest.raises(InputError, match="has no train split"):
        load_dataset(f"parquet:{path}", split="train")


def test_sorted_labels_are_mixed_and_keep_their_images(tmp_path):
    order = np.argsort(LABELS, kind="stable")
    write(tmp_path / "test.parquet", [IMAGES[i] for i in order], sorted(LABELS), rows=2)
    data = load_dataset(f"parquet:{tmp_path}")
    assert data.y.tolist() != sorted(LABELS)
    for image, label in zip(data.x, data.y.tolist(), strict=True):
        (k,) = (k for k, pixels in enumerate(PIXELS) if torch.equal(image, expected([pixels])[0]))
        assert LABELS[k] == label
    part = load_dataset(f"parquet:{tmp_path}", first=4, n_examples=3)
    assert torch.equal(part.x, data.x[4:7])


def test_grey_images_have_one_channel(tmp_path):
    write(tmp_path / "test.parquet", [encoded(pixels[..., 0]) for pixels in PIXELS])
    assert load_dataset(f"parquet:{tmp_path}").x.shape == (9, 1, 6, 7)


def test_the_hash_sees_images_and_labels(tmp_path):
    hashes = set()
    for k, (images, labels) in enumerate(
        [(IMAGES, LABELS), (IMAGES[::-1], LABELS), (IMAGES, [*LABELS[:-1], 0])]
    ):
        write(tmp_path / f"{k}/test.parquet", images, labels)
        hashes.add(load_dataset(f"parquet:{tmp_path / str(k)}").sha256)
    assert len(hashes) == 3


def test_images_that_are_not_asked_for_are_not_decoded(tmp_path):
    write(tmp_path / "test.parquet", [*IMAGES[:-1], b"broken"])
    assert len(load_dataset(f"parquet:{tmp_path}", n_examples=8)) == 8
    with pytest.raises(
        IntegrityError, match=r"row 8 of .*test\.parquet cannot be read as an image"
    ):
        load_dataset(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": [*IMAGES[:5], None, *IMAGES[6:]]}, IntegrityError, "row 5 of .* no bytes"),
        ({"images": [*IMAGES[:5], b"", *IMAGES[6:]]}, IntegrityError, "row 5 of .* no bytes"),
        ({"labels": [*LABELS[:3], None, *LABELS[4:]]}, InputError, "row 3 of .* has no label"),
        ({"labels": [*LABELS[:3], -1, *LABELS[4:]]}, InputError, "negative"),
        ({"names": ["cat", "dog"]}, InputError, "label 2 in row 0 of .* names 2 classes"),
        ({"images": [], "labels": []}, InputError, "has no row"),
        (
            {"images": [*IMAGES[:2], encoded(colours(5, 5)), *IMAGES[3:]]},
            IntegrityError,
            "row 2 of .* is 5 x 5 pixels",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_and_row(changes, error, message, tmp_path):
    write(tmp_path / "test.parquet", **changes)
    with pytest.raises(error, match=message):
        load_dataset(f"parquet:{tmp_path}")


def test_a_missing_test_split_is_told(tmp_path):
    write(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"no test split; it must hold test\.parquet"):
        load_dataset(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": ["a"], "label": [1]}, "one must hold images"),
        ({"a": [1], "b": [2]}, "one of whole numbers must be called label"),
        ({"label": [0.5]}, "one of whole numbers must be called label"),
    ],
)
def test_other_columns_are_refused(columns, message, tmp_path):
    parquet.write_table(pa.table(columns), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=message):
        load_dataset(f"parquet:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 1000])
def test_a_damaged_file_is_told(content, tmp_path):
    (tmp_path / "test.parquet").write_bytes(content)
    with pytest.raises(IntegrityError, match="cannot be read as a Parquet file"):
        load_dataset(f"parquet:{tmp_path}")


def test_copies_of_cifar10_are_found_below_a_folder(tmp_path, monkeypatch):
    path = write(tmp_path / "cifar10_jpeg/test.parquet")
    with pytest.raises(IntegrityError, match="evaluate it as parquet:FOLDER"):
        load_dataset("cifar10_jpeg", data_dir=tmp_path)
    found = cifar10_jpeg.hash_file(path)
    monkeypatch.setitem(cifar10_jpeg.SHA256, "test", found)
    for folder in (tmp_path, tmp_path / "cifar10_jpeg"):
        read = cifar10_jpeg.load_rows("test", range(2, 5), folder)
        assert np.array_equal(read.x, np.stack(PIXELS[2:5]).transpose(0, 3, 1, 2))
        assert read.y.tolist() == LABELS[2:5]


def test_copies_of_cifar10_that_are_nowhere_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNBENCH_DATA", raising=False)
    with pytest.raises(DataUnavailableError, match=r"give the folder that holds test\.parquet"):
        load_dataset("cifar10_jpeg", data_dir=tmp_path)
