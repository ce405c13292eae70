"""Labels from a teacher: their probabilities, their draws, and what a training makes of them."""

import pytest
import torch
from torch import nn

from robustbench_dyn import load_dataset, load_model
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training import loop, recipes, soft_labels
from robustbench_dyn.training.soft_labels import SoftLabels, draw, label_probabilities

TEACHER = "euler_resnet"


class Swapping(nn.Module):
    def forward(self, logits):
        return logits.flip(1)


def recipe(**soft):
    return recipes.Recipe(
        model="lipflow",
        dataset="moons",
        norm="L2",
        options={"channels": 16, "terms": 16, "depth": 2, "dense_depth": 2},
        learning_rate=0.01,
        epochs=2,
        batch_size=250,
        soft_labels={"teacher": TEACHER} | soft,
    )


def trained(a_recipe, out, **options):
    return loop.train(a_recipe, discover().get("lipflow"), out, **options)


@pytest.fixture(scope="module")
def data():
    return load_dataset("moons", split="train", n_examples=300)


def of(data, **soft):
    settings = SoftLabels(teacher=TEACHER, **soft)
    return label_probabilities(settings, "moons", data.x, data.y, n_classes=2, device="cpu")


def test_probabilities_are_mixed_from_the_labels_and_the_softmax_of_the_teacher(data):
    found = of(data, share=0.25, temperature=3.0)
    with torch.no_grad():
        taught = (load_model(TEACHER, dataset="moons")(data.x) / 3.0).softmax(dim=1)
    torch.testing.assert_close(found, 0.75 * nn.functional.one_hot(data.y, 2) + 0.25 * taught)
    assert float((taught - nn.functional.one_hot(data.y, 2)).abs().max()) > 0.1


def test_labels_are_drawn_as_often_as_they_are_probable():
    probabilities = torch.tensor([[0.2, 0.5, 0.3]]).expand(20_000, 3)
    counts = draw(probabilities, torch.Generator().manual_seed(0)).bincount(minlength=3)
    torch.testing.assert_close(counts / 20_000, probabilities[0], atol=0.02, rtol=0)


def test_a_training_learns_the_labels_of_the_teacher(data, tmp_path, monkeypatch):
    teacher = load_model(TEACHER, dataset="moons")
    swapping = nn.Sequential(teacher, Swapping())
    monkeypatch.setattr(soft_labels, "load_model", lambda *_args, **_options: swapping)
    accuracies = []
    for share in (1e-9, 1.0):
        model = trained(recipe(share=share, temperature=0.01), tmp_path / f"{share}.safetensors")
        with torch.no_grad():
            accuracies.append(float((model.model(data.x).argmax(1) == data.y).float().mean()))
    assert accuracies[0] > 0.7
    assert accuracies[1] < 0.3


def test_a_stopped_training_draws_the_same_labels_when_it_goes_on(tmp_path):
    def stop(_epoch):
        raise RuntimeError("stopped")

    settings = recipe(share=0.5, temperature=5.0)
    whole = trained(settings, tmp_path / "whole.safetensors")
    with pytest.raises(RuntimeError, match="stopped"):
        trained(settings, tmp_path / "parts.safetensors", at_epoch=stop)
    assert trained(settings, tmp_path / "parts.safetensors").sha256 == whole.sha256


def test_the_seconds_of_the_teacher_count():
    settings = SoftLabels(teacher="prototype_flow/eps-1.0")
    card = discover().get("prototype_flow").card
    (entry,) = [one for one in card.weights if one.variant == "eps-1.0"]
    assert entry.training_seconds
    assert soft_labels.seconds_of_teacher(settings, "fashion_mnist") == entry.training_seconds


def test_a_teacher_without_weights_for_the_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no weights for dataset 'moons'"):
        trained(recipe(teacher="euler_resnet/noise-0.25"), tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(2, 3)), r"\(3,\) logits an example.* 2 classes"),
        (nn.Linear(7, 2), r"cannot classify inputs of shape \(2, 1, 1\)"),
    ],
)
def test_a_teacher_of_another_problem_is_refused(model, message, data, monkeypatch):
    monkeypatch.setattr(soft_labels, "load_model", lambda *_args, **_options: model)
    with pytest.raises(InputError, match=message):
        of(data)
