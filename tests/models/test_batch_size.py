"""The batch size: measured, kept inside memory, halved where memory runs out."""

import time

import pytest
import torch
from oracles import halfspaces, points
from torch import nn

from robustbench_dyn import InputError, ThreatModel, evaluate
from robustbench_dyn.errors import MachineError
from robustbench_dyn.models import batch_size as sizes
from robustbench_dyn.models.batch_size import choose_batch_size
from robustbench_dyn.results.costs import peak_memory_mb

L2 = ThreatModel("L2", 0.25)
DATA = points([0.05, 0.1, 0.2, 0.3, 0.4, 0.45] * 4)


class Costly(nn.Module):
    """A model whose pass takes a time a call and a time an input, on a clock of its own."""

    def __init__(self, a_call, an_input):
        super().__init__()
        self.a_call, self.an_input, self.now = a_call, an_input, 0.0

    def forward(self, x):
        self.now += self.a_call + self.an_input * len(x)
        return x.flatten(1)


class Cramped(nn.Module):
    """A model that runs out of memory where it is given more than `most` inputs at once."""

    def __init__(self, most, message="CUDA out of memory"):
        super().__init__()
        self.inner, self.most, self.message, self.seen = halfspaces(), most, message, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            if self.message == "CUDA out of memory":
                raise torch.cuda.OutOfMemoryError(self.message)
            raise RuntimeError(self.message)
        return self.inner(x)


def test_batches_grow_until_they_no_longer_pay(monkeypatch):
    chosen = []
    for a_call in (0.0, 0.1, 10.0):
        model = Costly(a_call, 0.01)
        monkeypatch.setattr(time, "perf_counter", lambda model=model: model.now)
        chosen.append(choose_batch_size(model, torch.rand(4, 1, 4, 4)))
    assert chosen[0] <= 32
    assert chosen[0] < chosen[1] < chosen[2] <= 1024


def test_batches_stay_inside_memory(monkeypatch):
    model = Costly(10.0, 0.01)
    monkeypatch.setattr(time, "perf_counter", lambda: model.now)
    # 16 float32 outputs and their gradients are 128 bytes an input; a quarter of this is for them.
    monkeypatch.setattr(sizes, "_free_memory", lambda _x: 4 * 128 * 40)
    assert choose_batch_size(model, torch.rand(4, 1, 4, 4)) == 32
    monkeypatch.setattr(sizes, "_free_memory", lambda _x: 0)
    assert choose_batch_size(model, torch.rand(4, 1, 4, 4)) == 1


@pytest.mark.parametrize("message", ["CUDA out of memory", "can't allocate memory: 9 bytes"])
def test_batches_halved_for_memory_change_no_verdict(message):
    cramped, options = Cramped(5, message), {"attacks": "pgd", "certifiers": "none"}
    found = evaluate(cramped, DATA, L2, batch_size=24, **options)
    assert max(cramped.seen) == 24
    roomy = evaluate(Cramped(24), DATA, L2, batch_size=24, **options)
    assert found.examples["status"].equals(roomy.examples["status"])
    assert set(found.examples["status"]) == {"broken", "undecided"}


def test_a_model_that_does_not_fit_at_all_is_refused():
    with pytest.raises(MachineError, match="out of memory"):
        evaluate(Cramped(0), DATA, L2, attacks="pgd")


def test_a_size_that_does_not_fit_ends_the_measurement():
    assert 1 <= choose_batch_size(Cramped(40), torch.rand(4, 1, 4, 4)) <= 32
    with pytest.raises(RuntimeError, match="mat1"):
        choose_batch_size(Cramped(40, "mat1 and mat2 cannot be multiplied"), torch.rand(4, 1, 4, 4))


def test_auto_is_a_batch_size_and_other_words_are_not():
    found = evaluate(halfspaces(), DATA, L2, attacks="pgd", batch_size="auto")
    fixed = evaluate(halfspaces(), DATA, L2, attacks="pgd", batch_size=7)
    assert found.examples["status"].equals(fixed.examples["status"])
    with pytest.raises(InputError, match="'auto' or a number"):
        evaluate(halfspaces(), DATA, L2, attacks="pgd", batch_size="large")


def test_the_costs_of_the_stages_add_up_to_the_row():
    found = evaluate(halfspaces(), DATA, L2, attacks="pgd,fab-t")
    assert [cost.stage for cost in found.costs] == ["certify", "pgd", "fab-t"]
    for column in ("forward_passes", "backward_passes"):
        assert sum(getattr(cost, column) for cost in found.costs) == found.summary[column]
    assert found.costs[0].examples == len(DATA[0])
    assert peak_memory_mb() > 10
