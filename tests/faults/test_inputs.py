"""Data and options that are wrong end with one sentence, before anything is computed."""

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from robustbench_dyn import (
    InputError,
    ThreatModel,
    benchmark,
    evaluate,
    evaluate_distances,
    evaluate_grid,
    evaluate_smoothed,
    load_dataset,
    load_model,
)
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.inputs import as_dataset
from robustbench_dyn.names import check_name, file_name, inside, is_name
from robustbench_dyn.smoothing.statistics import Smoothing

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
DATA = load_dataset("digits", n_examples=8)
X, Y = DATA.x, DATA.y
L2 = ThreatModel("L2", 0.1)
SMOOTHING = Smoothing(0.1, n0=1, n=10)

WRONG_OPTIONS = {
    "batch_size": (True, 0, -1, 2.5, "x", None),
    "seed": (True, 1.5, "1", None),
    "audit_share": (True, "x", None, -0.1, 2, math.nan),
    "n_examples": (True, 0, -1, 2.5, "3", 9),
    "name": (3, "", "a b", "../x", "/x", "a//b", "a/../b", "=1", "x\n", "é", "x" * 101, ["a"]),
    "device": ("meta", "nonsense", 3.5, [1]),
    "store": (3, b"x", [1]),
    "progress": (3, "x"),
}
CASES = [(name, value) for name, values in WRONG_OPTIONS.items() for value in values]


@pytest.mark.parametrize(("option", "value"), CASES)
@pytest.mark.parametrize(
    "call",
    [
        lambda **options: evaluate(MODEL, DATA, L2, attacks="none", **options),
        lambda **options: evaluate_distances(MODEL, DATA, "L2", **options),
        lambda **options: evaluate_smoothed(MODEL, DATA, [L2], SMOOTHING, **options),
    ],
    ids=["evaluate", "evaluate_distances", "evaluate_smoothed"],
)
def test_a_wrong_option_is_named(call, option, value):
    with pytest.raises(InputError) as caught:
        call(**{option: value})
    words = {"name": "no valid name", "n_examples": "n_examples"}.get(option, option)
    assert words in str(caught.value)


@pytest.mark.parametrize("first", [True, -1, 2.5, "3", 8, None])
@pytest.mark.parametrize(
    "call",
    [
        lambda first: evaluate(MODEL, DATA, L2, first=first, attacks="none"),
        lambda first: evaluate(MODEL, (X, Y), L2, first=first, attacks="none"),
        lambda first: evaluate_smoothed(MODEL, DATA, [L2], SMOOTHING, first=first),
    ],
)
def test_a_wrong_first_example_is_named(call, first):
    with pytest.raises(InputError, match="first="):
        call(first)


def test_a_range_beyond_the_last_example_is_refused():
    with pytest.raises(
        InputError, match="n_examples=3 must lie between 1 and the 2 there are from"
    ):
        evaluate(MODEL, DATA, L2, first=6, n_examples=3, attacks="none")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("certifiers", 3),
        ("certifiers", None),
        ("certifiers", [3]),
        ("certifiers", "x"),
        ("attacks", 3),
        ("attacks", [None]),
        ("strict_rounding", 3),
        ("strict_rounding", "yes"),
    ],
)
def test_a_wrong_method_is_named(option, value):
    with pytest.raises(InputError):
        evaluate(MODEL, DATA, L2, **{option: value})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: evaluate(MODEL, DATA, "L2"), "no threat model"),
        (lambda: evaluate(MODEL, DATA, [L2]), "no threat model"),
        (lambda: evaluate_grid(MODEL, DATA, None), "list of ThreatModel"),
        (lambda: evaluate_grid(MODEL, DATA, L2), "list of ThreatModel"),
        (lambda: evaluate("lipflow", DATA, L2), "nn.Module; give load_model('lipflow')"),
        (lambda: evaluate(lambda x: x, DATA, L2), "give a module whose forward calls it"),
        (lambda: evaluate(nn.Linear, DATA, L2), "an object of the class: Linear(...)"),
        (lambda: evaluate(MODEL.state_dict(), DATA, L2), "call its load_state_dict"),
        (lambda: evaluate(None, DATA, L2), "load_model gives one by its name"),
        (lambda: evaluate(MODEL, DATA, ("Linf", 0.1)), "give ThreatModel('Linf', 0.1)"),
        (lambda: evaluate(MODEL, DATA, ("Linf", "8/255")), "ThreatModel('Linf', 8/255)"),
        (lambda: evaluate(MODEL, DATA, 0.1), "0.1 is no threat model"),
        (lambda: ThreatModel("Linf", "8/255"), "such as 8 / 255, without quotes"),
        (lambda: load_model(3), "model_name=3 is no name"),
        (lambda: load_model(MODEL), "is no name; give one"),
        (lambda: evaluate_distances(MODEL, DATA, 3), "norm=3"),
        (lambda: evaluate_distances(MODEL, DATA, "L2", radii=3), "radii=3"),
        (lambda: evaluate_distances(MODEL, DATA, "L2", radii=["x"]), "radii="),
        (lambda: evaluate_distances(MODEL, DATA, "L2", radii=[True]), "radii="),
        (lambda: evaluate_distances(MODEL, DATA, "L2", n_radii=0), "n_radii=0"),
        (lambda: evaluate_distances(MODEL, DATA, "L2", n_radii=True), "n_radii=True"),
        (lambda: evaluate_smoothed(MODEL, DATA, [L2], 3), "smoothing=3"),
        (lambda: benchmark(MODEL, True, "digits", eps=0.1), "n_examples=True"),
        (lambda: benchmark(MODEL, 2, 3, eps=0.1), "no name of a data set"),
        (lambda: benchmark(MODEL, 2, "digits", eps="x"), "eps='x'"),
        (lambda: benchmark(MODEL, 2, "digits", eps=0.1, data_dir=3), "data_dir=3"),
        (lambda: load_dataset(["digits"]), "no name of a data set"),
        (lambda: ThreatModel("L2", "x"), "eps='x'"),
        (lambda: ThreatModel("L2", True), "eps=True"),
        (lambda: ThreatModel("L2", None), "eps=None"),
        (lambda: ThreatModel("L2", 10**400), "is not a positive number"),
        (lambda: Smoothing(True), "sigma=True"),
        (lambda: Smoothing("x"), "sigma='x'"),
        (lambda: Smoothing(0.1, n0=True), "n0=True"),
        (lambda: Smoothing(0.1, n=100.0), "n=100.0"),
        (lambda: Smoothing(0.1, alpha="x"), "alpha='x'"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        (X,),
        (X, Y, 1),
        (1, 2),
        (X.numpy().astype(object), Y.numpy()),
        (X.numpy() * 255, Y.numpy()),
        (X.numpy().astype(np.longdouble), Y.numpy().astype(np.float32)),
        {"x": X, "y": Y},
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y)),
        ((X * 255).to(torch.uint8), Y),
        (X * 255, Y),
        (X - 0.1, Y),
        (X * math.nan, Y),
        (X.to(torch.complex64), Y),
        (X.to_sparse(), Y),
        (X.to("meta"), Y),
        (X, Y.bool()),
        (X, Y.float()),
        (X, Y.to(torch.complex64)),
        (X, Y - 1 - Y.min()),
        (X, Y + 50),
        (X, Y[:, None]),
        (X, Y[:3]),
        (X[:0], Y[:0]),
    ],
    ids=lambda data: "",
)
def test_tensors_that_are_no_examples_are_refused(data):
    with pytest.raises(InputError):
        evaluate(MODEL, data, L2, attacks="none", certifiers="none")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_another_precision_fit_the_model_or_are_refused(dtype):
    with pytest.raises(InputError, match="cannot classify inputs"):
        evaluate(MODEL, (X.to(dtype), Y), L2, attacks="none", certifiers="none")
    cast = nn.Sequential(nn.Flatten(), nn.Linear(64, 10).to(dtype))
    evaluation = evaluate(cast, (X.to(dtype), Y), L2, attacks="none", certifiers="none")
    assert len(evaluation.verdicts) == 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": X * 0.5}, "does not belong to the tensors"),
        ({"y": (Y + 1) % 10}, "does not belong to the tensors"),
        ({"ids": DATA.ids + 100}, "does not belong to the tensors"),
        ({"x": X.flip(0)}, "does not belong to the tensors"),
        ({"sha256": "0" * 64}, "does not belong to the tensors"),
        ({"sha256": 3}, "does not belong to the tensors"),
        ({"x": X * 255}, "must lie in"),
        ({"ids": DATA.ids * 0}, "ids must be different"),
        ({"ids": DATA.ids - 1}, "0 or more"),
        ({"ids": [1]}, "ids must be a tensor"),
        ({"ids": DATA.ids.bool()}, "ids must be a tensor"),
        ({"y": Y + 10}, "10 classes"),
        ({"class_names": 3}, "class_names=3"),
        ({"class_names": (1, 2)}, "class_names="),
        ({"split": "x"}, "split='x'"),
        ({"name": "../../x"}, "no valid name"),
        ({"name": 3}, "no valid name"),
    ],
)
def test_a_changed_dataset_is_checked(change, words):
    with pytest.raises(InputError) as caught:
        as_dataset(replace(DATA, **change), None)
    assert words in str(caught.value)


def test_a_dataset_without_a_hash_gets_that_of_its_tensors():
    hashes = set()
    for change in ({"x": X * 0.5}, {"y": (Y + 1) % 10}, {"ids": DATA.ids + 100}, {}):
        own = as_dataset(replace(DATA, **change, sha256=""), None)
        assert as_dataset(own, None).sha256 == own.sha256
        assert as_dataset(replace(own, name="mine"), None).sha256 == own.sha256
        assert as_dataset(own, 3).sha256 == own.sha256, "its first examples have the same key"
        hashes.add(own.sha256)
    assert len(hashes) == 4
    assert DATA.sha256 not in hashes


def test_a_loaded_dataset_keeps_its_hash():
    for data in (DATA, DATA.rows(2, 5), copy.deepcopy(DATA), pickle.loads(pickle.dumps(DATA))):
        assert as_dataset(data, None).sha256 == DATA.sha256
    with torch.inference_mode():
        assert as_dataset(load_dataset("digits", n_examples=2), None).sha256 == DATA.sha256


def test_a_dataset_changed_in_place_is_refused():
    data = load_dataset("digits", n_examples=8)
    data.x[0] = 0.5
    with pytest.raises(InputError, match="does not belong to the tensors"):
        as_dataset(data, None)
    part = load_dataset("digits", n_examples=8).rows(0, 4)
    part.y[0] = 1
    with pytest.raises(InputError, match="does not belong to the tensors"):
        as_dataset(part, None)


def test_a_dataset_of_ones_own_is_evaluated():
    own = Dataset(x=X, y=Y, ids=DATA.ids + 5, name="my/data-1.0", split="test", class_names=())
    evaluation = evaluate(MODEL, own, L2, attacks="none", certifiers="none", name="my_model/v-1")
    assert (evaluation.summary["dataset"], evaluation.summary["model"]) == (
        "my/data-1.0",
        "my_model/v-1",
    )


GOOD = [
    "a",
    "fashion_mnist",
    "lipflow/eps-0.5",
    "feedforward/noise-0.25~0.25",
    "_M",
    "0",
    "x" * 100,
]
BAD = ["", ".", "..", "../x", "/x", "x/", "a//b", "a/../b", "a..b", ".x", "-x", "~x", "a b", "a\\b"]
BAD += ["a\n", "=x", "a|b", "<b>", "a\0", "x" * 101, "$x$", "[/b]", "a:b", None, 3, b"a"]


def test_names_have_one_rule():
    assert [name for name in GOOD if not is_name(name)] == []
    assert [name for name in BAD if is_name(name)] == []
    with pytest.raises(InputError, match=r"data set '\.\./x' is no valid name; a name is at most"):
        check_name("../x", "data set")


@pytest.mark.parametrize("name", [name for name in (*GOOD, *BAD) if isinstance(name, str)])
def test_a_file_name_stays_in_its_folder(name, tmp_path):
    made = file_name(name, "L2", suffix=".csv")
    assert inside(tmp_path, made).resolve().parent == tmp_path.resolve()
    assert "/" not in made


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "", "."])
def test_a_path_outside_the_folder_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="no name of a file"):
        inside(tmp_path, name)
