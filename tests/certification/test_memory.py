"""Networks that write into parts of tensors: traced as they compute, or refused."""

import random

import pytest
import torch
from oracles.samples import uniform
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intermediate import interval_bounds, relaxation_state
from robustbench_dyn.certification.bounds.traced_network import trainable_network
from robustbench_dyn.certification.network.lowering import to_network
from robustbench_dyn.certification.network.memory import Memory
from robustbench_dyn.certification.network.tracer import trace
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.threat_models import ThreatModel

SHAPE = (4,)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(uniform(4, 4, seed=2).float())

    def forward(self, x):
        return self.function(1.5 * x, self.weight)


def view_that_sees_a_later_write(z, _):
    half = z[:, :2]
    z.mul_(2)
    return torch.cat([half, z.relu()], dim=1)


def value_read_before_a_write(z, _):
    half = z[:, :2]
    before = 1 * half
    half.add_(1)
    return torch.cat([before, z], dim=1)


def shifted(z, _):
    z[:, 1:] = z[:, :-1].clone()
    return z


def through_a_transpose(z, _):
    turned = z.view(-1, 2, 2).transpose(1, 2)
    turned[:, 0] = 0
    return z


def batch_last(z, _):
    columns = z.t().contiguous()
    columns[0] *= 3
    columns[1] = 1
    return columns.t()


def past_autograd(z, _):
    z.data[:, 0] = 2 * z.data[:, 1]
    return z


def other_data(z, weight):
    z.data = (z.data @ weight).relu()
    return z + 1


def shared_memory(z, _):
    torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(z[:, 1:]))[:, 1] = 0.5
    return z


def zeros_that_are_added_to(z, _):
    out = torch.zeros(len(z), 6)
    out[:, 1:5] = z
    out[:, 5] += z[:, 0]
    return out


def mask_that_is_written_again(z, _):
    mask = torch.zeros_like(z)
    mask[:, ::2] = 1
    first = z * mask
    mask.zero_()
    mask[:, 1] = 2
    return first + z * mask


def detached(z, _):
    z.detach()[:, 1:].mul_(z[:, :1].detach())
    return z.detach().clone()


def erased(z, _):
    z[:, 2:].zero_()
    z[:, 0].fill_(2.0)
    return z + 0.5 * z.flip(1)


def constant_that_is_written_again(z, _):
    z[:, 1] = 1.0
    first = 1 * z
    z[:, 1].mul_(0.0)
    return first + 2 * z


def at_a_mask(z, _):
    z[:, torch.tensor([True, False, True, False])] = 0.5
    return z


def at_places(z, _):
    z[:, [3, 0]] = z[:, [1, 2]].relu()
    return z


def in_another_dtype(z, _):
    out = torch.empty(len(z), 4, dtype=torch.float64)
    out[:] = z
    return out.float()


def one_number_each(z, _):
    out = z.new_zeros(len(z), 2)
    out[:, 0], out[:, 1] = z.sum(1), z.square().sum(1) / (1 + z[:, 0].exp())
    return out


def new_shape_in_place(z, _):
    z.unsqueeze_(1)
    z[:, 0, 0] = 0
    return z.squeeze_(1).tanh_()


def states_before_the_batch(z, _):
    states = torch.empty(3, len(z), 4)
    for k in range(3):
        states[k] = z.roll(k, 1) if k == 0 else states[k - 1].tanh()
    return states.mean(0) + states[-1] + states.amax((0, 2))[:, None]


def weight_by_rows(z, weight):
    matrix = torch.zeros(4, 4)
    matrix[:2] = weight[2:]
    return z @ matrix


def circular(z, weight):
    return F.pad(z[:, None], (2, 1), mode="circular")[:, 0].mul_(weight[0, 0])


WRITING = [
    view_that_sees_a_later_write,
    value_read_before_a_write,
    shifted,
    through_a_transpose,
    batch_last,
    past_autograd,
    other_data,
    shared_memory,
    zeros_that_are_added_to,
    mask_that_is_written_again,
    detached,
    erased,
    constant_that_is_written_again,
    at_a_mask,
    at_places,
    in_another_dtype,
    one_number_each,
    new_shape_in_place,
    states_before_the_batch,
    weight_by_rows,
    circular,
]


@pytest.mark.parametrize("function", WRITING, ids=lambda function: function.__name__)
def test_a_network_that_writes_is_traced_as_it_computes(function):
    model = Function(function).eval().requires_grad_(False)
    state, x = relaxation_state(model, SHAPE), uniform(9, *SHAPE).float()
    torch.testing.assert_close(state.exact.outputs(x.double())[-1].float(), model(x))
    bounds = interval_bounds(state, Ball(x, ThreatModel("Linf", 0.1)))
    for seed in range(5):
        moved = (x + 0.2 * (uniform(9, *SHAPE, seed=seed).float() - 0.5)).clamp(0, 1)
        logits = model(moved).double()
        assert (logits >= bounds.lower[-1]).all()
        assert (logits <= bounds.upper[-1]).all()


def test_weights_written_part_by_part_follow_the_parameters():
    model = Function(weight_by_rows).eval()
    current, x = trainable_network(model, SHAPE), uniform(9, *SHAPE).float()
    with torch.no_grad():
        model.weight.mul_(3)
    outputs = current().outputs(x)[-1]
    torch.testing.assert_close(outputs, model(x))
    (gradient,) = torch.autograd.grad(outputs.sum(), model.weight)
    assert gradient[2:].abs().min() > 0
    assert gradient[:2].abs().max() == 0


def random_program(seed):
    """Return a function of views, copies and writes, of which torch itself is the oracle."""

    def function(z, _):
        draw = random.Random(seed)
        values = [z, torch.zeros(len(z), 4), torch.ones(len(z), 4)]
        for _ in range(draw.randint(4, 12)):
            value, factor = draw.choice(values), draw.choice([2.0, -1.0, 0.5])
            width = value.shape[1]
            first = draw.randrange(width)
            other = draw.choice([one for one in values if one.shape == value.shape])
            step = draw.randrange(7)
            if step < 2:
                values.append(value[:, first:] if step else value[:, ::2])
            elif step == 2:
                value[:, first:] = draw.choice(values)[:, :1].clone()
            elif step == 3:
                value.mul_(factor)
            elif step == 4:
                value[:, first] = abs(factor)
            elif step == 5:
                values.append(value.relu())
            else:
                value.add_(other)
        return torch.cat([z, *values], dim=1)

    return function


@pytest.mark.slow
def test_random_programs_are_traced_as_they_compute():
    x, n_traced = uniform(3, *SHAPE).float(), 0
    for seed in range(80):
        model = Function(random_program(seed)).eval().requires_grad_(False)
        try:
            network = to_network(trace(model, SHAPE, torch.float32), torch.float64)
        except CertificateError:
            continue
        torch.testing.assert_close(network.outputs(x.double())[-1].float(), model(x))
        n_traced += 1
    assert n_traced > 60


def overlapping(z, _):
    z[:, 1:] = z[:, :-1]
    return z


def never_written(z, _):
    out = torch.full((len(z), 4), torch.nan)
    out[:, :2] = z[:, :2]
    return out


def between_examples(z, _):
    z[0] = z[1]
    return z


def added_at_places(z, _):
    rows, columns = torch.arange(len(z))[:, None], torch.tensor([[0, 0]])
    return torch.zeros_like(z).index_put((rows, columns), z[:, :2], accumulate=True)


def bits(z, _):
    z.view(torch.int32)[:, 0] = 0
    return z


def several_at_once(z, _):
    torch._foreach_mul_([z], 2.0)
    return z


LIBRARY = torch.library.Library("memory_test", "DEF")
LIBRARY.define("doubled(Tensor x) -> Tensor")
LIBRARY.impl("doubled", lambda x: x.mul_(2).clone(), "CompositeExplicitAutograd")


def unsaid(z, _):
    torch.ops.memory_test.doubled(z)
    return z


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (several_at_once, "writes into an argument of the operation '_foreach_mul_'"),
        (unsaid, "'memory_test::doubled' writes into its arguments unsaid"),
        (overlapping, "a part that overlaps with it"),
        (never_written, "'assembled' over the batch"),
        (between_examples, "'select' over the batch"),
        (added_at_places, "'index_put' over the batch"),
        (bits, "as bits"),
        (lambda z, _: z.masked_fill(torch.eye(4)[0] > 0, -torch.inf).softmax(1), "not finite"),
        (lambda z, _: z.resize_(len(z), 4), "'resize'"),
    ],
)
def test_writes_that_cannot_be_followed_are_refused(function, message):
    with pytest.raises(CertificateError, match=message):
        relaxation_state(Function(function).eval(), SHAPE)


def test_a_write_that_is_overlooked_is_caught(monkeypatch):
    monkeypatch.setattr(Memory, "write", lambda self, tensor, value: None)
    with pytest.raises(CertificateError, match="does not compute"):
        relaxation_state(Function(shifted).eval(), SHAPE)
