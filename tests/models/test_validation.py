"""What a network answers, and the types of its weights, are refused with the cure."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustbench_dyn import InputError, ThreatModel, evaluate

X, Y = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def run(model):
    return evaluate(model, (X, Y), ThreatModel("L2", 0.1), attacks="none", certifiers="none")


class Casting(nn.Linear):
    """A network in another precision that takes float32 all the same."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype)).float()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision_are_refused_with_the_cure(dtype):
    with pytest.raises(InputError, match=rf"weights of {dtype}.*call model\.float\(\)"):
        run(nn.Linear(4, 3).to(dtype))
    run(nn.Linear(4, 3))
    run(Casting(4, 3).to(dtype))


class Answering(nn.Linear):
    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x))


def test_an_answer_that_holds_the_logits_is_refused_with_the_cure():
    with pytest.raises(
        InputError, match=r"holds the logits; load it by its name, load_model\('hf:"
    ):
        run(Answering(4, 3))
