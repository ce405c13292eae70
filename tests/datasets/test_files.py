"""Data in files of one's own: the tensors are those of the files, and what is wrong is named."""

import gzip
import os
import shutil

import numpy as np
import pytest
import torch
from oracles.image_folders import colours, write_folder, write_image
from oracles.published_sets import idx_bytes
from PIL import Image

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.datasets import (
    DatasetInfo,
    dataset_info,
    dataset_name,
    from_folder,
    from_idx,
    from_npz,
    load_dataset,
)
from robustbench_dyn.datasets.forms import with_absolute_paths
from robustbench_dyn.datasets.sources.folder import in_order_of_hashes
from robustbench_dyn.errors import DynbenchError, InputError, IntegrityError
from robustbench_dyn.names import is_name

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (12, 3, 6, 7), dtype=np.uint8)
Y = np.arange(12) % 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def npz(tmp_path):
    def save(**arrays):
        np.savez_compressed(tmp_path / "data.npz", **arrays)
        return f"npz:{tmp_path / 'data.npz'}"

    return save


# --- npz -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (BYTES, BYTES / np.float32(255)),
        (np.moveaxis(BYTES, 1, -1), BYTES / np.float32(255)),
        (np.asfortranarray(BYTES), BYTES / np.float32(255)),
        (BYTES[:, 0], BYTES[:, :1] / np.float32(255)),
        ((BYTES / 255)[:, 0, 0], (BYTES / 255).astype("f4")[:, 0, 0, :, None, None]),
        ((BYTES / 255).astype(">f8"), (BYTES / 255).astype("f4")),
        (BYTES[:, :2, :1, :1], BYTES[:, :2, :1, :1] / np.float32(255)),
    ],
    ids=["bytes", "channels last", "fortran", "grey", "points", "big-endian floats", "plane"],
)
def test_arrays_of_an_npz_become_tensors(npz, stored, expected):
    data = load_dataset(npz(x=stored, y=Y), first=2, n_examples=5)
    assert torch.equal(data.x, torch.from_numpy(np.ascontiguousarray(expected[2:7])))
    assert data.y.tolist() == Y[2:7].tolist()
    assert data.ids.tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("x", "y"), [("x_{}", "y_{}"), ("{}_images", "{}_labels")], ids=["Keras", "MedMNIST"]
)
def test_an_npz_may_have_two_splits(npz, x, y):
    arrays = {
        x.format("train"): BYTES[:8],
        y.format("train"): Y[:8, None],
        x.format("test"): BYTES[8:],
        y.format("test"): Y[8:, None],
    }
    name = npz(**arrays, class_names=np.array(["cat", "dog", "owl"]))
    train, test = (load_dataset(name, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (8, 4)
    assert test.class_names == ("cat", "dog", "owl")
    assert train.sha256 != test.sha256


def test_a_missing_training_split_is_told_how_to_add(npz):
    with pytest.raises(InputError, match="has no train split; choose test, or add one: x_train"):
        load_dataset(npz(x=BYTES, y=Y), split="train")


def test_the_name_is_of_the_file_and_its_content(npz):
    name = npz(x=BYTES, y=Y)
    data = load_dataset(name)
    assert data.name == f"data-{data.sha256[:8]}" == dataset_name(name)
    assert is_name(data.name)
    assert load_dataset(name, n_examples=3).sha256 == data.sha256
    assert dataset_info(data.name).input_shape == (3, 6, 7)  # as this process has opened it
    changed = BYTES.copy()
    changed[-1, -1, -1, -1] ^= 1
    assert load_dataset(npz(x=changed, y=Y)).sha256 != data.sha256
    assert load_dataset(npz(x=BYTES, y=Y[::-1])).sha256 != data.sha256


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": BYTES}, "has no array y; it has x"),
        ({"y": Y}, "has no array x; it has y"),
        ({"images": BYTES, "labels": Y}, "its arrays are images, labels; save x and y"),
        ({"x_train": BYTES, "y_train": Y}, "no examples to test on"),
        ({"x": BYTES[:5], "y": Y}, "5 inputs and 12 labels"),
        ({"x": BYTES[:0], "y": Y[:0]}, "0 inputs and 0 labels"),
        ({"x": BYTES.astype(int), "y": Y}, "are int64; give uint8 from 0 to 255, or floats"),
        ({"x": BYTES[:, :, 0, 0, None, None, None], "y": Y}, "give (n, C, H, W), (n, H, W, C)"),
        ({"x": BYTES // 16, "y": Y}, "bytes up to 15, which is nearly black"),
        ({"x": BYTES / 255, "y": Y / 1.0}, "are float64 of shape (12,); give integers"),
        ({"x": BYTES / 255, "y": np.eye(12, dtype=int)}, "of shape (12, 12); give integers"),
        ({"x": BYTES / 255, "y": Y - (Y == 2) * 4}, "label -2 of example 2 of array y"),
        ({"x": BYTES, "y": Y, "class_names": np.array(["a", "b"])}, "label 2 of example 2 of the"),
        ({"x": BYTES, "y": Y, "class_names": np.arange(3)}, "class_names of"),
        ({"x": np.array([[{}]] * 12), "y": Y}, "are object; give uint8"),
    ],
)
def test_arrays_that_are_no_data_are_refused(npz, arrays, complaint):
    with pytest.raises(InputError) as caught:
        load_dataset(npz(**arrays))
    assert complaint in str(caught.value)
    assert "data.npz" in str(caught.value)


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_a_float_outside_the_unit_interval_is_named_by_its_row(npz, value):
    x = (BYTES / 255).astype("f4")
    x[7, 1, 2, 3] = value
    name = npz(x=x, y=Y)
    assert len(load_dataset(name, n_examples=7)) == 7  # those before it are fine
    with pytest.raises(IntegrityError, match=r"example 7 of array x of .*data\.npz has values"):
        load_dataset(name, first=5)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"x" * 99],
    ids=["truncated", "empty", "other"],
)
def test_a_damaged_npz_is_refused(npz, tmp_path, damage):
    name, path = npz(x=BYTES, y=Y), tmp_path / "data.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=r"data\.npz cannot be read as an \.npz file"):
        load_dataset(name)


def test_a_flipped_byte_inside_an_array_is_refused(tmp_path):
    np.savez(tmp_path / "data.npz", x=BYTES, y=Y)
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[content.index(BYTES[3].tobytes())] ^= 1
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(IntegrityError, match="CRC"):
        load_dataset(f"npz:{tmp_path / 'data.npz'}")


def test_pickled_objects_are_not_read(npz):
    with pytest.raises(InputError, match="holds Python objects, which are not read"):
        load_dataset(npz(x=BYTES, y=np.array([0, 1] * 6, dtype=object)))


# --- folders ---------------------------------------------------------------------------------


def test_a_folder_of_class_folders_is_decoded_as_pillow_does(tmp_path):
    write_folder(tmp_path / "set/val", {"cat": 5, "dog": 4}, size=(6, 5))
    data = load_dataset(f"folder:{tmp_path / 'set'}")
    files = sorted((tmp_path / "set/val").rglob("*.png"))
    expected = {np.asarray(Image.open(file)).tobytes(): file.parent.name for file in files}
    for x, y in zip(data.x, data.y, strict=True):
        pixels = (x * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        assert data.class_names[y] == expected.pop(pixels.tobytes())
    assert expected == {}
    assert data.x.shape == (9, 3, 5, 6)
    assert data.name == f"set-{data.sha256[:8]}"


def test_the_first_examples_of_a_folder_are_of_all_classes(tmp_path):
    write_folder(tmp_path, {"a": 30, "b": 30})
    assert set(load_dataset(f"folder:{tmp_path}", n_examples=10).y.tolist()) == {0, 1}


def test_only_the_wanted_images_are_decoded(tmp_path, monkeypatch):
    write_folder(tmp_path, {"a": 40, "b": 40})
    decoded = []
    load = Image.Image.convert
    monkeypatch.setattr(
        Image.Image, "convert", lambda *args: (decoded.append(args[0].filename), load(*args))[1]
    )
    load_dataset(f"folder:{tmp_path}", first=50, n_examples=5)
    # Five, the first for its size, and four that stand for the decoder.
    assert len(set(decoded)) <= 10


def test_a_folder_has_classes_of_both_splits(tmp_path):
    write_folder(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    write_folder(tmp_path / "test", {"a": 2, "c": 2})
    data = load_dataset(f"folder:{tmp_path}")
    assert data.class_names == ("a", "b", "c")
    assert sorted(data.y.tolist()) == [0, 0, 2, 2]
    assert len(load_dataset(f"folder:{tmp_path}", split="train")) == 6


def test_grey_images_have_one_channel(tmp_path):
    write_folder(tmp_path, {"a": 3, "b": 3}, mode="L")
    assert load_dataset(f"folder:{tmp_path}").x.shape == (6, 1, 8, 8)


def test_a_preprocessing_brings_images_to_one_size(tmp_path):
    write_folder(tmp_path, {"a": 2}, size=(300, 260))
    write_folder(tmp_path, {"b": 2}, size=(256, 400), mode="L")
    data = load_dataset(f"folder:{tmp_path},Res256Crop224")
    assert data.x.shape == (4, 3, 224, 224)
    other = load_dataset(f"folder:{tmp_path},BicubicRes256Crop224")
    assert other.sha256 != data.sha256


def test_the_hash_sees_each_file(tmp_path):
    write_folder(tmp_path / "set", {"a": 3, "b": 3})
    before = load_dataset(f"folder:{tmp_path / 'set'}", n_examples=1).sha256
    assert load_dataset(f"folder:{tmp_path / 'set'}").sha256 == before
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    assert load_dataset(f"folder:{tmp_path / 'copy'}").sha256 == before
    for i in range(3):
        write_image(tmp_path / f"set/b/{i}.png", colours(8, 8, seed=99))
        after = load_dataset(f"folder:{tmp_path / 'set'}", n_examples=1).sha256
        assert after != before
        before = after
    (tmp_path / "set/b/0.png").rename(tmp_path / "set/a/9.png")
    assert load_dataset(f"folder:{tmp_path / 'set'}", n_examples=1).sha256 != before


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (
            lambda d: (d / "b/0.png").write_bytes(b"no image"),
            r"b/0\.png cannot be read as an image",
        ),
        (lambda d: (d / "b/0.png").write_bytes(b""), r"b/0\.png cannot be read as an image"),
        (
            lambda d: (d / "b/0.png").write_bytes((d / "b/0.png").read_bytes()[:150]),
            r"b/0\.png cannot be read as an image",
        ),
        (lambda d: write_image(d / "b/0.png", colours(9, 8)), r"0\.png is 8 x 8 pixels.* 9 x 8"),
        (
            lambda d: Image.new("I;16", (8, 8)).save(d / "b/0.png"),
            r"b/0\.png has pixels of mode I;16",
        ),
        (lambda d: shutil.rmtree(d / "a"), "has 1 class folders"),
        (
            lambda d: write_image(d / "loose.png", colours(8, 8)),
            r"loose\.png is in no class",
        ),
        (lambda d: [file.unlink() for file in d.rglob("*.png")], "has no images"),
        (
            lambda d: [(d / "b/0.png").unlink(), os.mkfifo(d / "b/0.png")],
            r"b/0\.png cannot be read",
        ),
        (lambda d: (d / "train").mkdir(), "has train, and neither test nor val"),
    ],
)
def test_a_folder_that_is_wrong_is_refused(tmp_path, spoil, complaint):
    write_folder(tmp_path, {"a": 4, "b": 2})
    assert len(load_dataset(f"folder:{tmp_path}")) == 6
    spoil(tmp_path)
    with pytest.raises(DynbenchError, match=complaint) as caught:
        load_dataset(f"folder:{tmp_path}")
    assert str(tmp_path) in str(caught.value)


def test_a_colour_image_among_grey_ones_is_refused(tmp_path):
    write_folder(tmp_path, {"a": 80, "b": 2}, mode="L")
    names = in_order_of_hashes([f"a/{i}.png" for i in range(80)] + ["b/0.png", "b/1.png"])
    assert load_dataset(f"folder:{tmp_path}").x.shape == (82, 1, 8, 8)
    write_image(tmp_path / names[-1], colours(8, 8))
    assert len(load_dataset(f"folder:{tmp_path}", n_examples=81)) == 81
    with pytest.raises(IntegrityError, match=f"{names[-1]} is a colour image, and the first"):
        load_dataset(f"folder:{tmp_path}")


# --- IDX -------------------------------------------------------------------------------------


def test_idx_files_are_read_packed_or_not(tmp_path):
    images, labels = BYTES[:, 0], Y.astype(np.uint8)
    for split, rows in {"train": slice(0, 8), "t10k": slice(8, 12)}.items():
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(images[rows]))
        packed = gzip.compress(idx_bytes(labels[rows]))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(packed)
    data = load_dataset(f"idx:{tmp_path}")
    assert torch.equal(data.x, torch.from_numpy(images[8:, None] / np.float32(255)))
    assert data.y.tolist() == labels[8:].tolist()
    assert len(load_dataset(f"idx:{tmp_path}", split="train")) == 8
    pair = [tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte.gz"]
    two = load_dataset(f"idx:{pair[0]},{pair[1]}")
    assert two.sha256 == data.sha256
    assert two.name == f"t10k_images_idx3_ubyte-{data.sha256[:8]}"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no IDX file of bytes"),
        (b"\x89PNG" + bytes(99), "it begins with 89504e47"),
        (idx_bytes(BYTES[:, 0])[:-1], "and its header says 12 x 6 x 7; it is truncated"),
        (idx_bytes(BYTES[:, 0]) + b"x", "holds more than 504 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "holds 0 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_idx_file_is_refused(tmp_path, content, complaint, packed):
    images = tmp_path / ("images.gz" if packed else "images")
    labels = tmp_path / "labels"
    labels.write_bytes(idx_bytes(Y))
    images.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(IntegrityError, match=complaint):
        load_dataset(f"idx:{images},{labels}")


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("npz:", "give npz:FILE"),
        ("npz:/nowhere/x.npz", "does not exist; give an .npz file"),
        ("folder:/nowhere", "does not exist; give a folder"),
        ("idx:/nowhere", "does not exist; give an IDX file"),
        ("nzp:x.npz", "no data set is called 'nzp:x.npz'"),
        ("tar:x.tar", "npz:FILE, folder:DIR"),
        ("moons,Res256Crop224", "no data set is called"),
    ],
)
def test_names_of_files_that_are_not_there_are_refused(name, complaint):
    with pytest.raises(InputError) as caught:
        load_dataset(name)
    assert complaint in str(caught.value)


def test_a_preprocessing_of_arrays_is_refused(npz):
    with pytest.raises(InputError, match="Crop288 is for image files"):
        load_dataset(npz(x=BYTES, y=Y) + ",Crop288")


def test_paths_in_names_become_absolute(tmp_path, monkeypatch, npz):
    name = npz(x=BYTES, y=Y)
    monkeypatch.chdir(tmp_path)
    assert with_absolute_paths("npz:data.npz") == name
    assert with_absolute_paths("idx:data.npz,x") == f"idx:{tmp_path / 'data.npz'},x"
    assert with_absolute_paths("torchvision:data.npz") == "torchvision:data.npz"
    assert with_absolute_paths("moons") == "moons"


@pytest.mark.parametrize("make", [from_npz, from_folder, from_idx])
def test_a_plugin_registers_files_under_a_name_of_its_own(tmp_path, make):
    write_folder(tmp_path / "folder", {"a": 2, "b": 2})
    np.savez(tmp_path / "x.npz", x=BYTES, y=Y)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(BYTES[:, 0]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(Y))
    place = {from_npz: "x.npz", from_folder: "folder", from_idx: "."}[make]
    info = make(tmp_path / place, name="mine")
    assert isinstance(info, DatasetInfo)
    assert load_dataset(info).name == "mine"
    assert not info.is_unregistered
    assert make(tmp_path / place).is_unregistered


def test_the_model_of_an_evaluation_sees_the_examples_of_the_file(npz):
    x = RNG.random((6, 2)).astype("f4")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model[1].bias.zero_()
    y = (x[:, 1] > x[:, 0]).astype(int)
    name = npz(x=x, y=y)
    evaluation = evaluate(model, name, ThreatModel("L2", 1e-4), attacks="none")
    assert evaluation.summary["dataset"] == dataset_name(name)
    assert evaluation.summary["clean_accuracy"] == 1
