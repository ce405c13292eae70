"""A registered model is one by its weights: once they change, it is another."""

import pytest
import torch

from robustbench_dyn import load_model
from robustbench_dyn.models.identity import registered_identity


@pytest.fixture
def model():
    return load_model("feedforward", dataset="moons")


def test_a_model_as_it_was_loaded_is_the_registered_one(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    assert registered_identity(model) is model.identity


def in_place(model):
    with torch.no_grad():
        next(model.parameters()).view(-1)[0].mul_(1 + 1e-6)


def by_data(model):
    parameter = next(model.parameters())
    parameter.data = parameter.data + 1e-3


def by_state(model):
    model.load_state_dict({k: v + 1e-3 for k, v in model.state_dict().items()})


def by_buffer(model):
    model.register_buffer("scale", torch.ones(1))


def by_type(model):
    model.double()


@pytest.mark.parametrize("change", [in_place, by_data, by_state, by_buffer, by_type])
def test_a_model_with_changed_weights_is_not_the_registered_one(model, change):
    change(model)
    assert registered_identity(model) is None
