"""Full float32 precision in every pass, whatever flags the caller has set."""

import warnings

import pytest
import torch
from torch import nn

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.models.precision import full_precision, is_full
from robustbench_dyn.smoothing import evaluate_smoothed
from robustbench_dyn.smoothing.statistics import Smoothing


class Watching(nn.Module):
    """Remembers whether products were of full precision in each of its passes."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append(is_full())
        return self.head(x.flatten(1))


@pytest.fixture
def careless():
    """Set every flag the wrong way, as a training script may have."""
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def problem():
    torch.manual_seed(0)
    return Watching(), (torch.rand(12, 1, 2, 2), torch.arange(12) % 3)


@pytest.mark.usefixtures("careless")
def test_every_pass_of_an_evaluation_is_in_full_precision():
    model, data = problem()
    assert not is_full()
    evaluation = evaluate(model, data, ThreatModel("L2", 0.1), attacks="apgd-ce,square")
    assert all(model.seen)
    assert len(model.seen) > 50
    # The caller's flags are back.
    assert not is_full()
    assert torch.get_float32_matmul_precision() == "medium"
    assert torch.is_autocast_enabled("cpu")
    assert evaluation.summary["clean_accuracy"] is not None


@pytest.mark.usefixtures("careless")
def test_all_passes_of_a_smoothed_model_are_in_full_precision():
    model, data = problem()
    evaluate_smoothed(model, data, [ThreatModel("L2", 0.1)], Smoothing(0.25, n0=5, n=20))
    assert all(model.seen)
    assert not is_full()


@pytest.mark.usefixtures("careless")
def test_flags_are_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), full_precision():
        assert is_full()
        1 / 0  # noqa: B018
    assert torch.get_float32_matmul_precision() == "medium"


def test_the_convolutions_of_gpus_are_among_the_flags():
    # torch allows TF32 there by default: full precision has to turn it off.
    with full_precision():
        if hasattr(torch.backends, "fp32_precision"):
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        else:
            assert not torch.backends.cudnn.allow_tf32
