"""Randomised models: the class that most passes predict counts, and lucky draws do not."""

import pytest
import torch
from oracles.networks import Rows, examples
from torch import nn

from robustbench_dyn.attacks import ATTACKS
from robustbench_dyn.attacks.native.eot import count_votes, outvoted
from robustbench_dyn.evaluation.candidates import check_candidates, check_candidates_in_expectation
from robustbench_dyn.evaluation.candidates import predict_in_expectation as predict
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.threat_models import ThreatModel, project

RADII = {"L2": 0.35, "Linf": 0.06}


class Coin(nn.Module):
    """Predicts class 1 with a fixed probability, whatever the input, and class 0 otherwise."""

    def __init__(self, probability):
        super().__init__()
        self.probability = probability

    def forward(self, x):
        one = (torch.rand(len(x)) < self.probability).to(x)
        return torch.stack([1 - one, one], dim=1) + 0 * x.flatten(1)[:, :1]


class Noisy(nn.Module):
    """A network behind additive noise on its input."""

    def __init__(self, sigma=0.05):
        super().__init__()
        self.rows, self.sigma = Rows(), sigma

    def forward(self, x):
        return self.rows(x + self.sigma * torch.randn_like(x))


def attacked(model, name, x, y, threat_model, n_classes=5, **settings):
    return ATTACKS.create(name, settings).search(
        model, x, y, threat_model, seed=3, batch_size=8, n_classes=n_classes
    )


def test_the_class_of_most_passes_is_predicted():
    x = torch.rand(50, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert (predict(Coin(0.2), x, seed=0) == 0).all()
    assert (predict(Coin(0.8), x, seed=0) == 1).all()
    assert torch.equal(predict(Coin(0.5), x, seed=4), predict(Coin(0.5), x, seed=4))
    assert not torch.equal(predict(Coin(0.5), x, seed=4), predict(Coin(0.5), x, seed=5))


def test_the_callers_random_stream_is_put_back():
    before = torch.get_rng_state()
    predict(Coin(0.5), torch.rand(3, 1, 2, 2, generator=torch.Generator()), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_passes_that_are_not_finite_predict_nothing():
    class Undefined(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), torch.nan)

    x = torch.zeros(2, 1, 2, 2)
    assert (predict(Undefined(), x, seed=0, n_passes=3) == -1).all()
    assert count_votes(Undefined(), x, 3).tolist() == [[0, 0, 0, 3]] * 2
    y = torch.zeros(2, dtype=torch.int64)
    assert check_candidates_in_expectation(
        Undefined(), x, x, y, ThreatModel("Linf", 0.1), seed=0
    ).fooled.all()


def test_a_tie_of_votes_is_no_adversarial_example():
    votes = torch.tensor([[5.0, 5.0], [5.0, 6.0], [6.0, 5.0]])
    assert outvoted(votes, torch.tensor([0, 0, 0])).tolist() == [False, True, False]
    assert outvoted(votes, torch.tensor([1, 1, 1])).tolist() == [False, False, True]


def test_a_lucky_draw_is_no_adversarial_example():
    x, y = torch.full((200, 1, 2, 2), 0.5), torch.zeros(200, dtype=torch.int64)
    threat_model = ThreatModel("Linf", 0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lucky = check_candidates(Coin(0.3), x, x, y, threat_model).fooled
    assert 0.2 < lucky.float().mean() < 0.4
    assert not check_candidates_in_expectation(
        Coin(0.3), x, x, y, threat_model, seed=0
    ).fooled.any()
    assert check_candidates_in_expectation(Coin(0.7), x, x, y, threat_model, seed=0).fooled.all()


def test_candidates_outside_the_threat_model_are_brought_inside():
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    far = x + torch.tensor([0.4, torch.nan]).reshape(2, 1, 1, 1)
    judged = check_candidates_in_expectation(Coin(1.0), far, x, y, ThreatModel("Linf", 0.1), seed=0)
    assert judged.fooled.tolist() == [True, False]
    assert float(judged.distance[0]) <= 0.1


@pytest.mark.parametrize("norm", list(RADII))
@pytest.mark.parametrize("name", ["eot-apgd-ce", "eot-apgd-dlr"])
def test_adversarial_examples_of_a_noisy_network_hold_in_fresh_passes(name, norm):
    model = CountingModel(Noisy())
    x, _ = examples(Rows())
    y = predict(model, x, seed=1)
    threat_model = ThreatModel(norm, RADII[norm])
    found = attacked(model, name, x, y, threat_model, n_iterations=25)
    changed = (found != x).flatten(1).any(dim=1)
    assert changed.sum() >= 3
    fooled = check_candidates_in_expectation(model, found, x, y, threat_model, seed=2).fooled
    # Of what 100 passes found wrong, 100 others seldom find less than half wrong.
    assert fooled[changed].float().mean() > 0.6
    assert not fooled[~changed].any()
    again = attacked(model, name, x, y, threat_model, n_iterations=25)
    assert torch.equal(found, again)


def test_one_pass_alone_finds_what_does_not_hold():
    """The negative control: the attack that believes one draw."""
    x, y = torch.full((8, 1, 2, 2), 0.5), torch.zeros(8, dtype=torch.int64)
    threat_model = ThreatModel("Linf", 0.1)
    believed = attacked(Coin(0.3), "apgd-ce", x, y, threat_model, n_classes=2)
    assert (believed != x).flatten(1).any(dim=1).all()
    assert torch.equal(attacked(Coin(0.3), "eot-apgd-ce", x, y, threat_model, n_classes=2), x)


@pytest.mark.parametrize("norm", list(RADII))
def test_on_a_deterministic_network_one_pass_finds_as_much(norm):
    x, y = examples(Rows())
    threat_model = ThreatModel(norm, RADII[norm])
    with_votes = attacked(Rows(), "eot-apgd-ce", x, y, threat_model, n_passes=3)
    fooled = Rows()(project(with_votes, x, threat_model)).argmax(dim=1) != y
    plain = attacked(Rows(), "apgd-ce", x, y, threat_model)
    assert torch.equal(fooled, Rows()(plain).argmax(dim=1) != y)


def test_one_pass_of_a_deterministic_network_suffices():
    x, y = examples(Rows())
    threat_model = ThreatModel("L2", RADII["L2"])
    one, many = (
        attacked(Rows(), "eot-apgd-ce", x, y, threat_model, n_passes=n_passes)
        for n_passes in (1, 2)
    )
    fooled = [Rows()(found).argmax(dim=1) != y for found in (one, many)]
    assert torch.equal(*fooled)
    assert fooled[0].any()


def test_votes_are_counted_anew_only_where_the_label_is_outvoted():
    class Low(Rows):
        def forward(self, x):
            return super().forward(x) - 100

    x, y = examples(Rows())
    model = CountingModel(Low())
    attacked(model, "eot-apgd-ce", x, y, ThreatModel("L2", 1e-3), n_passes=1)
    assert model.forward_passes == 101 * len(x) + 1
