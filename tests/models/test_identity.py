"""A registered model is one by all that it computes with: once that changes, it is another."""

import gc
from dataclasses import replace
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations

from robustbench_dyn import ThreatModel, evaluate, load_model
from robustbench_dyn.datasets import dataset_info, load_dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.fingerprint import UnknownContentError, fingerprint
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.identity import (
    ModelIdentity,
    check_unregistered,
    registered_identity,
    remember,
)
from robustbench_dyn.models.validation import probes

L2 = ThreatModel("L2", 0.1)
NO_PROOF = {"attacks": "none", "certifiers": "none", "n_examples": 20}


@pytest.fixture
def model():
    return load_model("feedforward", dataset="moons")


def used(model):
    """Do all that an evaluation does with a model: it is given back as it was."""
    with frozen_eval(model):
        model(torch.rand(3, *dataset_info("moons").input_shape))
    x = torch.rand(3, *dataset_info("moons").input_shape, requires_grad=True)
    model(x).sum().backward()
    model.train()
    model.requires_grad_(False)


def loaded_again(model):
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()})


@pytest.mark.parametrize("use", [used, loaded_again])
@pytest.mark.parametrize("name", ["feedforward", "lipflow", "neural_ode"])
def test_a_model_as_it_was_loaded_is_the_registered_one(name, use):
    model = load_model(name, dataset="moons")
    use(model)
    identity = registered_identity(model)
    assert (identity.name, identity.plugin_version != "") == (name, True)


# Weights


def in_place(model):
    with torch.no_grad():
        next(model.parameters()).view(-1)[0].mul_(1 + 1e-6)


def by_data(model):
    parameter = next(model.parameters())
    parameter.data = parameter.data + 1e-3


def by_state(model):
    model.load_state_dict({k: v + 1e-3 for k, v in model.state_dict().items()})


def by_buffer(model):
    model.register_buffer("scale", torch.ones(1), persistent=False)


def by_type(model):
    model.double()


# What a state_dict does not hold


def by_attribute(model):
    model.sign = -1.0


def by_deep_attribute(model):
    list(model.modules())[-1].options = {"scale": [1.0, 2.0]}


def by_hook(model):
    model.register_forward_hook(lambda _module, _inputs, logits: -logits)


def by_pre_hook(model):
    list(model.modules())[-1].register_forward_pre_hook(lambda _module, inputs: (inputs[0] + 1,))


def by_backward_hook(model):
    model.register_full_backward_hook(lambda _module, gradients, _outputs: gradients)


def by_tensor_hook(model):
    next(model.parameters()).requires_grad_().register_hook(torch.zeros_like)


def by_forward_of_the_object(model):
    model.forward = MethodType(lambda self, x: -type(self).forward(self, x), model)


def by_class(model):
    kind = type(model)

    class Other(kind):
        def __call__(self, x):
            return -super().__call__(x)

    model.__class__ = Other


def by_parametrization(model):
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    parametrizations.weight_norm(layer)


def by_another_layer(model):
    for name, part in model.named_children():
        setattr(model, name, nn.Sequential(part, nn.Identity()))


CHANGES = [
    in_place,
    by_data,
    by_state,
    by_buffer,
    by_type,
    by_attribute,
    by_deep_attribute,
    by_hook,
    by_pre_hook,
    by_backward_hook,
    by_tensor_hook,
    by_forward_of_the_object,
    by_class,
    by_parametrization,
    by_another_layer,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_not_the_registered_one(model, change):
    assert registered_identity(model) is not None
    change(model)
    assert registered_identity(model) is None


def test_a_global_hook_makes_every_model_unregistered(model):
    handle = torch_module.register_module_forward_hook(lambda _module, _inputs, logits: -logits)
    try:
        assert registered_identity(model) is None
    finally:
        handle.remove()
    assert registered_identity(model) is not None


def test_a_method_replaced_in_a_class_makes_models_unregistered(model, monkeypatch):
    monkeypatch.setattr(nn.ReLU, "forward", lambda _self, x: -x)
    assert any(isinstance(part, nn.ReLU) for part in model.modules())
    assert registered_identity(model) is None


def test_false_cached_weights_are_dropped():
    model = load_model("lipflow", dataset="moons")
    x = load_dataset("moons").x[:4]
    with frozen_eval(model), torch.no_grad():
        honest = model(x)
        layer = next(m for m in model.modules() if getattr(m, "_cache", None))
        layer._cache = (layer._cache[0], 3 * layer._cache[1])
        assert not torch.equal(model(x), honest)
        assert registered_identity(model) is not None
        assert torch.equal(model(x), honest)


def test_an_identity_on_a_model_is_not_believed(model):
    identity = registered_identity(load_model("lipflow", dataset="moons"))
    model.identity = identity
    assert registered_identity(model) is None
    other = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    other.identity = identity
    assert registered_identity(other) is None


def test_a_model_that_equals_any_other_is_not_registered(model):
    class Equal(nn.Module):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return hash(model)

    assert registered_identity(Equal()) is None


def test_a_freed_model_is_forgotten():
    model = nn.Linear(2, 2)
    remember(model, ModelIdentity("freed"))
    assert registered_identity(model).name == "freed"
    place = id(model)
    del model
    gc.collect()
    others = [nn.Linear(2, 2) for _ in range(50)]
    assert [o for o in others if id(o) == place and registered_identity(o)] == []


class WithIterator(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.iterator = iter([1])


def test_a_model_that_cannot_be_looked_into_is_not_remembered():
    model = WithIterator()
    with pytest.raises(UnknownContentError):
        fingerprint(model)
    remember(model, ModelIdentity("opaque"))
    assert registered_identity(model) is None


# The store


def test_a_warm_store_does_not_answer_for_a_hook(model, tmp_path):
    data = load_dataset("moons")
    options = NO_PROOF | {"store": tmp_path / "s.sqlite"}
    first = evaluate(model, data, L2, **options)
    assert evaluate(model, data, L2, **options).key == first.key
    model.register_forward_hook(lambda _module, _inputs, logits: -logits)
    turned = evaluate(model, data, L2, **options)
    assert turned.key != first.key
    assert turned.summary["clean_accuracy"] == pytest.approx(1 - first.summary["clean_accuracy"])
    assert (turned.summary["model"], turned.summary["family"]) == (type(model).__name__, "")


def test_modules_that_differ_on_black_images_alone_have_two_keys(tmp_path):
    class Switch(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, x):
            dark = (x.flatten(1).mean(dim=1, keepdim=True) < 0.2).float()
            logits = torch.cat([x.flatten(1).sum(dim=1, keepdim=True), torch.ones(len(x), 1)], 1)
            return logits * (1 + dark * (self.sign - 1))

    data = load_dataset("moons")
    options = NO_PROOF | {"store": tmp_path / "s.sqlite"}
    keys = {evaluate(Switch(sign), data, L2, **options).key for sign in (1.0, -1.0)}
    assert len(keys) == 2


def test_probes_depend_on_shape_and_type_alone():
    first = probes((1, 8, 8), torch.float32)
    assert torch.equal(first, probes((1, 8, 8), torch.float32))
    assert (float(first.min()), float(first.max())) == (0, 1)
    assert probes((2,), torch.float64).shape == (len(first), 2)
    assert len(torch.unique(first, dim=0)) == len(first)


@pytest.mark.parametrize("name", ["lipflow", "lipflow/eps-0.5", "LipFlow"])
def test_an_unregistered_model_cannot_have_a_registered_name(name):
    other = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    data = load_dataset("moons")
    with pytest.raises(InputError, match="name of a registered model"):
        evaluate(other, data, L2, name=name, **NO_PROOF)
    assert evaluate(other, data, L2, name="my-lipflow", **NO_PROOF).summary["model"] == "my-lipflow"


@pytest.mark.parametrize("name", [" lipflow ", "ｌｉｐｆｌｏｗ"])
def test_a_name_that_looks_like_a_registered_one_is_none(name):
    other = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(InputError, match="no valid name"):
        evaluate(other, load_dataset("moons"), L2, name=name, **NO_PROOF)
    with pytest.raises(InputError, match="name of a registered model"):
        check_unregistered(name, {"lipflow"})


def test_a_class_cannot_have_a_registered_name():
    kind = type("lipflow", (nn.Sequential,), {})
    with pytest.raises(InputError, match="name of a registered model"):
        evaluate(kind(nn.Flatten(), nn.Linear(2, 2)), load_dataset("moons"), L2, **NO_PROOF)


def test_a_changed_registered_model_cannot_keep_its_name(model):
    data = load_dataset("moons")
    evaluate(model, data, L2, name="feedforward", **NO_PROOF)
    by_hook(model)
    with pytest.raises(InputError, match="not that model as it was loaded"):
        evaluate(model, data, L2, name="feedforward", **NO_PROOF)


def test_the_name_of_a_plugin_elsewhere_is_taken_once_it_was_loaded():
    model, other = nn.Linear(2, 2), nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    data = replace(load_dataset("moons"), class_names=("a", "b"), sha256="")
    evaluate(other, data, L2, name="elsewhere", **NO_PROOF)
    remember(model, ModelIdentity("elsewhere/variant"))
    with pytest.raises(InputError, match="registered"):
        evaluate(other, data, L2, name="elsewhere", **NO_PROOF)


class Except(nn.Module):
    """Turned round at a single point, which no probe meets."""

    def __init__(self, point=None):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
        nn.init.constant_(self.inner[1].weight, 0.5)
        self.point = point

    def forward(self, x):
        logits = self.inner(x) * torch.tensor([1.0, 2.0])
        if self.point is not None:
            there = (x == self.point).flatten(1).all(dim=1, keepdim=True)
            logits = logits.where(~there, -logits)
        return logits


def test_a_warm_store_is_held_to_the_predictions_at_its_examples(tmp_path):
    data = load_dataset("moons")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        honest, other = Except(), Except(data.x[7])
        other.inner.load_state_dict(honest.inner.state_dict())
    options = NO_PROOF | {"store": tmp_path / "s.sqlite"}
    first = evaluate(honest, data, L2, **options)
    assert evaluate(honest, data, L2, **options).key == first.key
    with pytest.raises(InputError, match=r"another function of these weights.*example 7"):
        evaluate(other, data, L2, **options)


@pytest.mark.parametrize("changed", [False, True])
def test_a_registered_model_keeps_its_name_on_tensors(model, changed):
    data = load_dataset("moons", n_examples=20)
    if changed:
        model.register_forward_hook(lambda _module, _inputs, logits: 2 * logits)
    summary = evaluate(model, (data.x, data.y), L2, attacks="none", certifiers="none").summary
    assert (summary["model"] == "feedforward") == (not changed)
    assert (summary["plugin_version"] != "") == (not changed)
