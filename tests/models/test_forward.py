"""A model never sees a tensor that anything else holds."""

import torch
from torch import nn

from robustbench_dyn.models.forward import (
    call,
    call_with_graph,
    call_without_graph,
    writes_into_input,
)


class Writing(nn.Module):
    def forward(self, x):
        return x.sub_(0.5).flatten(1)


class PastAutograd(nn.Module):
    def forward(self, x):
        x.data.mul_(2)
        return x.flatten(1)


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.empty(3, 4)

    def forward(self, x):
        return self.out.copy_(x.flatten(1))


class Differentiating(nn.Module):
    def forward(self, x):
        (gradient,) = torch.autograd.grad((x**2).sum(), x, create_graph=True)
        return gradient.flatten(1)


def test_what_is_passed_stays_as_it_is():
    x = torch.rand(3, 1, 2, 2)
    before = x.clone()
    for model in (Writing(), PastAutograd()):
        for calling in (call, call_without_graph):
            calling(model, x)
        assert torch.equal(x, before)


def test_what_was_returned_stays_as_it_is():
    model = Buffered()
    first = call_without_graph(model, torch.zeros(3, 1, 2, 2))
    call_without_graph(model, torch.ones(3, 1, 2, 2))
    assert first.abs().max() == 0


def test_writing_is_noticed_also_past_autograd():
    x = torch.rand(3, 1, 2, 2)
    assert writes_into_input(Writing(), x)
    assert writes_into_input(PastAutograd(), x)
    assert not writes_into_input(nn.Flatten(), x)
    # NaN differs from itself, its bytes do not.
    assert not writes_into_input(nn.Flatten(), x * torch.nan)


def test_a_network_that_differentiates_gets_a_graph():
    x = torch.rand(3, 1, 2, 2)
    expected = 2 * x.flatten(1)
    torch.testing.assert_close(call_without_graph(Differentiating(), x), expected)
    torch.testing.assert_close(call_with_graph(Differentiating(), x), expected)


def test_a_gradient_reaches_the_input_through_the_copy():
    x = torch.rand(3, 1, 2, 2, requires_grad=True)
    call(nn.Flatten(), x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
