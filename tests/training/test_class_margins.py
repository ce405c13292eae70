"""Losses of margins and their slopes: oracles of the published formulas, and trainings by them."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.errors import InputError
from robustbench_dyn.flows import Classifier, MaxAffine
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training import loop
from robustbench_dyn.training.class_margins import ClassMargins, class_margins
from robustbench_dyn.training.losses import Loss, loss_of_margins, margin_loss
from robustbench_dyn.training.recipes import Recipe

X, Y = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3


def classifier(head):
    torch.manual_seed(0)
    features = nn.Sequential(nn.Flatten(), nn.Linear(4, 6))
    return Classifier(features, head)


def test_margins_and_slopes_are_those_of_the_pairs_of_classes():
    model = classifier(nn.Linear(6, 3))
    found = class_margins(model, X, Y)
    bound = float(torch.linalg.matrix_norm(model.features[1].weight.detach().double(), ord=2))
    for i, y in enumerate(Y.tolist()):
        others = [j for j in range(3) if j != y]
        logits = model(X)[i]
        assert torch.allclose(found.margins[i], logits[y] - logits[others], atol=1e-6)
        between = (model.head.weight[y] - model.head.weight[others]).norm(dim=1)
        assert torch.allclose(found.slopes[i], bound * between, rtol=1e-4)


def test_pieces_of_one_affine_function_have_the_radii_of_a_linear_head():
    model = classifier(nn.Linear(6, 3))
    head = MaxAffine(6, 3, pieces=1)
    with torch.no_grad():
        head.weight.copy_(model.head.weight[:, None])
        head.bias.copy_(model.head.bias[:, None])
    pieces = class_margins(Classifier(model.features, head), X, Y)
    assert torch.allclose(pieces.radii, class_margins(model, X, Y).radii, atol=1e-5)


@pytest.mark.parametrize(("done", "eps"), [(0.0, 0.05), (0.25, 0.775), (0.5, 1.5), (1.0, 1.5)])
def test_emma_is_its_formula(done, eps):
    found = ClassMargins(torch.tensor([[0.2, -1.0], [3.0, 40.0]]), torch.tensor([[1.0, 2.0]] * 2))
    loss = float(loss_of_margins(found, Loss(kind="emma", radius=0.5), done=done))
    expected = []
    for margins, slopes in zip(found.margins.tolist(), found.slopes.tolist(), strict=True):
        shares = [min(max(d / m / eps, 0.01), 1) for d, m in zip(margins, slopes, strict=True)]
        logits = [-d + e * eps * m for d, e, m in zip(margins, shares, slopes, strict=True)]
        expected.append(float(F.cross_entropy(torch.tensor([0.0, *logits]), torch.tensor(0))))
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_annealing_is_its_formula():
    logits, y = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.4, 3.0]]), torch.tensor([0, 1])
    loss = Loss(offset=2.0, temperature=0.75, annealing=5.0)
    expected = []
    for row, label in zip(logits.tolist(), y.tolist(), strict=True):
        scaled = [(z - 2.0 * (j == label)) / 0.75 for j, z in enumerate(row)]
        p = math.exp(scaled[label]) / sum(map(math.exp, scaled))
        expected.append((1 - p) ** 5 * -math.log(p) * 0.75)
    assert float(margin_loss(logits, y, loss)) == pytest.approx(sum(expected) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), "needs a Classifier"),
        (classifier(nn.Sequential(nn.Linear(6, 3))), "is not known to be linear"),
    ],
)
def test_other_networks_are_refused(model, message):
    with pytest.raises(InputError, match=message):
        class_margins(model, X, Y)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"kind": "emma"}, "require a radius"),
        ({"kind": "cross_entropy", "radius": 1.0}, "require a radius"),
        ({"kind": "emma", "radius": 1.0, "temperature": 0.5}, "temperature belongs"),
        ({"kind": "emma", "radius": 1.0, "annealing": 1.0}, "offset and annealing belong"),
    ],
)
def test_settings_of_other_losses_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        Loss(**loss)


@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "emma", "radius": 0.5},
        {"kind": "radius", "radius": 1.0, "temperature": 0.3},
        {"offset": 0.5, "temperature": 0.25, "annealing": 2.0},
    ],
    ids=["emma", "radius", "annealing"],
)
def test_a_flow_learns_by_each_loss(loss, tmp_path):
    recipe = Recipe(
        model="lipflow",
        dataset="digits",
        norm="L2",
        options={"channels": 8, "terms": 16, "depth": 1, "dense_depth": 2},
        loss=loss,
        learning_rate=0.01,
        epochs=3,
        batch_size=128,
    )
    model = loop.train(recipe, discover().get("lipflow"), tmp_path / "a.safetensors").model
    data = loop.load_dataset("digits", split="test")
    with torch.no_grad():
        assert float((model(data.x).argmax(dim=1) == data.y).double().mean()) > 0.6
