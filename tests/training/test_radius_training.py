"""Training of prototypes by their certified radii: the loss, the start, the images held out."""

import math

import pytest
import torch
from safetensors.torch import load_file

from robustbench_dyn import ThreatModel
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training import augmentation, loop, recipes
from robustbench_dyn.training.class_margins import ClassMargins
from robustbench_dyn.training.losses import Loss, loss_of_margins

RECIPE = {
    "model": "prototype_flow",
    "dataset": "digits",
    "norm": "L2",
    "options": {"prototypes": 6},
    "loss": {"kind": "radius", "radius": 1.0, "temperature": 0.2},
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "learning_rate": 2.0,
    "epochs": 4,
    "batch_size": 100,
}


def recipe(**changes):
    return recipes.Recipe(**{**RECIPE, **changes})


@pytest.fixture(scope="module")
def architecture():
    return discover().get("prototype_flow")


@pytest.mark.parametrize("temperature", [0.3, 1e-3])
def test_the_radius_loss_is_softplus_of_what_is_lacking(temperature):
    radii = torch.tensor([[0.5, 1.5], [2.5, 3.0]])
    found = ClassMargins(2 * radii, torch.full_like(radii, 2.0))
    asked = Loss(kind="radius", radius=2.0, temperature=temperature)
    loss = float(loss_of_margins(found, asked, done=0.0))
    each = [
        temperature * math.log1p(sum(math.exp((2.0 - r) / temperature) for r in row))
        for row in (radii.tolist() if temperature > 0.1 else [])
    ]
    # A small temperature gives the hinge.
    expected = sum(each) / 2 if each else (1.5 + 0.0) / 2
    assert loss == pytest.approx(expected, abs=2e-3)


def certified(model, eps):
    data = loop.load_dataset("digits", split="test", n_examples=200)
    model.requires_grad_(False)
    (prepared,) = resolve_certifiers("max_affine", model, data.x.shape[1:], "L2")
    found = radii(prepared.prove(data.x, model(data.x), data.y, ThreatModel("L2", eps)))
    return float((found >= eps).double().mean())


def test_training_by_radii_raises_certified_accuracy(architecture, tmp_path):
    short = loop.train(
        recipe(epochs=1, learning_rate=1e-6), architecture, tmp_path / "a.safetensors"
    )
    trained = loop.train(recipe(epochs=20), architecture, tmp_path / "b.safetensors")
    assert certified(trained.model, 0.8) > certified(short.model, 0.8) + 0.05
    # k-means alone is a classifier already.
    assert certified(short.model, 0.01) > 0.7


def test_examples_held_out_are_not_learnt(architecture, tmp_path):
    data = loop.load_dataset("digits", split="train")
    held_out = len(data) - 300
    a = loop.train(recipe(held_out=held_out), architecture, tmp_path / "a.safetensors")
    b = loop.train(recipe(), architecture, tmp_path / "b.safetensors", n_examples=300)
    whole = loop.train(recipe(), architecture, tmp_path / "c.safetensors")
    weights = [load_file(trained.path)["head.prototypes"] for trained in (a, b, whole)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("more", "message"), [(0, "leaves 300 of .* and 301 must be left"), (300, "leaves 0 of")]
)
def test_holding_out_too_many_is_refused(more, message, architecture, tmp_path):
    held_out = len(loop.load_dataset("digits", split="train")) - 300 + more
    with pytest.raises(InputError, match=message):
        loop.train(
            recipe(held_out=held_out), architecture, tmp_path / "a.safetensors", n_examples=301
        )


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_each_example_is_shifted_with_a_probability(probability):
    x = torch.rand(4000, 1, 4, 4)
    settings = augmentation.Augmentation(crop=1, crop_probability=probability)
    shifted = augmentation.augment(x, settings, torch.Generator().manual_seed(0))
    moved = (shifted != x).flatten(1).any(dim=1).double().mean()
    # One of nine offsets moves nothing.
    assert float(moved) == pytest.approx(probability * 8 / 9, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"loss": {"kind": "radius"}}, "require a radius"),
        ({"loss": {"radius": 1.0}}, "require a radius"),
        ({"loss": {"kind": "radius", "radius": 1.0, "offset": 0.1}}, "offset and annealing belong"),
        ({"loss": {"kind": "hinge", "margin": 1.0, "temperature": 0.1}}, "temperature belongs"),
        ({"momentum": 0.0}, "nesterov needs a momentum"),
        ({"adversary": {"norm": "L2", "eps": 0.1}}, "certifies by itself"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(changes, rule):
    with pytest.raises(ValueError, match=rule):
        recipe(**changes)
