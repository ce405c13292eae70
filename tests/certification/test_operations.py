"""Handlers of operations: each keeps the contract on samples, and a broken one is caught."""

import pytest
import torch
from oracles.samples import uniform
from torch.nn import functional as F

from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.contract.operations import (
    INTERVALS,
    LINES,
    ROUNDING,
    SLOPES,
    TRACED,
    VALUES,
    check_operation,
)
from robustbench_dyn.certification.convex_activations import Exp, Rsqrt, Sqrt, Square
from robustbench_dyn.certification.curved_activations import GELU, Hardswish, SiLU
from robustbench_dyn.certification.network import batch_layout
from robustbench_dyn.certification.network.layout import STANDARD, Layout
from robustbench_dyn.certification.network.operations import attention, choices, pooling, products
from robustbench_dyn.threat_models import ThreatModel

WEIGHTS = uniform(6, 4, seed=3) - 0.5


def constant(z, *shape):
    """Return weights of this shape, of z's dtype."""
    n = torch.Size(shape).numel()
    return WEIGHTS.flatten().repeat(n // WEIGHTS.numel() + 1)[:n].view(shape).to(z)


def broken(findings):
    return [finding for finding in findings if not finding.holds]


PIECEWISE_LINEAR = [
    ("hardtanh", None, (5,)),
    ("hardtanh", F.relu6, (5,)),
    ("hardtanh", lambda z: F.hardtanh(z, -2, 0.5), (5,)),
    ("clamp", lambda z: z.clamp(0, 1), (5,)),
    ("clamp", lambda z: z.clamp(max=1), (5,)),
    ("clamp", lambda z: z.clamp(min=constant(z, 5)), (5,)),
    ("clamp_min", lambda z: z.clamp_min(0.5), (5,)),
    ("clamp_max", lambda z: z.clamp_max(0.5), (5,)),
    ("threshold", lambda z: F.threshold(z, 0.5, 0.5), (5,)),
    ("_prelu_kernel", lambda z: F.prelu(z, 4 * constant(z, 3)), (3, 2)),
    ("leaky_relu", lambda z: F.leaky_relu(z, 2.0), (5,)),
    ("leaky_relu", lambda z: F.leaky_relu(z, -0.5), (5,)),
    ("abs", None, (5,)),
    ("hardsigmoid", None, (5,)),
    ("softshrink", None, (5,)),
    ("maximum", lambda z: torch.maximum(z, z.flip(1)), (4,)),
    ("maximum", lambda z: torch.maximum(z, z[:, :, :1]), (2, 3)),
    ("maximum", lambda z: torch.maximum(torch.ones_like(z), z), (5,)),
    ("minimum", lambda z: torch.minimum(z, z.flip(1)), (4,)),
]
POOLS = [
    ("max_pool2d_with_indices", lambda z: F.max_pool2d(z, 2), (1, 4, 4)),
    ("max_pool2d_with_indices", lambda z: F.max_pool2d(z, 3, 2, 1), (1, 5, 4)),
    ("max_pool2d_with_indices", lambda z: F.max_pool2d(z, 3, 1, 1, 2, ceil_mode=True), (1, 4, 4)),
    ("max_pool2d_with_indices", lambda z: F.max_pool1d(z, 2), (2, 5)),
    ("max_pool3d_with_indices", lambda z: F.max_pool3d(z, 2), (1, 2, 4, 2)),
    ("adaptive_max_pool2d", lambda z: F.adaptive_max_pool2d(z, (2, 3)), (1, 5, 4)),
    ("max", lambda z: z.max(1)[0], (5, 2)),
    ("min", lambda z: z.min(2, keepdim=True).values, (2, 3)),
    ("amax", lambda z: z.amax((2, 3)), (2, 2, 3)),
    ("amin", lambda z: z.amin(1, keepdim=True), (6,)),
    ("sort", lambda z: z.view(-1, 3, 2).sort(-1, descending=True)[0], (6,)),
    ("sort", lambda z: z.sort(1)[0], (4,)),
    ("topk", lambda z: z.topk(2, 1)[0], (3, 2)),
    ("topk", lambda z: z.topk(2, 1, largest=False)[0], (3, 2)),
]
SMOOTH = [
    ("gelu", None, (5,)),
    ("gelu", lambda z: F.gelu(z, approximate="tanh"), (5,)),
    ("silu", None, (5,)),
    ("hardswish", None, (5,)),
    ("elu", None, (5,)),
    ("elu", F.selu, (5,)),
    ("celu", lambda z: F.celu(z, 2.0), (5,)),
    ("log_sigmoid_forward", F.logsigmoid, (5,)),
    ("exp", None, (5,)),
    ("pow", lambda z: z**2, (5,)),
    ("reciprocal", lambda z: (z + 11).reciprocal(), (5,)),
    ("reciprocal", lambda z: (z - 11).reciprocal(), (5,)),
    ("rsqrt", lambda z: (z + 11).rsqrt(), (5,)),
    ("sqrt", lambda z: (z + 11).sqrt(), (5,)),
    ("log", lambda z: (z + 11).log(), (5,)),
]
PRODUCTS = [
    ("mul", lambda z: z * z.flip(1), (4,)),
    ("mul", lambda z: z * z, (4,)),
    ("mul", lambda z: z * z.mean(1, keepdim=True), (4,)),
    ("mul", lambda z: F.rms_norm(z, (3,), eps=1e-3), (1, 3)),
    ("div", lambda z: z / (z.flip(1) + 11), (4,)),
    ("div", lambda z: torch.div(constant(z, 4), z + 11), (4,)),
    ("bmm", lambda z: z @ z.transpose(1, 2), (2, 2)),
    ("baddbmm", lambda z: torch.baddbmm(constant(z, 1, 2, 2), z, z, beta=2, alpha=0.5), (2, 2)),
    ("glu", lambda z: F.glu(z, 1), (4,)),
    ("linalg_vector_norm", lambda z: z.norm(dim=(1, 2))[:, None], (2, 2)),
    ("linalg_vector_norm", lambda z: F.normalize(z + 9, p=1, dim=1), (4,)),
    ("_log_softmax", lambda z: F.log_softmax(z, 1), (4,)),
    ("_log_softmax", lambda z: F.log_softmax(z, 1), (3, 2)),
    ("_softmax", lambda z: z.softmax(1), (4,)),
    ("_softmax", lambda z: z.softmax(1), (3, 2)),
    ("native_layer_norm", lambda z: F.layer_norm(z, (5,)), (5,)),
    (
        "native_layer_norm",
        lambda z: F.layer_norm(z, (3, 2), constant(z, 3, 2), constant(z, 3, 2)),
        (1, 3, 2),
    ),
    ("native_group_norm", lambda z: F.group_norm(z, 2), (4, 2)),
    (
        "native_group_norm",
        lambda z: F.group_norm(z, 1, constant(z, 2), constant(z, 2)),
        (2, 2),
    ),
    (
        "_scaled_dot_product_flash_attention_for_cpu",
        lambda z: F.scaled_dot_product_attention(z, z.flip(1), z),
        (1, 2, 2),
    ),
    (
        "_scaled_dot_product_flash_attention_for_cpu",
        lambda z: F.scaled_dot_product_attention(z, z.flip(1), z, is_causal=True),
        (1, 2, 2),
    ),
    (
        "_scaled_dot_product_flash_attention_for_cpu",
        lambda z: F.scaled_dot_product_attention(z, z, z, constant(z, 2, 2), scale=0.5),
        (1, 2, 2),
    ),
]
AFFINE = [
    ("sub", lambda z: z - z.mean((1, 2), keepdim=True), (2, 3)),
    ("mul", lambda z: z[:, :, :1] * constant(z, 4), (2, 3)),
    ("add", lambda z: z[:, :, :1] + constant(z, 4), (2, 3)),
    ("stack", lambda z: torch.stack([z, 2 * z], 1), (4,)),
    ("repeat", lambda z: z.repeat(1, 2), (4,)),
    ("index", lambda z: z[:, [0, 0, 1]], (4,)),
    ("index_select", lambda z: z.index_select(1, torch.tensor([0, 0, 3])), (4,)),
    ("reflection_pad1d", lambda z: F.pad(z, (1, 1), mode="reflect"), (1, 3)),
    ("reflection_pad2d", lambda z: F.pad(z, (1, 1, 1, 0), mode="reflect"), (1, 3, 3)),
    ("replication_pad2d", lambda z: F.pad(z, (1, 1, 1, 0), mode="replicate"), (1, 3, 3)),
    ("upsample_nearest2d", lambda z: F.interpolate(z, scale_factor=2), (1, 3, 2)),
    (
        "upsample_bilinear2d",
        lambda z: F.interpolate(z, size=5, mode="bilinear", align_corners=True),
        (1, 3, 2),
    ),
    ("im2col", lambda z: F.unfold(z, 2, padding=1), (1, 3, 2)),
    ("unfold", lambda z: z.unfold(2, 2, 1), (1, 3, 2)),
    ("rot90", lambda z: z.rot90(1, (2, 3)), (1, 3, 2)),
    ("channel_shuffle", lambda z: F.channel_shuffle(z, 2), (4, 2, 1)),
    (
        "addmm",
        lambda z: torch.addmm(constant(z, 3), z, constant(z, 4, 3), alpha=2, beta=0.5),
        (4,),
    ),
    ("mv", lambda z: (z @ constant(z, 4)).relu()[:, None], (4,)),
    ("avg_pool3d", lambda z: F.avg_pool3d(z, 2), (1, 2, 2, 4)),
    ("col2im", lambda z: F.fold(z, (3, 3), 2), (4, 4)),
    ("index_add", lambda z: z.index_add(1, torch.tensor([2, 2]), z[:, :2]), (4,)),
    ("unsafe_split", lambda z: z.unsafe_split(2, 1)[1], (4,)),
    ("bmm", lambda z: z @ constant(z, 1, 4, 3).expand(len(z), 4, 3), (2, 4)),
    ("convolution", lambda z: F.conv2d(z, constant(z, 2, 2, 3, 3), padding="same"), (2, 3, 3)),
    ("convolution", lambda z: F.conv2d(z, constant(z, 2, 2, 2, 2), padding="valid"), (2, 3, 3)),
    (
        "convolution",
        lambda z: F.conv2d(z, constant(z, 4, 1, 2, 2), padding=2, groups=2, dilation=2, stride=2),
        (2, 4, 5),
    ),
    (
        "convolution",
        lambda z: F.conv1d(z, constant(z, 4, 1, 2), padding=2, groups=2, dilation=2, stride=2),
        (2, 4),
    ),
    (
        "convolution",
        lambda z: F.conv_transpose2d(
            z, constant(z, 2, 1, 3, 2), padding=1, groups=2, stride=2, output_padding=1
        ),
        (2, 4, 3),
    ),
    ("convolution", lambda z: F.conv3d(z, constant(z, 1, 1, 2, 2, 2)), (1, 2, 3, 2)),
]

LINEAR, ATTENTION = torch.nn.Linear(4, 3), torch.nn.MultiheadAttention(4, 2, batch_first=True)
CELL = torch.nn.GRUCell(2, 1)
CIRCULAR = torch.nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")


def in_dtype(module, z, *args, **options):
    """Apply a module in the dtype of z."""
    return module.to(z.dtype)(z, *args, **options)


def heads(z):
    """Attention as in timm, with the three projections in a first dimension."""
    n, tokens, width = z.shape
    projected = z @ constant(z, width, 3 * width)
    q, k, v = projected.reshape(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = (0.5 * q @ k.transpose(-2, -1)).softmax(-1) @ v
    return mixed.transpose(1, 2).reshape(n, tokens, width)


BATCHES = [
    ("addmm", lambda z: in_dtype(LINEAR, z), (2, 3, 4)),
    ("mm", lambda z: F.linear(z, constant(z, 3, 6)), (2, 6)),
    ("bmm", lambda z: torch.einsum("nchw,cd->ndhw", z, constant(z, 6, 3)), (6, 2, 1)),
    (
        "mm",
        lambda z: (
            (z.transpose(0, 1).reshape(-1, 6) @ constant(z, 6, 3) + constant(z, 3))
            .relu()
            .view(2, -1, 3)
            .transpose(0, 1)
        ),
        (2, 6),
    ),
    ("bmm", heads, (2, 4)),
    ("addmm", lambda z: in_dtype(ATTENTION, z, z, z, need_weights=False)[0], (2, 4)),
    ("addmm", lambda z: in_dtype(ATTENTION, z, z, z)[0], (2, 4)),
    ("native_layer_norm", lambda z: F.layer_norm(z.transpose(0, 1), (3,)).mean(0), (2, 3)),
    ("mm", torch.vmap(lambda one: constant(one, 3, 4) @ one[0]), (2, 4)),
    ("unsafe_split", lambda z: in_dtype(CELL, z), (2,)),
    ("convolution", lambda z: in_dtype(CIRCULAR, z), (2, 3, 4)),
]


def halves_in_place(z):
    z = 1.0 * z
    z[:, :1] += z[:, 1:] ** 2
    z[:, 1:].mul_(constant(z, 2))
    return z


def steps_in_memory(z):
    """Euler steps whose states are written behind one another, with the batch second."""
    states = z.new_empty(3, *z.shape)
    states[0] = z
    for k in range(2):
        states[k + 1] = states[k] + 0.5 * states[k].tanh()
    return states.transpose(0, 1)[:, 1:]


def column(z, index):
    return torch.tensor(index).view(1, -1).expand(len(z), -1)


MASK = torch.tensor([True, False, True, False])
WRITES = [
    ("assembled", halves_in_place, (2, 2)),
    ("assembled", steps_in_memory, (3,)),
    ("assembled", lambda z: F.pad(z, (1, 2, 0, 1), mode="circular"), (1, 3, 3)),
    ("masked_fill", lambda z: z.masked_fill(MASK, 0.5), (4,)),
    ("where", lambda z: torch.where(MASK, z, z.flip(1)), (4,)),
    ("gather", lambda z: z.gather(1, column(z, [0, 2, 2])), (4,)),
    ("scatter", lambda z: z.scatter(1, column(z, [3, 1]), z[:, :2] * 2), (4,)),
    ("slice_scatter", lambda z: torch.slice_scatter(z, z[:, :1] + 1, 1, 2, 3), (4,)),
    ("select_scatter", lambda z: torch.select_scatter(z, z[:, 0], 1, 2), (4,)),
    ("diagonal_scatter", lambda z: torch.diagonal_scatter(z, z[:, 0], 0, 1, 2), (2, 2)),
    ("tril", lambda z: z.tril(), (2, 3)),
    ("triu", lambda z: z.triu(1), (2, 3)),
    ("index_copy", lambda z: z.index_copy(1, torch.tensor([2, 0]), 2 * z[:, :2]), (4,)),
    ("index_fill", lambda z: z.index_fill(1, torch.tensor([2, 0]), 0.25), (4,)),
]

# Each of these takes some seconds.
LONG = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "adaptive_max_pool2d",
    "bmm",
    "max",
    "max_pool3d_with_indices",
    "min",
    "native_group_norm",
    "topk",
}


def cases():
    """Return each use of an operation; all but the first of each are slow, and some of these."""
    found, seen = [], set()
    for name, function, input_shape in [
        *PIECEWISE_LINEAR,
        *POOLS,
        *SMOOTH,
        *PRODUCTS,
        *AFFINE,
        *BATCHES,
        *WRITES,
    ]:
        marks = [pytest.mark.slow] if name in seen | LONG else []
        seen.add(name)
        found.append(pytest.param(name, function, input_shape, marks=marks, id=name.strip("_")))
    return found


@pytest.mark.parametrize(("name", "function", "input_shape"), cases())
def test_a_handler_keeps_the_contract(name, function, input_shape):
    assert broken(check_operation(name, function, input_shape=input_shape)) == []


def one_end(lower, upper):
    """Return bounds of a maximum that leave out where it is the other value."""
    return torch.maximum(*lower), torch.minimum(*upper)


def two_corners(lower, upper):
    """Return bounds of a product that hold for positive factors alone."""
    return lower[0] * lower[1], upper[0] * upper[1]


def no_error(errors, lower, upper):
    return torch.zeros_like(errors[0])


@pytest.mark.parametrize(
    ("name", "function", "owner", "attribute", "wrong", "rule"),
    [
        (
            "maximum",
            lambda z: torch.maximum(z, z.flip(1)),
            choices,
            "_larger_ends",
            one_end,
            INTERVALS,
        ),
        (
            "maximum",
            lambda z: torch.maximum(0.3 * z, 0.7 * z.flip(1)),
            choices,
            "_larger_error",
            no_error,
            ROUNDING,
        ),
        ("mul", lambda z: z * z.flip(1), products, "_product_ends", two_corners, INTERVALS),
        (
            "mul",
            lambda z: (0.3 * z) * (0.7 * z.flip(1)),
            products,
            "_product_error",
            no_error,
            ROUNDING,
        ),
        ("sort", lambda z: z.sort(1)[0], pooling, "comparators", lambda n: [(0, 1)], VALUES),
        ("gelu", None, GELU, "inflections", (), LINES),
        ("gelu", None, GELU, "stationary_points", (), INTERVALS),
        ("gelu", None, GELU, "max_slope", 1.0, SLOPES),
        ("silu", None, SiLU, "derivative", lambda self, z: torch.sigmoid(z), LINES),
        ("pow", lambda z: z**2, Square, "stationary_points", (), INTERVALS),
        (
            "rsqrt",
            lambda z: (z + 11).rsqrt(),
            Rsqrt,
            "slope_bound",
            lambda self, lower, upper, error: 0.0 * lower,
            SLOPES,
        ),
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            lambda z: F.scaled_dot_product_attention(*[z.view(-1, 1, 2, 2)] * 3, is_causal=True),
            attention,
            "_mask",
            lambda context, given, scores: (torch.ones(1, 2, 2, dtype=torch.bool), None),
            VALUES,
        ),
        (
            "sqrt",
            lambda z: (z + 11).sqrt(),
            Sqrt,
            "critical_points",
            lambda self, slope: [],
            LINES,
        ),
        (
            "exp",
            None,
            Exp,
            "critical_points",
            lambda self, slope: [],
            LINES,
        ),
        ("hardswish", None, Hardswish, "summands", lambda self, z: -z.abs(), ROUNDING),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_broken_part_of_a_handler_is_caught(
    name, function, owner, attribute, wrong, rule, monkeypatch
):
    monkeypatch.setattr(owner, attribute, wrong)
    assert rule in [
        found.rule for found in broken(check_operation(name, function, input_shape=(4,)))
    ]


def mixing(z):
    """Add to each example the one before it, through a view with the batch inside."""
    n = len(z)
    folded = z.reshape(n * 2, 2)
    return z + folded.roll(2, dims=0).reshape(n, 4)


@pytest.mark.parametrize(
    "function",
    [
        mixing,
        lambda z: z.transpose(0, 1).softmax(-1).transpose(0, 1),
        lambda z: torch.stack([z, z]).permute(2, 1, 0).softmax(1)[..., 0].T,
        lambda z: z.reshape(-1, len(z)).reshape(len(z), -1) @ z.new_ones(4, 4) + z.T.reshape(-1, 4),
        lambda z: (z.unsqueeze(0) @ z.unsqueeze(0).mT)[0].mean(1, keepdim=True) + z,
    ],
)
def test_operations_over_the_batch_are_refused(function):
    (finding,) = [
        finding
        for finding in check_operation("add", lambda z: function(z) + z, input_shape=(4,))
        if not finding.holds
    ]
    assert finding.rule in (TRACED, VALUES)
    assert "over the batch" in finding.detail or "does not compute" in finding.detail


@pytest.mark.parametrize("wrong", [Layout(0, 3, 2), Layout(0, 1, 6), Layout(1, 1, 3)])
def test_a_wrong_place_of_the_batch_is_caught(wrong, monkeypatch):
    place = batch_layout._view

    def misplaced(operation, inputs, batch):
        found = place(operation, inputs, batch)
        return found if found.layout == STANDARD else found._replace(layout=wrong)

    def function(z):
        return (z.transpose(0, 1).reshape(-1, 6) @ constant(z, 6, 4)).view(2, -1, 4).transpose(0, 1)

    assert broken(check_operation("mm", function, input_shape=(2, 6))) == []
    monkeypatch.setitem(batch_layout._REWRITES, "view", misplaced)
    monkeypatch.setitem(batch_layout._REWRITES, "_unsafe_view", misplaced)
    assert broken(check_operation("mm", function, input_shape=(2, 6)))


PIECES = {
    "max pool": (lambda z: F.max_pool1d(z[:, None], 2)[:, 0], 3),
    "absolute value": (torch.abs, 6),
    "hardtanh": (lambda z: F.hardtanh(z, -0.3, 0.4), 6),
    "PReLU": (lambda z: F.prelu(z, constant(z, 6) * 4), 6),
    "MaxMin": (lambda z: torch.cat([z[:, :3].maximum(z[:, 3:]), z[:, :3].minimum(z[:, 3:])], 1), 6),
    "GroupSort": (lambda z: z.view(-1, 2, 3).sort(dim=-1)[0].flatten(1), 6),
    "clamp": (lambda z: z.clamp(min=-0.2, max=0.3), 6),
    "hardsigmoid": (lambda z: F.hardsigmoid(9 * z), 6),
}


class Small(torch.nn.Module):
    """Two inputs, six hidden values, a function of them, three classes."""

    def __init__(self, piece, seed):
        super().__init__()
        self.piece, width = PIECES[piece]
        generator = torch.Generator().manual_seed(seed)
        weights = [(6, 2), (6,), (3, width), (3,)]
        self.weights = torch.nn.ParameterList(
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in weights
        )

    def forward(self, x):
        weight, bias, head, offset = self.weights
        return self.piece((x.flatten(1) - 0.5) @ weight.T + 0.3 * bias) @ head.T + 0.2 * offset


QUICK = ("absolute value", "hardtanh", "PReLU")


@pytest.mark.parametrize(
    "piece",
    [pytest.param(p, marks=[] if p in QUICK else [pytest.mark.slow]) for p in PIECES],
)
def test_complete_decides_networks_with_kinks(piece):
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 201).double()] * 2)
    counts = torch.zeros(2, dtype=torch.long)
    for seed in range(4):
        model = Small(piece, seed).requires_grad_(False)
        x = uniform(6, 1, 1, 2, seed=seed)
        logits, eps = model(x), 0.15
        y = logits.argmax(dim=1)
        wrong = model(grid[:, None, None]).argmax(dim=1)[:, None] != y
        near = (grid[:, None] - x.flatten(1)).abs().amax(dim=2) <= eps
        broken_there = (wrong & near).any(dim=0)
        prepared = Complete(seconds_per_example=20).prepared(model, (1, 1, 2))
        proof = prepared.prove(x, logits, y, ThreatModel("Linf", eps))
        certified = proof.class_radii.amin(dim=1) >= eps
        assert not (certified & broken_there).any()
        # Between the points of the grid a margin of this slope changes by little.
        nearly = (wrong & ((grid[:, None] - x.flatten(1)).abs().amax(dim=2) <= eps + 0.02)).any(
            dim=0
        )
        assert (certified | nearly).all()
        counts += torch.tensor([certified.sum(), broken_there.sum()])
    assert counts.min() > 2
