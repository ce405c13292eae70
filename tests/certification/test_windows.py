"""Back-substitution in groups of rows and in windows of convolutions, and inner products."""

from fractions import Fraction

import pytest
import torch
from oracles.samples import normal, uniform
from torch import nn

from robustbench_dyn.certification.bounds import inner_products
from robustbench_dyn.certification.bounds import windows as windows_module
from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.entry_bounds import entry_bounds
from robustbench_dyn.certification.bounds.groups import grouped
from robustbench_dyn.certification.bounds.intermediate import (
    intermediate_bounds,
    relaxation_state,
)
from robustbench_dyn.certification.bounds.windows import windows
from robustbench_dyn.threat_models import NORMS, ThreatModel

SHAPE = (1, 12, 12)


class Residual(nn.Module):
    """x + conv(x), whose entries depend on others by two ways."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.convolution(x)


def network(*, residual=False, dtype=torch.float32):
    """Return a network of convolutions, whose second pre-activation sees a part of the image."""
    torch.manual_seed(0)
    second = Residual() if residual else nn.Conv2d(3, 4, 3, stride=2, padding=1)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), second, nn.ReLU(), nn.Flatten()]
    n_features = 3 * 144 if residual else 4 * 36
    return nn.Sequential(*layers, nn.Linear(n_features, 3)).to(dtype).requires_grad_(False)


def second_preactivation(state):
    (k,) = [k for k in state.fast.preactivations if k not in state.affine_prefixes]
    return k


def bounds_of_entries(state, threat_model, windows):
    """Return the bounds of all entries of the second pre-activation, both ways, of two examples."""
    k, x = second_preactivation(state), uniform(2, *SHAPE, seed=2)
    ball = Ball(x, threat_model)
    bounds, lines = intermediate_bounds(state, ball)
    n = bounds.lower[k][0].numel()
    entries = torch.arange(n).repeat(4)
    signs = torch.ones(4 * n, dtype=state.fast.dtype)
    signs[2 * n :] = -1
    owners = torch.arange(2).repeat_interleave(n).repeat(2)
    return entry_bounds(state.fast, ball, bounds, k, owners, entries, signs, lines, windows=windows)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@torch.no_grad()
def test_windows_bound_entries_as_the_whole_network_does(norm, residual):
    state = relaxation_state(network(residual=residual, dtype=torch.float64), SHAPE)
    k, threat_model = second_preactivation(state), ThreatModel(norm, 0.1)
    found = windows(state.fast, k)
    assert found is not None
    assert found.n_numbers < 0.5 * state.fast.n_numbers
    within = bounds_of_entries(state, threat_model, found)
    whole = bounds_of_entries(state, threat_model, None)
    torch.testing.assert_close(within, whole, rtol=1e-9, atol=1e-9)
    # The negative control: matrices of other windows.
    for node in found.nodes.values():
        node.matrices[0].copy_(node.matrices[0].roll(1, dims=0))
    assert (bounds_of_entries(state, threat_model, found) - whole).abs().max() > 1e-3


@torch.no_grad()
def test_a_window_that_misses_a_dependence_is_refused(monkeypatch):
    state = relaxation_state(network(), SHAPE)
    k = second_preactivation(state)
    assert windows(state.fast, k) is not None
    seen = windows_module._seen

    def blind(network, k, entries):
        found = seen(network, k, entries)
        # Half of the pixels that the middle entry depends on are overlooked.
        row = found[0][len(entries) // 2]
        row[row.nonzero().flatten()[::2]] = 0
        return found

    monkeypatch.setattr(windows_module, "_seen", blind)
    assert windows(state.fast, k) is None


@torch.no_grad()
def test_dense_networks_have_no_windows():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU())
    state = relaxation_state(model.requires_grad_(False), SHAPE)
    assert all(state.windows.of(k) is None for k in state.fast.preactivations)


@pytest.mark.parametrize("chunk_numbers", [1, 30, 10_000])
def test_groups_have_every_row_under_its_own_key(chunk_numbers):
    keys = torch.tensor([3, 0, 3, 7, 3, 0, 3, 3, 9])
    met = []
    for names, rows in grouped(keys, 10, chunk_numbers):
        assert (keys[rows] == names[:, None]).all()
        assert (names.diff() >= 0).all()
        assert rows.numel() * 10 <= max(10, chunk_numbers)
        met += rows.flatten().tolist()
    assert set(met) == set(range(len(keys)))


def exact(row, vector):
    return sum(
        (Fraction(a) * Fraction(b) for a, b in zip(row.tolist(), vector.tolist(), strict=True)),
        Fraction(0),
    )


@pytest.mark.parametrize("n", [5, 64, 65, 300])
def test_inner_products_err_by_no_more_than_their_share(n):
    rows, vectors = normal(2, 3, n, seed=1).float(), normal(2, 1, n, seed=2)
    found = inner_products.inner_products(rows, vectors)
    share = inner_products.rounding_share(rows)
    most = inner_products.abs_products(rows.abs(), vectors.abs())
    for g in range(2):
        for i in range(3):
            wanted = exact(rows[g, i], vectors[g, 0])
            size = exact(rows[g, i].abs(), vectors[g, 0].abs())
            assert abs(Fraction(float(found[g, 0, i])) - wanted) <= Fraction(share) * size
            assert Fraction(float(most[g, 0, i])) >= size
    # The negative control: one sum in float32 of numbers that cancel errs by more than the share
    # of the sum itself.
    rows = torch.tensor([[[1e8] + [1.0] * (n - 2) + [-1e8]]])
    alone = float((rows * 1.0).sum())
    if n > 64:
        assert abs(alone - (n - 2)) > share * (n - 2)


@torch.no_grad()
def test_bounds_over_boxes_lie_below_all_corners():
    rows, lower = normal(3, 4, 6, seed=3).float(), normal(3, 6, seed=4)
    upper = lower + uniform(3, 6, seed=5)
    found = inner_products.box_minimum(rows, lower, upper)
    corners = torch.where(rows.double() > 0, lower[:, None], upper[:, None])
    least = (rows.double() * corners).sum(dim=2)
    assert (found <= least).all()
    assert (found >= least - 1e-4).all()
    # The negative control: the middles lie above.
    assert ((rows.double() * (lower + upper)[:, None] / 2).sum(dim=2) > least).all()


FAN_OUTS = {
    "convolution": lambda: nn.Conv2d(1, 5, 3, padding=1),
    "strided": lambda: nn.Conv2d(1, 5, 5, stride=2, padding=2),
    "dilated": lambda: nn.Conv2d(1, 5, 3, stride=2, dilation=2, padding=2),
    "transposed": lambda: nn.ConvTranspose2d(1, 5, 3, stride=2),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 300)),
}


@pytest.mark.parametrize("layer", FAN_OUTS)
@torch.no_grad()
def test_adjoints_allow_for_sums_over_all_outputs_of_an_input(layer):
    state = relaxation_state(nn.Sequential(FAN_OUTS[layer](), nn.Flatten()), SHAPE)
    node = next(node for node in state.fast.nodes if node.n_summands)
    units = torch.eye(torch.Size(node.shape).numel())
    (matrix,) = node.adjoint(units.view(-1, *node.shape))
    most = int((matrix.flatten(1) != 0).sum(dim=0).max())
    assert most <= node.adjoint_units <= 2 * most + node.n_summands + 4
    # The negative control: an output has fewer summands than that.
    assert node.n_summands < most or layer == "transposed"
