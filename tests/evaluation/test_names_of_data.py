"""Evaluations are named by their data: by content where nothing registered them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_dyn import ThreatModel, evaluate, load_dataset
from robustbench_dyn.datasets import DATASETS, Dataset, dataset_info
from robustbench_dyn.datasets.identity import name_of
from robustbench_dyn.evaluation.inputs import as_dataset
from robustbench_dyn.names import is_name

X, Y = torch.rand(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))


def summary(data):
    return evaluate(MODEL, data, ThreatModel("L2", 0.1), attacks="none").summary


def test_tensors_are_named_by_their_content():
    first, again, other = (summary(data) for data in ((X, Y), (X.clone(), Y), (X, 1 - Y)))
    assert first["dataset"] == again["dataset"] == f"custom-{first['data_sha256'][:8]}"
    assert other["dataset"] != first["dataset"]
    assert is_name(first["dataset"])


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2"])
@pytest.mark.parametrize("labels", ["<i8", ">i4", "u1", "<u2"])
def test_arrays_are_taken_as_tensors(dtype, labels):
    x, y = X.numpy().astype(dtype), Y.numpy().astype(labels)
    x.flags.writeable = False
    data = as_dataset((x, y), None)
    assert torch.equal(data.x, torch.from_numpy(x.astype(np.float32)))
    assert torch.equal(data.y, Y)
    assert data.name == as_dataset((data.x, Y), None).name


def test_a_registered_name_stays_with_its_data():
    moons = load_dataset("moons", n_examples=6)
    assert summary(moons)["dataset"] == "moons"
    assert summary(moons.rows(2, 4))["dataset"] == "moons"
    own = replace(moons, x=X, sha256="")
    assert summary(own)["dataset"] == f"moons-{summary(own)['data_sha256'][:8]}"
    assert summary(replace(own, name="mine"))["dataset"] == "mine"


def test_facts_of_a_data_set_stand_for_its_name():
    by_facts, by_name = summary(dataset_info("moons")), summary("moons")
    for column in ("dataset", "data_sha256", "clean_accuracy"):
        assert by_facts[column] == by_name[column]


@pytest.mark.parametrize(
    "stem", ["x.tar", "Größe", "", "../../etc", "123", "a" * 300, "é", "A b/C", "-", "_x"]
)
def test_every_stem_makes_a_name_that_no_registry_holds(stem):
    name = name_of(stem, "0123456789abcdef")
    assert is_name(name)
    assert name.endswith("-01234567")
    assert "/" not in name
    info = replace(dataset_info("moons"), name=name)
    assert info.is_unregistered
    assert name not in DATASETS


def test_a_data_set_of_ones_own_keeps_its_name():
    own = Dataset(x=X, y=Y, ids=torch.arange(6), name="my/own", split="test", class_names=())
    assert as_dataset(own, None).name == "my/own"
