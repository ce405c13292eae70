"""Pictures of examples: the arrays that are drawn, and the words beside them."""

import dataclasses

import numpy as np
import pytest
import torch
from oracles.command import dynbench_here, refused
from torch import nn

from robustbench_dyn import Dataset, InputError, Status, ThreatModel, evaluate, load_dataset
from robustbench_dyn.drawing.examples import plot_examples

CLASSES = ("low", "high")


class Mean(nn.Module):
    """Says class 1 where the mean of the input is above one half."""

    def forward(self, x):
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


def images(shape=(1, 4, 4), levels=(0.2, 0.45, 0.55, 0.8, 0.6)):
    """Images of one level each; the last has the label of the other class."""
    x = torch.stack([torch.full(shape, level) for level in levels])
    y = torch.tensor([0, 0, 1, 1, 0])
    ids = torch.arange(10, 10 + len(levels))
    return Dataset(x=x, y=y, ids=ids, name="levels", split="test", class_names=CLASSES)


def evaluation_of(data, **options):
    settings = {"attacks": "pgd", "certifiers": "none"} | options
    return evaluate(Mean(), data, ThreatModel("Linf", 0.1), **settings)


@pytest.fixture(scope="module")
def evaluation():
    return evaluation_of(images())


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def test_an_image_is_drawn_with_its_change_and_attack(evaluation):
    assert list(evaluation.examples["status"]) == [
        "undecided",
        "broken",
        "broken",
        "undecided",
        "misclassified",
    ]
    original, change, adversarial = evaluation.show(11).axes
    x_adv = evaluation.examples["x_adv"][1]
    assert x_adv.shape == (1, 4, 4)
    np.testing.assert_array_equal(original.images[0].get_array(), np.float32(0.45))
    np.testing.assert_array_equal(adversarial.images[0].get_array(), x_adv[0])
    # All of the image grew: the change is white, and no change would be grey.
    assert change.images[0].get_array().max() == 1
    assert titles(original.figure) == ["11: low", "change, at most 0.1", "predicted high"]
    told = original.figure.get_suptitle()
    assert "predicted low; broken" in told
    assert "pgd makes it high at Linf 0.1" in told


@pytest.mark.parametrize(("example_id", "status"), [(10, "undecided"), (14, "misclassified")])
def test_an_example_without_attack_is_one_image(evaluation, example_id, status):
    figure = evaluation.show(example_id)
    assert len(figure.axes) == 1
    assert status in figure.get_suptitle()


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 1), (16,)])
def test_colours_points_and_features_are_drawn(shape):
    figure = evaluation_of(images(shape)).show(11)
    assert len(figure.axes) == (3 if len(shape) == 3 and shape[0] == 3 else 1)
    assert "makes it high" in figure.get_suptitle()
    if shape == (2, 1, 1):
        (axes,) = figure.axes
        told = [text.get_text() for text in axes.get_legend().get_texts()]
        assert {"region of low", "region of high", "eps 0.1", "nearest adversarial example"} <= {
            *told
        }


def test_points_of_double_precision_are_drawn():
    data = images((2, 1, 1))
    x, y = data.x.double(), data.y
    evaluation = evaluate(Mean(), (x, y), ThreatModel("Linf", 0.1), attacks="pgd")
    assert evaluation.examples["x_adv"][1].dtype == np.float64
    (axes,) = evaluation.show(1).axes
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    np.testing.assert_allclose(
        cross.get_xydata()[0], evaluation.examples["x_adv"][1].ravel(), atol=1e-12
    )


def test_unknown_examples_and_missing_data_are_refused(evaluation):
    with pytest.raises(InputError, match=r"example 3 was not evaluated; .* from 10 to 14"):
        evaluation.show(3)
    with pytest.raises(InputError, match="not at hand"):
        dataclasses.replace(evaluation, data=None).show(11)
    bare = dataclasses.replace(evaluation, model=None)
    assert "makes it another class" in bare.show(11).get_suptitle()


def test_show_leaves_the_model_in_its_mode():
    model = Mean().train()
    model.scale = nn.Parameter(torch.ones(1))
    evaluation = evaluate(model, images(), ThreatModel("Linf", 0.1), attacks="pgd")
    evaluation.show(11)
    assert model.training
    assert model.scale.requires_grad


def test_a_picture_has_the_first_examples_of_the_statuses(evaluation):
    figure = plot_examples(evaluation, statuses=[Status.UNDECIDED, Status.BROKEN], count=3)
    drawn = titles(figure)
    # Those of one image come first; three images a broken example after them.
    assert drawn[:3] == ["10: low", "13: high", "11: low"]
    assert len(drawn) == 5
    assert "levels" in figure.get_suptitle()


def test_pictures_of_no_image_or_no_example_are_refused(evaluation):
    with pytest.raises(InputError, match="none of the 5 examples is certified"):
        plot_examples(evaluation, statuses=[Status.CERTIFIED])
    with pytest.raises(InputError, match="which are no images"):
        plot_examples(evaluation_of(images((16,))))


def test_the_command_draws_certified_images(tmp_path, monkeypatch, capsys):
    arguments = ["plot", "examples", "--model", "lipflow", "--n-examples", 4, "--eps", "0.25"]
    arguments += ["--attacks", "none", "--status", "certified", "--to", "e.svg"]
    result = dynbench_here(arguments, tmp_path, monkeypatch, capsys)
    assert (result.returncode, result.stdout) == (0, "written to e.svg\n"), result.stderr
    assert "certified within L2" in (tmp_path / "e.svg").read_text()


def test_the_command_refuses_points_before_it_evaluates(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("robustbench_dyn.evaluation.api.evaluate", None)
    arguments = ["plot", "examples", "--model", "lipflow", "--dataset", "moons", "--to", "e.png"]
    refused(dynbench_here(arguments, tmp_path, monkeypatch, capsys), "no images")
    assert load_dataset("moons", n_examples=1).x.shape[1:] == (2, 1, 1)
