"""Training of prototypes on a trunk: two optimizers, a start at published features, saturation."""

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustbench_dyn import ThreatModel, load_model
from robustbench_dyn.certification.base import radii
from robustbench_dyn.certification.catalogue import resolve_certifiers
from robustbench_dyn.errors import InputError
from robustbench_dyn.flows import ConvGradientStep
from robustbench_dyn.lipschitz.bounds import Classifier
from robustbench_dyn.models.loading import build_model, discover
from robustbench_dyn.training import loop, recipes
from robustbench_dyn.training.class_margins import ClassMargins
from robustbench_dyn.training.losses import Loss, loss_of_margins

TINY = 1e-30
OPTIONS = {"channels": 16, "terms": 16, "depth": 4, "dense_depth": 8, "prototypes": 4}
RECIPE = {
    "model": "lipflow",
    "dataset": "moons",
    "norm": "L2",
    "options": OPTIONS,
    "loss": {"kind": "radius", "radius": 0.5, "temperature": 0.2},
    "learning_rate": TINY,
    "head_optimizer": {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1},
    "epochs": 2,
    "batch_size": 250,
}


def recipe(**changes):
    return recipes.Recipe(**{**RECIPE, **changes})


@pytest.fixture(scope="module")
def architecture():
    return discover().get("lipflow")


def change(path, start):
    """Return the largest change of the features' weights, and of the head's."""
    changes = {"features": 0.0, "head": 0.0}
    for name, tensor in load_file(path).items():
        part = name.partition(".")[0]
        changes[part] = max(changes[part], float((tensor - start[name]).abs().max()))
    return changes["features"], changes["head"]


@pytest.mark.parametrize("model", ["lipflow", "orthogonal_cnn"])
def test_an_option_puts_prototypes_in_the_head(model):
    architecture = discover().get(model)
    for prototypes, head in ((0, "UnitRowLinear"), (5, "Prototypes")):
        network = build_model(
            architecture,
            input_shape=(1, 8, 8),
            n_classes=3,
            options={"channels": 4, "dense_depth": 1, "prototypes": prototypes},
        )
        assert type(network.head).__name__ == head
        x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 3
        network.requires_grad_(False)
        logits = network(x)
        certifier = "max_affine" if prototypes else "lipschitz"
        (prepared,) = resolve_certifiers(certifier, network, (1, 8, 8), "L2")
        certified = radii(prepared.prove(x, logits, y, ThreatModel("L2", 0.01)))
        assert bool((certified > 0).any())
        assert bool(certified[logits.argmax(dim=1) != y].isnan().all())


def test_a_negative_start_bias_puts_steps_near_the_identity(architecture):
    x, distances = torch.rand(20, 1, 8, 8), []
    for start_bias in (0.0, -0.3, -100.0):
        torch.manual_seed(0)
        options = {"channels": 4, "dense_depth": 0, "start_bias": start_bias}
        network = build_model(
            architecture, input_shape=(1, 8, 8), n_classes=3, options=options
        ).requires_grad_(False)
        isometry = [part for part in network.features if not isinstance(part, ConvGradientStep)]
        distances.append(float((network.features(x) - nn.Sequential(*isometry)(x)).norm()))
    assert distances[0] > distances[1] > distances[2] == 0


@pytest.mark.parametrize("apart", [True, False])
def test_a_head_is_trained_at_a_rate_of_its_own(apart, architecture, tmp_path):
    asked = recipe() if apart else recipe(head_optimizer=None)
    starts = []
    for epochs in (1, 3):
        out = tmp_path / f"{epochs}.safetensors"
        loop.train(asked.model_copy(update={"epochs": epochs}), architecture, out)
        starts.append(load_file(out))
    features, head = change(tmp_path / "3.safetensors", starts[0])
    # The features are retracted in each step, which rounds.
    assert features < 1e-4
    assert (head > 1e-2) == apart


def test_a_training_with_two_optimizers_resumes_exactly(architecture, tmp_path):
    def stop(report):
        if report.epoch == 1:
            raise KeyboardInterrupt

    asked = recipe(learning_rate=0.01, averaging=0.9)
    loop.train(asked, architecture, tmp_path / "whole.safetensors")
    out = tmp_path / "resumed.safetensors"
    with pytest.raises(KeyboardInterrupt):
        loop.train(asked, architecture, out, progress=stop)
    loop.train(asked, architecture, out)
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def differences(model, published):
    """Return the largest difference of the features' weights, and of all weights."""
    both = zip(model.state_dict().items(), published.state_dict().values(), strict=True)
    found = {name: float((own - other).abs().max()) for (name, own), other in both}
    of_features = [value for name, value in found.items() if name.startswith("features.")]
    return max(of_features), max(found.values())


@pytest.mark.parametrize("key", ["features_from", "weights_from", None])
def test_a_training_begins_at_published_weights(key, architecture, tmp_path):
    linear = {name: value for name, value in OPTIONS.items() if name != "prototypes"}
    start = {} if key is None else {key: "lipflow"}
    asked = recipe(**start, options=linear, head_optimizer=None)
    trained = loop.train(asked, architecture, tmp_path / "w.safetensors")
    features, whole = differences(trained.model, load_model("lipflow", dataset="moons"))
    assert (features < 1e-4) == (key is not None)
    assert (whole < 1e-4) == (key == "weights_from")


def test_the_time_of_the_weights_at_the_start_counts(architecture, tmp_path):
    (weights,) = [w for w in architecture.card.weights if w.dataset == "moons"]
    known = weights.model_copy(update={"training_seconds": 5000.0})
    card = architecture.card.model_copy(update={"weights": [known]})
    of_card = dataclasses.replace(architecture, card=card)
    asked = recipe(features_from="lipflow")
    assert loop.train(asked, of_card, tmp_path / "a.safetensors").seconds > 5000
    assert loop.train(recipe(), of_card, tmp_path / "b.safetensors").seconds < 5000


def test_prototypes_begin_at_published_ones(tmp_path):
    architecture = discover().get("prototype_flow")
    asked = recipe(
        model="prototype_flow",
        options={"prototypes": 12},
        head_optimizer=None,
        weights_from="prototype_flow",
    )
    trained = loop.train(asked, architecture, tmp_path / "w.safetensors")
    published = load_model("prototype_flow", dataset="moons")
    assert torch.allclose(trained.model.head.prototypes, published.head.prototypes)
    elsewhere = loop.train(
        asked.model_copy(update={"weights_from": None}), architecture, tmp_path / "v.safetensors"
    )
    assert not torch.allclose(elsewhere.model.head.prototypes, published.head.prototypes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"features_from": "sll"}, "of another model than 'lipflow'"),
        ({"features_from": "lipflow/eps-9"}, "has no weights for dataset 'moons'"),
        ({"features_from": "lipflow", "options": OPTIONS | {"depth": 2}}, "do not fit the options"),
        ({"weights_from": "lipflow"}, "do not fit the options"),
        ({"dataset": "digits", "features_from": "lipflow"}, "has no weights for dataset 'digits'"),
    ],
)
def test_features_that_cannot_be_taken_are_refused(changes, rule, architecture, tmp_path):
    with pytest.raises(InputError, match=rule):
        loop.train(recipe(**changes), architecture, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("network", "rule"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), "needs a Classifier of features and a head"),
        (Classifier(nn.Flatten(), nn.Linear(2, 2)), "features of the model have no parameters"),
    ],
)
def test_a_head_optimizer_needs_a_head_and_features(network, rule, architecture, tmp_path):
    built = dataclasses.replace(architecture, build=lambda **_: network)
    with pytest.raises(InputError, match=rule):
        loop.train(recipe(), built, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"head_optimizer": {"momentum": 0.9}}, "only sgd has momentum, not adam"),
        ({"head_optimizer": {"optimizer": "sgd", "nesterov": True}}, "nesterov needs a momentum"),
        ({"loss": {"saturation": 1.0}}, "saturation belongs to radius"),
        ({"weights_from": "lipflow", "features_from": "lipflow"}, "begins at one set of weights"),
    ],
)
def test_settings_of_heads_that_contradict_are_refused(changes, rule):
    with pytest.raises(ValueError, match=rule):
        recipe(**changes)


@pytest.mark.parametrize(("done", "most"), [(0.0, math.inf), (0.25, 4.0), (0.5, 2.0), (1.0, 2.0)])
def test_saturation_bounds_the_loss_of_each_example(done, most):
    # A small temperature gives the hinge, max(0, what is lacking).
    asked = Loss(kind="radius", radius=1.0, temperature=1e-3, saturation=2.0)
    for lacking in (-3.0, 0.5, 4.0, 1000.0):
        found = ClassMargins(torch.tensor([[1.0 - lacking]]), torch.ones(1, 1))
        loss, hinge = float(loss_of_margins(found, asked, done=done)), max(0.0, lacking)
        expected = hinge if most == math.inf else most * (1 - math.exp(-hinge / most))
        assert loss == pytest.approx(expected, abs=1e-3)
