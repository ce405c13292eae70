"""The average of the weights: its formula, its manifold, and trainings that go on."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robustbench_dyn.flows import lipschitz_bound
from robustbench_dyn.models.loading import discover
from robustbench_dyn.training.averaging import AveragedWeights
from robustbench_dyn.training.loop import train
from robustbench_dyn.training.recipes import Recipe


def recipe(**changes):
    return Recipe.model_validate(
        {
            "model": "lipflow",
            "dataset": "digits",
            "norm": "L2",
            "options": {"channels": 8, "terms": 16, "depth": 1, "dense_depth": 2},
            "learning_rate": 0.01,
            "augmentation": {"shift": 1},
            "epochs": 3,
            "batch_size": 128,
            "averaging": 0.99,
        }
        | changes
    )


def trained(recipe, out, **options):
    train(recipe, discover().get("lipflow"), out, **options)
    return load_file(out)


def test_the_mean_gives_each_step_its_share():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(8.0)
    average, expected = AveragedWeights(model, 0.2), 8.0
    for t, value in enumerate((1.0, -3.0, 5.0), start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(model)
        kept = min(0.2, (1 + t) / (10 + t))
        expected = kept * expected + (1 - kept) * value
        assert float(average.result().weight.detach()) == pytest.approx(expected)


def test_buffers_are_those_of_the_last_step():
    model = nn.BatchNorm1d(1)
    average = AveragedWeights(model, 0.9)
    model.running_mean.fill_(3.0)
    model.num_batches_tracked.fill_(7)
    average.update(model)
    assert float(average.result().running_mean) == 3.0
    assert int(average.result().num_batches_tracked) == 7


def test_a_training_ends_with_the_average_on_its_manifold(tmp_path):
    averaged = trained(recipe(), tmp_path / "averaged.safetensors")
    last = trained(recipe(averaging=0.0), tmp_path / "last.safetensors")
    assert averaged.keys() == last.keys()
    assert any(not torch.equal(averaged[name], last[name]) for name in last)
    made = train(recipe(), discover().get("lipflow"), tmp_path / "again.safetensors").model
    assert lipschitz_bound(made.features) <= 1 + 1e-4


def test_without_its_retraction_the_average_leaves_the_manifold(tmp_path, monkeypatch):
    monkeypatch.setattr("robustbench_dyn.training.averaging.retract", lambda _model: None)
    made = train(recipe(), discover().get("lipflow"), tmp_path / "w.safetensors").model
    assert lipschitz_bound(made.features) != pytest.approx(1, abs=1e-4)


def test_a_stopped_training_ends_with_the_same_average(tmp_path):
    def stop(report):
        if report.step == 16:
            raise KeyboardInterrupt

    whole = trained(recipe(), tmp_path / "whole.safetensors")
    out = tmp_path / "stopped.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(recipe(), out, progress=stop)
    again = trained(recipe(), out)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_each_epoch_shows_the_average(tmp_path):
    shown = []
    out = tmp_path / "w.safetensors"
    last = trained(recipe(), out, at_epoch=lambda epoch: shown.append(epoch.model.state_dict()))
    assert len(shown) == 3
    assert all(torch.equal(shown[-1][name], last[name]) for name in last)
