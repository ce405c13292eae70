"""Answers of a foreign process: what is no answer is refused, whatever the process says."""

import math
from types import SimpleNamespace

import pytest
import torch

from robustbench_dyn import ThreatModel
from robustbench_dyn.certification.catalogue import CERTIFIERS, select_certifiers
from robustbench_dyn.certification.isolated import PreparedInProcess, _There
from robustbench_dyn.errors import CertificateError, ForeignCodeError
from robustbench_dyn.isolation.channel import Message
from robustbench_dyn.models.isolated import IsolatedModel, _checked_facts

X, LOGITS = torch.rand(3, 1, 2, 2), torch.eye(3)
LABELS = torch.arange(3)
L2 = ThreatModel("L2", 0.1)
FACTS = {
    "parameters": 1,
    "lipschitz_bound": 1.0,
    "declared_bounds": [],
    "state_sha256": "0" * 64,
    "surrogates": {},
}


class Lying:
    """A process that gives one answer to everything, and remembers what it was asked."""

    who = "a lying process"

    def __init__(self, content=None, **tensors):
        self.content, self.tensors, self.asked = content or {}, tensors, []

    def call(self, name, content, tensors, *, times=1):
        self.asked.append(SimpleNamespace(name=name, content=content, tensors=tensors))
        new = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return Message("answer", self.content, new)


def prove(process, y=LABELS):
    there = _There(IsolatedModel(process, FACTS), 0, {})
    return PreparedInProcess(CERTIFIERS.create("lipschitz"), there).prove(X, LOGITS, y, L2)


def radii(value=0.5, shape=(3, 3), dtype=torch.float64):
    return torch.full(shape, value, dtype=dtype)


def test_an_honest_proof_is_taken():
    proof = prove(Lying({"forward_passes": 2}, class_radii=radii(), candidates=X))
    assert torch.equal(proof.class_radii, radii())
    assert proof.forward_passes == 2


def test_the_process_gets_no_labels_and_other_labels_no_proof():
    process = Lying({"forward_passes": 0}, class_radii=radii())
    proof = prove(process, y=torch.tensor([0, 0, 2]))
    assert proof.class_radii.amax(dim=1).tolist() == [0.5, 0.0, 0.5]
    assert set(process.asked[0].tensors) == {"x", "logits"}
    assert not {"y", "labels"} & set(process.asked[0].content)


@pytest.mark.parametrize(
    ("content", "tensors"),
    [
        ({"forward_passes": 0}, {}),
        ({"forward_passes": 0}, {"class_radii": radii(math.nan)}),
        ({"forward_passes": 0}, {"class_radii": radii(-1.0)}),
        ({"forward_passes": 0}, {"class_radii": radii(dtype=torch.float32)}),
        ({"forward_passes": 0}, {"class_radii": radii(shape=(3, 2))}),
        ({"forward_passes": 0}, {"class_radii": radii(shape=(2, 3))}),
        ({}, {"class_radii": radii()}),
        ({"forward_passes": -1}, {"class_radii": radii()}),
        ({"forward_passes": True}, {"class_radii": radii()}),
        ({"forward_passes": 10**30}, {"class_radii": radii()}),
        ({"forward_passes": 0}, {"class_radii": radii(), "candidates": X[:2]}),
        ({"forward_passes": 0}, {"class_radii": radii(), "candidates": X.double()}),
        ({"forward_passes": 0}, {"class_radii": radii(), "within_rounding": torch.zeros(3)}),
    ],
)
def test_what_is_no_proof_is_refused(content, tensors):
    with pytest.raises(RuntimeError, match="the process returned"):
        prove(Lying(content, **tensors))


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"selection": 0, "ready": [["lipschitz"]], "not_applicable": {}, "crashed": []},
        {"selection": "x", "ready": [], "not_applicable": {}, "crashed": []},
        {"selection": 0, "ready": [], "not_applicable": [], "crashed": []},
        {"selection": 0, "ready": [["lipschitz", {}]], "not_applicable": {}, "crashed": []},
        {"selection": 0, "ready": [["lipschitz", {}, "x"]], "not_applicable": {}, "crashed": []},
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(told):
    with pytest.raises(ForeignCodeError, match="makes no sense"):
        select_certifiers("auto", IsolatedModel(Lying(told), FACTS), (1, 2, 2), "L2")


@pytest.mark.parametrize(
    "ready", [[["exit", {}, 4]], [["lipschitz", {"mine": 1}, 4]], [["smoothing", {}, 4]]]
)
def test_a_certifier_that_was_not_asked_for_is_refused(ready):
    told = {"selection": 0, "ready": ready, "not_applicable": {}, "crashed": []}
    with pytest.raises(CertificateError, match="process prepared"):
        select_certifiers("auto", IsolatedModel(Lying(told), FACTS), (1, 2, 2), "L2")


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": None},
        {"parameters": True},
        {"lipschitz_bound": "1"},
        {"declared_bounds": "Linear"},
        {"state_sha256": "../../x"},
        {"surrogates": [1]},
        {"surrogates": {"a": {}}},
    ],
)
def test_facts_that_make_no_sense_are_refused(change):
    assert _checked_facts(FACTS) == FACTS
    with pytest.raises(ForeignCodeError, match="makes no sense"):
        _checked_facts(FACTS | change)


def test_logits_without_a_graph_have_no_gradient():
    model = IsolatedModel(Lying(logits=LOGITS), FACTS)
    assert not model(X.clone().requires_grad_()).requires_grad
    model = IsolatedModel(Lying({"graph": "1"}, logits=LOGITS), FACTS)
    assert not model(X.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("gradient", [X[:2], X.double(), torch.zeros(3)])
def test_a_gradient_of_another_shape_is_refused(gradient):
    process = Lying({"graph": 1}, logits=LOGITS, gradient=gradient)
    x = X.clone().requires_grad_()
    logits = IsolatedModel(process, FACTS)(x)
    with pytest.raises(RuntimeError, match="not of its input's shape"):
        torch.autograd.grad(logits.sum(), x)


def test_an_answer_without_logits_is_an_error_of_the_model():
    with pytest.raises(RuntimeError, match="without logits"):
        IsolatedModel(Lying(), FACTS)(X)


def test_a_graph_that_nothing_needs_is_given_back():
    process = Lying({"graph": 7}, logits=LOGITS)
    model = IsolatedModel(process, FACTS)
    logits = model(X.clone().requires_grad_())
    del logits
    model(X)
    assert process.asked[-1].content["unused"] == [7]
