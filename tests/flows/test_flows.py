"""Flows against exact Jacobians and singular values, in float64; caching and freezing."""

import copy
import itertools
import math
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.samples import normal
from torch import nn
from torch.nn import functional as F

from robustbench_dyn.errors import CertificateError
from robustbench_dyn.flows import (
    AlmostOrthogonalConv,
    AlmostOrthogonalLinear,
    CachedParametrization,
    Classifier,
    ConvGradientStep,
    DenseGradientStep,
    EulerStep,
    GradientStep,
    MaxMin,
    OrthonormalGradientStep,
    PeriodicConv,
    UnitRowLinear,
    ZeroPadChannels,
    lipschitz_bound,
    pairwise_lipschitz,
)
from robustbench_dyn.flows.periodic import gram_range
from robustbench_dyn.lipschitz import norms
from robustbench_dyn.lipschitz.norms import (
    abs_gram,
    composed_kernel,
    conv_norm,
    diagonal_bound,
    gram_iteration,
    matrix_norm,
    perron_bound,
    polyphase,
    symbol_norm,
)
from robustbench_dyn.models.freezing import frozen_eval

few = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 10_000)
# An exact singular value carries a few float64 roundings itself.
SVD_ROUNDING = 1e-12


def spectral_norm(matrix):
    return float(np.linalg.norm(matrix.detach().numpy(), ord=2))


def materialise(module, input_shape):
    """Return the matrix of an affine module, in float64."""
    module = copy.deepcopy(module).double()
    n = math.prod(input_shape)
    inputs = torch.cat([torch.zeros(1, n), torch.eye(n)]).double().view(-1, *input_shape)
    with torch.no_grad():
        outputs = module(inputs).flatten(1)
    return (outputs[1:] - outputs[0]).T


def under_estimates(bound, matrix):
    """Say whether a claimed upper bound lies below the exact norm; NaN is no bound."""
    return not bound >= spectral_norm(matrix) * (1 - SVD_ROUNDING)


# Norms of matrices


def power_iteration(matrix, start, n_iterations):
    for _ in range(n_iterations):
        start = matrix.T @ (matrix @ start)
        start = start / start.norm()
    return float((matrix @ start).norm())


@few
@given(seeds, st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.floats(-30, 30))
def test_gram_iteration_is_a_tight_upper_bound(seed, rows, columns, rank, exponent):
    matrix = normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 1) * 10**exponent
    bound = gram_iteration(matrix)
    assert not under_estimates(bound, matrix)
    # The Frobenius norm of the 2^9th power of singular values, of which there are at most rank.
    assert bound <= spectral_norm(matrix) * 12 ** (1 / 2**9) * (1 + 1e-9)


@few
@given(seeds)
def test_each_gram_iteration_is_an_upper_bound_and_falls(seed):
    matrix = normal(12, 9, seed=seed)
    bounds = [gram_iteration(matrix, n_iterations=n) for n in range(1, 12)]
    assert not any(under_estimates(bound, matrix) for bound in bounds)
    assert bounds[1] < bounds[0]
    # The last ones agree but for rounding.
    assert all(b <= a * (1 + SVD_ROUNDING) for a, b in pairwise(bounds))


def test_one_gram_iteration_is_not_tight():
    matrix = normal(64, 64)
    assert gram_iteration(matrix, n_iterations=1) > 1.15 * spectral_norm(matrix)
    assert gram_iteration(matrix) < 1.01 * spectral_norm(matrix)


def test_power_iteration_under_estimates_and_is_rejected():
    matrix = torch.diag(torch.tensor([3.0, 1.0, 0.5]).double())
    assert power_iteration(matrix, torch.tensor([0.0, 1.0, 1.0]).double(), 100) <= 1.0
    assert under_estimates(
        power_iteration(matrix, torch.tensor([0.0, 1.0, 1.0]).double(), 100), matrix
    )
    assert under_estimates(power_iteration(normal(64, 64), normal(64, seed=1), 5), normal(64, 64))
    assert not under_estimates(gram_iteration(matrix), matrix)
    assert under_estimates(math.nan, matrix)


def test_gram_iteration_of_special_matrices():
    assert gram_iteration(torch.zeros(3, 5)) == 0.0
    assert gram_iteration(torch.eye(7)) == pytest.approx(1.0, rel=0.004)
    for bad in (math.nan, math.inf):
        weight = torch.eye(3)
        weight[1, 2] = bad
        assert not gram_iteration(weight) < math.inf


def near_orthonormal(rows, columns, residual, *, seed=0):
    long = normal(max(rows, columns), min(rows, columns), seed=seed)
    matrix = torch.linalg.qr(long).Q + residual * normal(*long.shape, seed=seed + 1)
    return matrix if rows >= columns else matrix.T


@few
@given(seeds, st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 1e-3, 0.0]))
def test_the_matrix_bound_is_exact_for_orthonormal_matrices(seed, rows, columns, residual):
    matrix = near_orthonormal(rows, columns, residual, seed=seed)
    assert not under_estimates(matrix_norm(matrix), matrix)
    assert matrix_norm(matrix) <= gram_iteration(matrix)
    if residual == 0.0:
        assert matrix_norm(matrix) == pytest.approx(1.0, abs=1e-9)
    # Gram iteration, alone, is off by the rank.
    assert gram_iteration(torch.eye(64)) > 1.003


@few
@given(seeds, st.integers(1, 9), st.floats(0, 1))
def test_the_perron_bound_falls_with_iterations_and_holds(seed, n, sparsity):
    matrix = normal(n, n, seed=seed).abs()
    matrix = matrix * (normal(n, n, seed=seed + 1).abs() > sparsity)
    matrix = matrix + matrix.T
    radius = float(torch.linalg.eigvalsh(matrix).abs().max())
    bounds = [perron_bound(matrix, n_iterations=k) for k in (1, 2, 4, 20, 200)]
    assert all(bound >= radius * (1 - SVD_ROUNDING) for bound in bounds)
    assert all(b <= a for a, b in pairwise(bounds))
    assert bounds[0] == pytest.approx(float(matrix.sum(dim=1).max()))


def test_the_perron_bound_of_special_matrices():
    assert perron_bound(torch.zeros(3, 3).double()) == 0.0
    # Two blocks, the second of which fades from the iteration.
    blocks = torch.block_diag(torch.full((3, 3), 2.0), torch.ones(2, 2), torch.zeros(1, 1)).double()
    assert perron_bound(blocks) == pytest.approx(6.0)
    # Row sums 11 and 3; the radius is 1 + sqrt(20), towards which the ratio of -0.63 converges.
    lopsided = torch.tensor([[1.0, 10.0], [2.0, 1.0]]).double()
    assert perron_bound(lopsided, n_iterations=1) == pytest.approx(11.0)
    assert perron_bound(lopsided) == pytest.approx(1 + 20**0.5, rel=1e-3)
    lopsided[0, 1] = math.nan
    assert math.isnan(perron_bound(lopsided))


# Norms of convolutions

CONVOLUTIONS = [
    (kernel, stride, padding)
    for kernel in (1, 2, 3, (3, 1), 5)
    for stride in (1, 2)
    for padding in (0, 1, 2)
]


def convolution(kernel=3, stride=1, padding=1, *, seed=0, channels=(2, 3), constant=False):
    conv = nn.Conv2d(*channels, kernel, stride=stride, padding=padding)
    weight = torch.ones(conv.weight.shape) if constant else normal(*conv.weight.shape, seed=seed)
    conv.weight.data.copy_(weight)
    return conv


@pytest.mark.parametrize(("kernel", "stride", "padding"), CONVOLUTIONS)
@pytest.mark.parametrize("constant", [False, True])
def test_conv_bound_is_an_upper_bound_of_the_materialised_norm(kernel, stride, padding, constant):
    conv = convolution(kernel, stride, padding, constant=constant)
    for size in (5, 8):
        assert not under_estimates(lipschitz_bound(conv), materialise(conv, (2, size, size)))


@few
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]))
def test_conv_bound_is_an_upper_bound_for_any_channels(seed, n_in, n_out, kernel):
    conv = convolution(kernel, 1, kernel // 2, seed=seed, channels=(n_in, n_out))
    matrix = materialise(conv, (n_in, 6, 6))
    assert not under_estimates(conv_norm(conv.weight), matrix)
    # Never a vacuous bound: sqrt(kh kw) times the reshaped norm is one of the candidates.
    assert conv_norm(conv.weight) <= kernel * 1.01 * spectral_norm(conv.weight.flatten(1))


def test_conv_bound_is_tight_where_it_can_be():
    one_by_one = convolution(1, 1, 0)
    assert conv_norm(one_by_one.weight) <= 1.01 * spectral_norm(one_by_one.weight.flatten(1))
    positive = convolution(3, 1, 1, channels=(1, 1), constant=True)
    # A constant kernel approaches its sum, 9, as images grow.
    assert spectral_norm(materialise(positive, (1, 14, 14))) > 0.95 * 9
    assert conv_norm(positive.weight) == pytest.approx(9)
    delta = torch.zeros(4, 4, 3, 3)
    delta[:, :, 1, 1] = torch.linalg.qr(normal(4, 4)).Q
    assert conv_norm(delta) <= 3 * 1.01
    delta[:, :, 1, 1] = torch.eye(4)
    assert conv_norm(delta) == pytest.approx(1.0)


SIZES = [(1, 1), (3, 3), (2, 4), (5, 5)]


def largest_on_grid(kernel, points):
    """Return the largest norm of a kernel's symbol on a grid, by exact singular values."""
    symbols = np.fft.fft2(kernel.double().numpy(), (points, points), axes=(2, 3))
    return float(np.linalg.norm(symbols.transpose(2, 3, 0, 1), ord=2, axis=(2, 3)).max())


@few
@given(
    seeds, st.integers(1, 5), st.integers(1, 5), st.sampled_from([(1, 1), (3, 3), (2, 4), (5, 5)])
)
def test_the_symbols_bound_is_tight_over_all_frequencies(seed, n_in, n_out, size):
    kernel = normal(n_out, n_in, *size, seed=seed)
    fine = largest_on_grid(kernel, 120)
    # Half a percent an axis for the grid, and rank^(1/2^9) for Gram iteration.
    assert fine * (1 - SVD_ROUNDING) <= symbol_norm(kernel) <= fine * 1.005**2 * 5 ** (1 / 2**9)
    assert conv_norm(kernel) <= symbol_norm(kernel) * (1 + SVD_ROUNDING)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_what_the_grid_misses_is_covered_where_it_misses_most(share):
    # The symbol's singular values are abs(cos(t - s)) and abs(cos(t + s)): 1 at t = s, and squared
    # the very polynomial for which the correction is sharp. The grid has 32 points.
    s = share * 2 * math.pi / 32
    turn = torch.tensor([[math.cos(s), -math.sin(s)], [math.sin(s), math.cos(s)]]).double()
    kernel = torch.zeros(2, 2, 1, 3).double()
    kernel[:, :, 0, 0], kernel[:, :, 0, 2] = turn.T / 2, turn / 2
    assert 1 <= symbol_norm(kernel) <= 1.0049 * 2 ** (1 / 2**9)
    if share == 0.5:
        assert largest_on_grid(kernel, 32) == pytest.approx(math.cos(math.pi / 32))
        assert 1 <= symbol_norm(kernel) <= 2 ** (1 / 2**9)


def test_the_largest_norm_on_a_coarse_grid_is_no_bound():
    caught = 0
    for seed in range(20):
        kernel = normal(2, 2, 3, 3, seed=seed)
        conv = convolution(3, 1, 1, seed=seed, channels=(2, 2))
        conv.weight.data.copy_(kernel)
        matrix = materialise(conv, (2, 12, 12))
        caught += under_estimates(largest_on_grid(kernel, 4), matrix)
        assert not under_estimates(symbol_norm(kernel), matrix)
    assert caught > 5


def test_an_image_of_one_size_does_not_bound_another():
    # On a circle of 6 pixels the symbol is known at 6 frequencies only; abs(1 + 2i sin t) peaks
    # between them.
    kernel = torch.tensor([1.0, 1.0, -1.0]).double()[None, None, None]
    circular_on_six = largest_on_grid(kernel, 6)
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False)
    conv.weight.data.copy_(kernel)
    matrix = materialise(conv, (1, 1, 20))
    assert under_estimates(circular_on_six, matrix)
    assert not under_estimates(conv_norm(kernel), matrix)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 3), (1, 2), (2, 1)])
@pytest.mark.parametrize("size", [(3, 3), (4, 4), (2, 5), (1, 1)])
def test_strided_and_transposed_bounds_hold_and_are_tight(stride, size):
    conv = nn.Conv2d(2, 3, size, stride=stride, padding=1)
    conv.weight.data.copy_(normal(3, 2, *size))
    back = nn.ConvTranspose2d(3, 2, size, stride=stride, padding=1, output_padding=0)
    back.weight = conv.weight
    bound = lipschitz_bound(conv)
    assert lipschitz_bound(back) == bound
    matrix = materialise(conv, (2, 14, 14))
    assert not under_estimates(bound, matrix)
    assert not under_estimates(bound, materialise(back, (3, 7, 7)))
    # Images of this size come within a tenth of the norm on infinite ones.
    assert bound <= 1.1 * spectral_norm(matrix)


def test_the_bound_of_stride_two_is_below_that_of_stride_one():
    kernel = normal(4, 2, 4, 4)
    assert conv_norm(kernel, stride=(2, 2)) < 0.8 * conv_norm(kernel)
    conv = nn.Conv2d(2, 4, 4, padding=1)
    conv.weight.data.copy_(kernel)
    assert under_estimates(conv_norm(kernel, stride=(2, 2)), materialise(conv, (2, 8, 8)))


def test_polyphase_is_the_same_convolution_on_phases():
    x, kernel = normal(5, 2, 12, 8), normal(3, 2, 5, 4)
    direct = nn.functional.conv2d(x, kernel, stride=(3, 2))
    phases = x.reshape(5, 2, 4, 3, 4, 2).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    by_phases = nn.functional.conv2d(phases, polyphase(kernel, (3, 2)))
    torch.testing.assert_close(by_phases, direct)


def orthogonal_kernel(channels, residual=0.0):
    """Return shifts of rotated channels, an orthogonal convolution, and what is left of it."""
    kernel = torch.zeros(channels, channels, 3, 3).double()
    rotation = torch.linalg.qr(normal(channels, channels)).Q
    for channel in range(channels):
        kernel[channel, :, channel % 3, channel // 3 % 3] = rotation[channel]
    return kernel + residual * normal(*kernel.shape)


@pytest.mark.parametrize("channels", [4, 24, 48])
def test_orthogonal_convolutions_have_a_bound_near_one(channels):
    assert conv_norm(orthogonal_kernel(channels)) == pytest.approx(1.0, abs=1e-9)
    residual = orthogonal_kernel(channels, residual=1e-3)
    assert conv_norm(residual) > 1.005


def test_a_residual_that_a_library_overlooks_is_in_the_bound():
    kernel = orthogonal_kernel(4, residual=1e-2)
    exact = largest_on_grid(kernel, 64)
    assert exact > 1.01
    assert exact * (1 - SVD_ROUNDING) <= conv_norm(kernel) <= 1.02 * exact


def iterated_norm(kernel, pixels=16, steps=60):
    """Return a lower bound of a convolution's norm, on images of some pixels."""
    kernel, x = kernel.float(), normal(1, kernel.shape[1], pixels, pixels).float()
    for _ in range(steps):
        y = nn.functional.conv2d(x / x.norm(), kernel, padding=kernel.shape[2] // 2)
        x = nn.functional.conv_transpose2d(y, kernel, padding=kernel.shape[2] // 2)
    return float(y.norm())


@pytest.mark.parametrize("points", [16, 8, 4])
@pytest.mark.parametrize("size", [(3, 3), (2, 4), (5, 5)])
def test_coarser_grids_bound_what_lies_between_their_points(points, size, monkeypatch):
    monkeypatch.setattr(norms, "_POINTS_A_DEGREE", (points,))
    missed = 0
    for seed in range(6):
        kernel = normal(3, 2, *size, seed=seed)
        # On a circle, the norm is that of the symbols at its frequencies: of circulant operators.
        fine = largest_on_grid(kernel, 120)
        correction = norms._between(list(size), points)
        assert fine * (1 - SVD_ROUNDING) <= symbol_norm(kernel)
        assert symbol_norm(kernel) <= fine * correction * 2 ** (1 / 2**9) * 1.0001
        # The negative control: the grid's own largest norm misses it.
        missed += symbol_norm(kernel) / correction < fine * (1 - SVD_ROUNDING)
    assert points == 16 or missed > 0


def test_the_grid_is_as_fine_as_seconds_allow(monkeypatch):
    kernel = normal(8, 8, 3, 3)
    by_products = []
    for products in (8**3 * 32**2 // 2, 8**3 * 16**2, 8**3 * 8**2):
        monkeypatch.setattr(norms, "_MAX_PRODUCTS", products)
        by_products.append(symbol_norm(kernel))
        assert by_products[-1] >= iterated_norm(kernel)
    assert by_products == sorted(by_products)
    monkeypatch.setattr(norms, "_MAX_PRODUCTS", 8**3 * 8**2 - 1)
    assert symbol_norm(kernel) == math.inf
    assert conv_norm(kernel) <= 3 * 1.01 * spectral_norm(kernel.flatten(1))


@pytest.mark.slow
def test_a_wide_convolution_gets_a_bound_near_its_norm():
    # Gram iteration on the reshaped kernel alone gives four times as much.
    kernel = normal(64, 64, 7, 7).float() / 56
    assert iterated_norm(kernel, pixels=24) <= conv_norm(kernel) <= 2.2
    reshaped = 7 * spectral_norm(kernel.double().flatten(1))
    assert reshaped > 3 * conv_norm(kernel)


def test_the_symbols_bound_does_not_depend_on_the_chunks(monkeypatch):
    kernel = normal(3, 2, 3, 3)
    whole = symbol_norm(kernel)
    for entries in (1, 100):
        monkeypatch.setattr("robustbench_dyn.lipschitz.norms._MAX_CHUNK", entries)
        assert symbol_norm(kernel) == pytest.approx(whole, rel=1e-12)
    # Nor does a frequency at which it is no number get lost among the others.
    kernel[1, 1, 0, 0] = math.nan
    assert math.isnan(symbol_norm(kernel))


def test_a_kernel_that_is_zero_at_some_frequencies_has_a_bound():
    difference = torch.tensor([1.0, -1.0]).double()[None, None, None]
    assert symbol_norm(difference) == pytest.approx(2.0, rel=0.006)
    assert conv_norm(torch.zeros(2, 3, 3, 3)) == 0.0


def test_the_autocorrelation_bounds_by_rows_and_by_columns():
    tall = near_orthonormal(6, 2, 0.0)[:, :, None, None]
    assert conv_norm(tall) == pytest.approx(1.0, abs=1e-9)
    # By rows alone it would not be: six rows cannot be orthogonal in two dimensions.
    assert perron_bound(abs_gram(tall)) > 1.05


def test_the_norm_of_the_reshaped_kernel_is_rejected_as_a_bound():
    conv = convolution(3, 1, 1, constant=True)
    matrix = materialise(conv, (2, 8, 8))
    assert under_estimates(spectral_norm(conv.weight.flatten(1)), matrix)
    assert not under_estimates(conv_norm(conv.weight), matrix)


# Gradient steps


def randomised(step, seed, *, log_q=1.0, scale=1.0):
    """Give a step any weights, biases and q."""
    with torch.no_grad():
        step.weight.copy_(scale * normal(*step.weight.shape, seed=seed))
        step.bias.copy_(normal(*step.bias.shape, seed=seed + 1))
        step.log_q.copy_(log_q * normal(*step.log_q.shape, seed=seed + 2))
    return step


def orthonormal(seed=0, features=9, terms=5):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        step = OrthonormalGradientStep(features, terms)
    step.bias.data.copy_(normal(terms, seed=seed))
    return step


def expansion_fault(step, input_shape, *, bound=None, n_points=4):
    """Say how a step fails to be 1-Lipschitz; "" if it is, by its bound and at the points tried.

    The Jacobian is exact for the weights and the derived diagonal as they are in float32.
    """
    bound = lipschitz_bound(step) if bound is None else bound
    if not bound <= 1 + 1e-4:
        return "bound"
    exact = copy.deepcopy(step).double()
    if isinstance(step, CachedParametrization):
        kept = step.value().detach().double()
        exact.value = lambda: kept
    n = math.prod(input_shape)
    for k in range(n_points):
        x = 10 ** (k - 1.0) * normal(*input_shape, seed=k)
        jacobian = torch.func.jacrev(lambda x: exact(x[None])[0])(x).reshape(n, n)
        if under_estimates(bound, jacobian):
            return "jacobian"
    return ""


@few
@given(seeds, st.sampled_from([(5, 3), (4, 9), (1, 1)]), st.floats(0, 3), st.floats(-6, 6))
def test_dense_gradient_step_is_nonexpansive(seed, shape, log_q, exponent):
    step = randomised(DenseGradientStep(*shape), seed, log_q=log_q, scale=10**exponent)
    assert expansion_fault(step, shape[:1]) == ""


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("channels", "terms"), [(2, 5), (3, 1)])
def test_conv_gradient_step_is_nonexpansive(kernel_size, channels, terms):
    for seed in range(3):
        step = ConvGradientStep(channels, terms, kernel_size=kernel_size)
        randomised(step, seed, log_q=float(seed))
        assert expansion_fault(step, (channels, 4, 5)) == ""


@few
@given(seeds, st.sampled_from([(9, 5), (6, 6), (1, 1)]))
def test_orthonormal_gradient_step_is_nonexpansive(seed, shape):
    assert expansion_fault(orthonormal(seed, *shape), shape[:1]) == ""


class DoubledDense(DenseGradientStep):
    def compute(self):
        return 2 * super().compute()


class DoubledConv(ConvGradientStep):
    def compute(self):
        return 2 * super().compute()


class DoubledOrthonormal(OrthonormalGradientStep):
    step_size = 2 * OrthonormalGradientStep.step_size


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        (DoubledDense(9, 5), (9,)),
        (DoubledConv(4, 3, kernel_size=1), (4, 3, 3)),
        (DoubledOrthonormal(9, 5), (9,)),
    ],
)
def test_a_doubled_step_shows_in_its_bound_and_its_jacobian(step, shape):
    assert expansion_fault(step, shape) == "bound"
    assert expansion_fault(step, shape, bound=1.0 + 1e-4) == "jacobian"
    # Its own bound says by how much it expands, and is still an upper bound.
    assert lipschitz_bound(step) == pytest.approx(3.0, rel=1e-3)


@few
@given(seeds, st.sampled_from([1.0, 1.5, 2.0]))
def test_the_bound_of_a_step_that_is_too_long_still_holds(seed, factor):
    step = randomised(DenseGradientStep(6, 4), seed)
    exact = copy.deepcopy(step).double()
    too_long = factor * step.value().detach().double()
    step.value = exact.value = lambda: too_long
    jacobian = torch.func.jacrev(lambda x: exact(x[None])[0])(normal(6, seed=seed))
    assert not under_estimates(lipschitz_bound(step), jacobian)
    assert (lipschitz_bound(step) > 1.5) == (factor > 1.4)


def loses_positivity(diagonal, matrix):
    """Say whether diag(T) - W W^T has a negative eigenvalue."""
    gap = torch.diag(diagonal) - matrix @ matrix.T
    return float(torch.linalg.eigvalsh(gap).min()) < -1e-9 * float(diagonal.max())


@few
@given(seeds)
def test_the_diagonal_exceeds_the_gram_matrix(seed):
    q = normal(6, seed=seed).exp()
    dense = normal(6, 4, seed=seed + 1)
    assert not loses_positivity(diagonal_bound(dense, q), dense)
    conv = convolution(3, 1, 1, seed=seed, channels=(2, 6))
    diagonal = diagonal_bound(conv.weight.detach().double(), q)
    # Rows of the matrix are (term, position); borders included.
    assert not loses_positivity(diagonal.repeat_interleave(25), materialise(conv, (2, 5, 5)))


def test_the_diagonal_is_its_formula_and_depends_on_q():
    weight, q = normal(6, 4), normal(6, seed=1).exp()
    gram, q_row = np.abs(weight.numpy() @ weight.numpy().T), q.numpy()
    expected = [sum(gram[i, j] * q_row[j] / q_row[i] for j in range(6)) for i in range(6)]
    np.testing.assert_allclose(diagonal_bound(weight, q).numpy(), expected, rtol=1e-12)
    assert not torch.allclose(
        diagonal_bound(weight, torch.ones(6).double()), torch.tensor(expected)
    )
    # On a 1 x 1 image with a 1 x 1 kernel, the convolution is the matrix.
    as_kernel = diagonal_bound(weight[:, :, None, None], q)
    np.testing.assert_allclose(as_kernel.numpy(), expected, rtol=1e-12)


def test_the_diagonal_of_the_gram_matrix_alone_is_rejected():
    matrix = normal(6, 4)
    assert loses_positivity(matrix.square().sum(dim=1), matrix)


@pytest.mark.parametrize("make", [lambda: DenseGradientStep(5, 7), lambda: ConvGradientStep(2, 7)])
def test_a_dead_term_adds_nothing(make):
    step, shape = randomised(make(), 0), (3, 5) if make().weight.dim() == 2 else (3, 2, 4, 4)
    with torch.no_grad():
        step.weight[3] = 0.0
        others = copy.deepcopy(step)
        keep = [0, 1, 2, 4, 5, 6]
        for name in ("weight", "bias", "log_q"):
            setattr(others, name, nn.Parameter(getattr(step, name)[keep]))
        x = normal(*shape).float()
        torch.testing.assert_close(step(x), others(x))
        assert not torch.allclose(step(x), x)
        step.weight.zero_()
        assert torch.equal(step(x), x)
    assert lipschitz_bound(step) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_have_no_bound(bad):
    for step in (
        DenseGradientStep(4, 3),
        ConvGradientStep(2, 3),
        orthonormal(0, 4, 3),
        nn.Linear(4, 3),
        nn.Conv2d(2, 3, 3),
    ):
        assert math.isfinite(lipschitz_bound(step))
        step.weight.data.view(-1)[1] = bad
        assert not math.isfinite(lipschitz_bound(step)), type(step).__name__


def test_gradient_steps_descend_their_potential():
    step = randomised(DenseGradientStep(6, 4), 0).double()
    x = normal(50, 6)

    def potential(x):
        terms = torch.relu(x @ step.weight.T + step.bias).square() / 2
        return (terms * step.value()).sum(dim=1)

    moved = step(x)
    (gradient,) = torch.autograd.grad(potential(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(moved, x - gradient)
    assert (potential(moved) <= potential(x) + 1e-12).all()
    assert (potential(x + gradient) > potential(x)).any()


# Almost-orthogonal layers


def almost_orthogonal(seed=0, *, n_in=3, n_out=4, kernel_size=3, scale=1.0):
    """Return a convolution and a dense layer with any weights."""
    conv = AlmostOrthogonalConv(n_in, n_out, kernel_size=kernel_size)
    dense = AlmostOrthogonalLinear(n_in, n_out)
    for layer in (conv, dense):
        layer.weight.data.copy_(scale * normal(*layer.weight.shape, seed=seed))
    return conv, dense


@few
@given(seeds, st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 5]), st.floats(-4, 4))
def test_almost_orthogonal_layers_are_nonexpansive(seed, n_in, n_out, kernel_size, exponent):
    conv, dense = almost_orthogonal(
        seed, n_in=n_in, n_out=n_out, kernel_size=kernel_size, scale=10**exponent
    )
    for layer, shape in ((conv, (n_in, 6, 6)), (dense, (n_in,))):
        # float32 weights miss 1 by their rounding.
        assert lipschitz_bound(layer) <= 1 + 1e-5
        assert not under_estimates(lipschitz_bound(layer) + 1e-6, materialise(layer, shape))


def test_almost_orthogonal_layers_are_their_formula():
    _, dense = almost_orthogonal()
    weight = dense.weight.detach().double().numpy()
    scales = [
        1 / math.sqrt(sum(abs(weight[:, i] @ weight[:, j]) for j in range(3))) for i in range(3)
    ]
    np.testing.assert_allclose(dense.value().detach().numpy(), weight * scales, rtol=1e-5)
    start, square = AlmostOrthogonalConv(3, 3), torch.eye(3)
    x = normal(2, 3, 5, 5).float()
    torch.testing.assert_close(start(x), x)
    np.testing.assert_allclose(start.value()[:, :, 1, 1].detach(), square)


def test_a_scale_by_the_norms_of_single_columns_is_rejected():
    class Normalised(AlmostOrthogonalLinear):
        def compute(self):
            return nn.functional.normalize(self.weight, dim=0)

    layer = Normalised(3, 4)
    layer.weight.data.copy_(normal(4, 3))
    assert lipschitz_bound(layer) > 1.1
    assert under_estimates(1.0, materialise(layer, (3,)))


# Orthonormal weights


def orthonormality_defect(step):
    weight = step.weight.detach().double()
    return float((weight @ weight.T - torch.eye(len(weight)).double()).abs().max())


@few
@given(seeds, st.floats(0, 0.3))
def test_retract_restores_orthonormality(seed, size):
    step = orthonormal(seed)
    with torch.no_grad():
        step.weight.add_(size * normal(*step.weight.shape, seed=seed).float())
    before = step.weight.detach().clone()
    step.retract()
    # float32 rows of length 9, through a well-conditioned Cholesky factor
    assert orthonormality_defect(step) < 1e-5
    assert lipschitz_bound(step) <= 1 + 1e-4
    assert expansion_fault(step, (9,)) == ""
    # A retraction moves within the span of the rows, and keeps the first row's direction.
    inside = before @ step.weight.T @ step.weight
    torch.testing.assert_close(inside, before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(step.weight[0], before[0] / before[0].norm(), rtol=0, atol=1e-5)


def test_normalised_rows_are_no_retraction():
    step = orthonormal()
    with torch.no_grad():
        step.weight.add_(0.2 * normal(*step.weight.shape).float())
        step.weight.copy_(nn.functional.normalize(step.weight, dim=1))
    assert orthonormality_defect(step) > 0.05
    assert expansion_fault(step, (9,)) == "bound"


def test_scaled_orthonormal_weights_show_in_the_bound():
    step = orthonormal()
    kept = step.weight
    with torch.no_grad():
        step.weight.mul_(1.05)
    # |I - 2 * 1.05^2 w w^T| = 2 * 1.1025 - 1
    assert lipschitz_bound(step) == pytest.approx(1.205, abs=1e-3)
    assert expansion_fault(step, (9,)) == "bound"
    assert expansion_fault(step, (9,), bound=1.0 + 1e-4) == "jacobian"
    step.retract()
    assert expansion_fault(step, (9,)) == ""
    assert step.weight is kept
    assert step.weight.requires_grad


def test_more_orthonormal_terms_than_features_are_refused():
    with pytest.raises(ValueError, match="6 orthonormal rows do not fit into 5 dimensions"):
        OrthonormalGradientStep(5, 6)
    OrthonormalGradientStep(5, 5)


# CachedParametrization tensors


class Counted(CachedParametrization):
    """Derives twice its weight, and counts how often."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.n_derived = 0

    def compute(self):
        self.n_derived += 1
        return 2 * self.weight


class Stale(Counted):
    def value(self):
        if self._cache is None:
            self._cache = (), self.compute()
        return self._cache[1]


class Forgetful(Counted):
    def value(self):
        return self.compute()


class Detached(Counted):
    def value(self):
        return super().value().detach()


def caching_fault(kind):
    """Say which rule of caching a class breaks; "" if none."""
    module = kind()
    for n in (1, 2):
        if not module.value().requires_grad or module.n_derived != n:
            return "training"
    with frozen_eval(module):
        first = module.value()
        if module.value() is not first or module.n_derived != 3:
            return "not kept"
        with torch.no_grad():
            module.weight.mul_(3)
        if module.value().tolist() != [6, 6]:
            return "stale after a change in place"
        module.load_state_dict({"weight": torch.full((2,), 5.0)})
        if module.value().tolist() != [10, 10]:
            return "stale after loading"
        module.double()
        if module.value().dtype is not torch.float64:
            return "stale after a move"
    with torch.no_grad():
        module.weight.add_(1)
    return "" if module.value().tolist() == [12, 12] else "stale in training"


def test_derived_tensors_are_kept_while_frozen_and_never_stale():
    assert caching_fault(Counted) == ""


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(Stale, "training"), (Forgetful, "not kept"), (Detached, "training")],
)
def test_bad_caches_are_caught(kind, fault):
    assert caching_fault(kind) == fault


def test_a_cache_that_never_looks_again_is_caught():
    class StaleWhenFrozen(Stale):
        def value(self):
            if self.weight.requires_grad:
                return self.compute()
            return super().value()

    assert caching_fault(StaleWhenFrozen) == "stale after a change in place"


def test_a_tensor_cached_in_inference_mode_serves_gradients():
    step = DenseGradientStep(4, 3)
    x = normal(2, 4).float()
    with frozen_eval(step):
        with torch.inference_mode():
            step(x)
        (gradient,) = torch.autograd.grad(step(x.requires_grad_()).sum(), x)
    (expected,) = torch.autograd.grad(step(x).sum(), x)
    assert torch.equal(gradient, expected)


def test_a_derived_module_must_say_what_it_derives():
    with pytest.raises(TypeError, match=r"CachedParametrization must define compute\(\)"):
        CachedParametrization().value()


def mixed_model():
    dropout = nn.Dropout()
    # The dropout is shared, in eval mode, with a container in training mode.
    model = nn.Sequential(nn.Linear(3, 3), dropout, nn.Sequential(dropout), nn.Linear(3, 3))
    model.train()
    dropout.eval()
    model[0].bias.requires_grad_(False)
    return model


def freezing_fault(manager, *, fail):
    """Say what a freezing context manager leaves behind; "" if nothing."""
    model = mixed_model()
    modes = [module.training for module in model.modules()]
    wishes = [parameter.requires_grad for parameter in model.parameters()]
    try:
        with manager(model) as given_model:
            if given_model is not model:
                return "another model"
            if any(module.training for module in model.modules()):
                return "not in eval mode"
            if any(parameter.requires_grad for parameter in model.parameters()):
                return "not frozen"
            if fail:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    if [module.training for module in model.modules()] != modes:
        return "modes"
    if [parameter.requires_grad for parameter in model.parameters()] != wishes:
        return "requires_grad"
    return ""


@pytest.mark.parametrize("fail", [False, True])
def test_frozen_puts_modes_and_requires_grad_back(fail):
    assert freezing_fault(frozen_eval, fail=fail) == ""


def test_frozen_passes_the_exception_on():
    with pytest.raises(ZeroDivisionError), frozen_eval(mixed_model()):
        raise ZeroDivisionError


def test_careless_freezing_is_caught():
    @contextmanager
    def coarse(model):
        wishes = [parameter.requires_grad for parameter in model.parameters()]
        yield model.eval().requires_grad_(False)
        model.train()
        for parameter, wanted in zip(model.parameters(), wishes, strict=True):
            parameter.requires_grad_(wanted)

    @contextmanager
    def forgetful(model):
        with frozen_eval(model):
            yield model
        model.requires_grad_(True)

    assert freezing_fault(coarse, fail=False) == "modes"
    assert freezing_fault(coarse, fail=True) == "modes"
    assert freezing_fault(forgetful, fail=False) == "requires_grad"


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (randomised(DenseGradientStep(4, 6), 0), (5, 4)),
        (randomised(ConvGradientStep(2, 3), 0), (5, 2, 4, 4)),
        (orthonormal(), (5, 9)),
        (UnitRowLinear(4, 3), (5, 4)),
    ],
)
def test_frozen_forward_is_the_forward_of_training(module, shape):
    x = normal(*shape).float()
    in_training = module(x)
    with frozen_eval(module):
        assert torch.equal(module(x), in_training)
        assert torch.equal(module(x), in_training)
        with torch.no_grad():
            module.weight.mul_(-1)
        # UnitRowLinear turns its sign, a step its whole force: stale tensors would show.
        assert not torch.equal(module(x), in_training)
        changed = module(x)
    assert torch.equal(module(x), changed)


# Euler steps


def test_euler_step_is_its_formula():
    field = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = normal(7, 3)
    for h in (0.0, 0.3, -1.2):
        assert torch.equal(EulerStep(field, step_size=h)(x), x + h * field(x))
        bound = lipschitz_bound(EulerStep(field, step_size=h))
        assert bound == pytest.approx(1 + abs(h) * lipschitz_bound(field))
    assert not torch.equal(EulerStep(field, step_size=0.3)(x), EulerStep(field)(x))


@few
@given(seeds, st.floats(-2, 2))
def test_euler_bound_is_an_upper_bound(seed, h):
    field = nn.Linear(4, 4).double()
    field.weight.data.copy_(normal(4, 4, seed=seed))
    matrix = torch.eye(4).double() + h * field.weight
    assert not under_estimates(lipschitz_bound(EulerStep(field, step_size=h)), matrix)


def test_an_euler_bound_without_the_identity_is_rejected():
    field = nn.Linear(4, 4).double()
    field.weight.data.copy_(torch.eye(4))
    matrix = torch.eye(4).double() + 0.5 * field.weight
    assert under_estimates(0.5 * lipschitz_bound(field), matrix)


def observed_order(step):
    """Return log2 of the fall of the error at time 1 when the step is halved; x' = A x."""
    a = torch.tensor([[-0.3, 1.0], [-1.0, -0.1]]).double()
    x = torch.tensor([[1.0, 0.5]]).double()
    exact = x @ torch.linalg.matrix_exp(a).T
    errors = []
    for n in (64, 128):
        state = x
        for _ in range(n):
            state = step(a, 1 / n, state)
        errors.append(float((state - exact).norm()))
    return math.log2(errors[0] / errors[1])


def test_euler_has_order_one():
    def euler(a, h, x):
        field = nn.Linear(2, 2, bias=False).double()
        field.weight.data.copy_(a)
        with torch.no_grad():
            return EulerStep(field, step_size=h)(x)

    def midpoint(a, h, x):
        return x + h * (x + h / 2 * x @ a.T) @ a.T

    assert observed_order(euler) == pytest.approx(1.0, abs=0.05)
    assert observed_order(midpoint) == pytest.approx(2.0, abs=0.05)


# Compositions


def test_sequential_bounds_multiply_and_hold():
    parts = [nn.Linear(5, 6), nn.LeakyReLU(0.2), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)]
    model = nn.Sequential(*parts).double()
    product = math.prod(spectral_norm(part.weight) for part in parts[::2])
    assert product <= lipschitz_bound(model) <= 1.02 * product
    for k in range(5):
        jacobian = torch.func.jacrev(model)(normal(5, seed=k))
        assert not under_estimates(lipschitz_bound(model), jacobian)
    assert lipschitz_bound(nn.Sequential()) == 1.0
    nested = nn.Sequential(nn.Sequential(*parts[:2]), nn.Sequential(*parts[2:]))
    assert lipschitz_bound(nested) == pytest.approx(lipschitz_bound(model))


def test_a_bound_that_leaves_out_a_part_is_rejected():
    identity = nn.Linear(3, 3).double()
    identity.weight.data.copy_(2 * torch.eye(3))
    model = nn.Sequential(identity, identity)
    matrix = materialise(model, (3,))
    assert under_estimates(lipschitz_bound(model[:1]), matrix)
    assert not under_estimates(lipschitz_bound(model), matrix)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Identity(), (2, 4, 4)),
        (nn.Flatten(), (2, 4, 4)),
        (nn.PixelUnshuffle(2), (2, 4, 4)),
        (nn.PixelShuffle(2), (4, 2, 3)),
        (ZeroPadChannels(5), (2, 4, 4)),
    ],
)
def test_isometries_keep_every_norm(module, shape):
    assert lipschitz_bound(module) == 1.0
    singular_values = np.linalg.svd(materialise(module, shape).numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values, 1.0, rtol=1e-12)
    pooled = np.linalg.svd(materialise(nn.AvgPool2d(2), (2, 4, 4)).numpy(), compute_uv=False)
    assert not np.allclose(pooled, 1.0)


def test_zero_pad_channels_appends_zeros():
    x = normal(3, 2, 4, 4)
    lifted = ZeroPadChannels(5)(x)
    assert lifted.shape == (3, 5, 4, 4)
    assert torch.equal(lifted[:, :2], x)
    assert not lifted[:, 2:].any()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("divisor", [None, 1, 3])
def test_average_pooling_bound_is_exact(k, divisor):
    pool = nn.AvgPool2d(k, divisor_override=divisor)
    exact = spectral_norm(materialise(pool, (2, 6, 6)))
    assert lipschitz_bound(pool) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, stride=1),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
    ],
)
def test_average_pooling_where_one_over_k_is_no_bound_is_refused(pool):
    # What the bound of plain pooling would have claimed is too small for each of these.
    assert under_estimates(1 / pool.kernel_size, materialise(pool, (1, 5, 5)))
    with pytest.raises(CertificateError, match="AvgPool2d"):
        lipschitz_bound(pool)


@pytest.mark.parametrize("kernel", [1, 2, 3, (3, 2)])
def test_the_bound_of_maximum_pooling_without_overlap_is_exact(kernel):
    pool = nn.MaxPool2d(kernel)
    assert lipschitz_bound(pool) == 1.0
    x, y = normal(64, 2, 7, 7), normal(64, 2, 7, 7, seed=1)
    moved = (pool(x) - pool(y)).flatten(1).norm(dim=1)
    assert bool((moved <= (x - y).flatten(1).norm(dim=1)).all())
    # Where each window's largest entry moves, nothing is lost.
    lit = torch.zeros(1, 1, 6, 6).double()
    lit[0, 0, 0, 0] = 1.0
    assert float((pool(lit) - pool(2 * lit)).norm()) == 1.0


@pytest.mark.parametrize(
    ("options", "overlap"),
    [
        ({"stride": 1}, 9),
        ({"stride": (3, 2)}, 2),
        ({"stride": 2, "padding": 1}, 4),
        ({"dilation": 2}, 1),
        ({"stride": 2, "dilation": 2}, 9),
    ],
)
def test_the_bound_of_maximum_pooling_counts_windows_of_an_entry(options, overlap):
    pool = nn.MaxPool2d(3, **options)
    assert lipschitz_bound(pool) == pytest.approx(math.sqrt(overlap), rel=1e-15)
    # Of an entry that is the largest in all of its windows, as many outputs move.
    moved = []
    for i, j in itertools.product(range(13), repeat=2):
        x = torch.zeros(1, 1, 13, 13).double()
        x[0, 0, i, j] = 1.0
        moved.append(float((pool(2 * x) - pool(x)).square().sum()))
    assert max(moved) == overlap


@pytest.mark.parametrize(
    ("layer", "bound"), [(nn.ReLU6(), 1.0), (nn.Hardtanh(), 1.0), (nn.PReLU(init=-2.0), 2.0)]
)
def test_bounds_of_activations_with_kinks_are_their_slopes(layer, bound):
    assert lipschitz_bound(layer) == bound
    x, y = normal(1, 1, 20, 20), normal(1, 1, 20, 20, seed=1)
    layer = layer.double().requires_grad_(False)
    assert float(((layer(x) - layer(y)) / (x - y)).abs().max()) == pytest.approx(bound, abs=1e-9)


# Periodic convolutions


def periodic(seed=0, channels=(3, 3), *, noise=0.1, kernel_size=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        conv = PeriodicConv(*channels, kernel_size=kernel_size)
    with torch.no_grad():
        conv.weight.add_(noise * normal(*conv.weight.shape, seed=seed))
    return conv


def spectrum_fault(bounds, matrix):
    """Say which end of claimed bounds of the eigenvalues of A^T A is wrong, or ""."""
    values = torch.linalg.eigvalsh(matrix.mT @ matrix)
    if not bounds[0] <= float(values.min()) + 1e-12:
        return "lower"
    return "" if bounds[1] >= float(values.max()) - 1e-12 else "upper"


@pytest.mark.parametrize("size", [4, 5, 7])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("channels", [(3, 3), (2, 4), (4, 2)])
def test_the_spectrum_of_a_periodic_convolution_holds_anywhere(size, noise, channels):
    conv = periodic(channels=channels, noise=noise)
    matrix = materialise(conv, (channels[0], size, size))
    assert not spectrum_fault(conv.gram_range(), matrix)
    assert not under_estimates(lipschitz_bound(conv), matrix)
    if noise == 0.0 and channels[0] <= channels[1]:
        assert conv.gram_range() == pytest.approx((1, 1), abs=1e-6)
        assert float(conv.orthogonality_penalty().detach()) < 1e-10
    # Zero padding keeps the upper bound.
    padded = nn.Conv2d(*channels, 3, padding=1)
    padded.weight.data.copy_(conv.weight)
    upper = gram_range(padded.weight)[1]
    assert not under_estimates(math.sqrt(upper), materialise(padded, (channels[0], size, size)))


def test_zero_padding_loses_the_lower_bound():
    shift = torch.zeros(1, 1, 3, 3)
    shift[0, 0, 1, 0] = 1.0
    padded = nn.Conv2d(1, 1, 3, padding=1)
    padded.weight.data.copy_(shift)
    assert gram_range(shift)[0] == pytest.approx(1)
    assert spectrum_fault(gram_range(shift), materialise(padded, (1, 5, 5))) == "lower"


def test_the_spectrum_on_a_coarse_grid_alone_is_rejected():
    # |1 + e^it - e^2it|^2 = 3 - 2 cos 2t is largest between three equispaced frequencies.
    kernel = torch.zeros(1, 1, 1, 3)
    kernel[0, 0, 0] = torch.tensor([1.0, 1.0, -1.0])
    symbol = torch.fft.fft(kernel[0, 0].double(), n=3).abs().square()
    conv = PeriodicConv(1, 1)
    conv.weight.data.zero_()
    conv.weight.data[:, :, 1] = kernel[:, :, 0]
    matrix = materialise(conv, (1, 10, 10))
    assert spectrum_fault((float(symbol.min()), float(symbol.max())), matrix) == "upper"
    assert not spectrum_fault(gram_range(kernel), matrix)


@few
@given(seeds, st.sampled_from([(1, 3), (3, 1), (3, 3), (2, 2)]))
def test_the_range_of_the_symbol_holds_at_all_frequencies(seed, size):
    kernel = normal(2, 2, *size, seed=seed)
    low, high = gram_range(kernel)
    symbol = torch.fft.fft2(kernel, s=(61, 67)).permute(2, 3, 0, 1)
    values = torch.linalg.eigvalsh(symbol.mH @ symbol)
    assert low <= float(values.min()) + 1e-12
    assert high >= float(values.max()) * (1 - 1e-12)
    # What the grid does not see is little.
    assert high <= 1.1 * float(values.max())


def test_a_periodic_step_is_its_formula():
    conv = periodic(channels=(3, 3), noise=0.2).double()
    x, bias = normal(2, 3, 6, 6), normal(3, seed=5)
    matrix = materialise(conv, (3, 6, 6))
    force = torch.tanh(conv(x) + bias[:, None, None]).flatten(1)
    expected = x + 0.3 * (force @ matrix).view_as(x)
    assert torch.allclose(conv.step(x, 0.3, bias, torch.tanh), expected, atol=1e-10)


def test_the_penalty_is_the_distance_of_gram_matrices_from_1():
    conv = periodic(noise=0.2)
    symbol = torch.fft.fft2(conv.weight.detach().double(), s=(8, 8)).permute(2, 3, 0, 1)
    defect = symbol.mH @ symbol - torch.eye(3, dtype=torch.complex128)
    # Parseval.
    expected = float(defect.abs().square().sum()) / 64
    assert float(conv.orthogonality_penalty().detach()) == pytest.approx(expected, rel=1e-4)


def test_a_periodic_convolution_that_is_not_finite_has_no_bounds():
    conv = periodic()
    conv.weight.data[0, 0, 0, 0] = math.nan
    assert all(map(math.isnan, conv.gram_range()))
    assert not lipschitz_bound(conv) < math.inf


@pytest.mark.parametrize(
    "options",
    [{"groups": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding_mode": "circular"}],
)
def test_convolutions_of_other_kinds_are_refused(options):
    with pytest.raises(CertificateError, match="Conv2d"):
        lipschitz_bound(nn.Conv2d(4, 4, 3, padding=1, **options))
    if "padding_mode" not in options:
        with pytest.raises(CertificateError, match="ConvTranspose2d"):
            lipschitz_bound(nn.ConvTranspose2d(4, 4, 3, padding=1, **options))
    assert lipschitz_bound(nn.Conv2d(4, 4, 3, padding=1)) > 0


@pytest.mark.parametrize("slope", [-3.0, -0.5, 0.0, 0.2, 2.5])
def test_leaky_relu_bound_is_its_steepest_slope(slope):
    bound = lipschitz_bound(nn.LeakyReLU(slope))
    x = torch.linspace(-1, 1, 21).double()
    slopes = (nn.LeakyReLU(slope)(x).diff() / x.diff()).abs()
    assert float(slopes.max()) == pytest.approx(bound)


def test_maxmin_orders_pairs_of_channels_and_is_nonexpansive():
    x = normal(50, 6, 3)
    y = MaxMin()(x)
    pairs = torch.stack(x.chunk(2, dim=1)).sort(dim=0, descending=True).values
    torch.testing.assert_close(y, torch.cat(list(pairs), dim=1))
    torch.testing.assert_close(y.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    for k in range(5):
        jacobian = torch.func.jacrev(lambda x: MaxMin()(x[None])[0])(normal(6, seed=k))
        # A permutation: every gradient keeps its norm.
        assert torch.equal(jacobian.sum(dim=0), torch.ones(6).double())
        assert torch.equal(jacobian.sum(dim=1), torch.ones(6).double())
        assert not under_estimates(lipschitz_bound(MaxMin()), jacobian)


# What is not known


class Residual(nn.Sequential):
    """A common idiom: a Sequential that adds its input."""

    def forward(self, x):
        return x + super().forward(x)


class DoubleLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class DoubleClassifier(Classifier):
    def forward(self, x):
        return 2 * super().forward(x)


class DoubleDense(DenseGradientStep):
    def forward(self, x):
        return 2 * super().forward(x)


def patched(module):
    """Return the module with a forward put onto the instance."""
    plain = module.forward
    module.forward = lambda x: 2 * plain(x)
    return module


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.LPPool2d(2, 2), "LPPool2d"),
        (nn.BatchNorm2d(3), "BatchNorm2d"),
        (nn.Softmax(dim=1), "Softmax"),
        (Residual(nn.ReLU()), "Residual"),
        (DoubleLinear(3, 3), "DoubleLinear"),
        (DoubleDense(3, 3), "DoubleDense"),
        (DoubleClassifier(nn.Identity(), nn.Linear(3, 2)), "DoubleClassifier"),
        (patched(nn.Linear(3, 3)), "Linear"),
        (patched(ZeroPadChannels(3)), "ZeroPadChannels"),
        (object(), "object"),
    ],
)
def test_an_unknown_module_is_named(module, name):
    with pytest.raises(CertificateError, match=f"no Lipschitz bound is known for {name}"):
        lipschitz_bound(module)
    if isinstance(module, nn.Module):
        for outer in (nn.Sequential(nn.ReLU(), nn.Sequential(module)), EulerStep(module)):
            with pytest.raises(CertificateError, match=f"for {name}"):
                lipschitz_bound(outer)


def test_a_modules_own_bound_goes_before_that_of_its_base():
    class Declared(Residual):
        def lipschitz_bound(self):
            return 1 + math.prod(lipschitz_bound(part) for part in self)

    class Renamed(nn.Linear):
        pass

    class RenamedDense(DenseGradientStep):
        pass

    assert lipschitz_bound(Declared(nn.ReLU())) == 2.0
    assert lipschitz_bound(RenamedDense(3, 3)) == lipschitz_bound(DenseGradientStep(3, 3)) == 1.0
    plain = nn.Linear(3, 3)
    renamed = Renamed(3, 3)
    renamed.load_state_dict(plain.state_dict())
    assert lipschitz_bound(renamed) == lipschitz_bound(plain)


# Classifiers


def linear_classifier(seed=0, *, unit_rows=False):
    """Return a linear network in two parts, and its exact matrix."""
    head = UnitRowLinear(5, 4) if unit_rows else nn.Linear(5, 4)
    model = Classifier(nn.Linear(6, 5), head).double()
    for k, part in enumerate((model.features, model.head)):
        part.weight.data.copy_(normal(*part.weight.shape, seed=seed + k))
    return model, materialise(model, (6,))


def pair_fault(bounds, matrix):
    """Say whether a bound of a pair of logits is below the exact one; (classes, classes)."""
    return any(
        under_estimates(float(bounds[i, j]), (matrix[i] - matrix[j])[None])
        for i in range(len(matrix))
        for j in range(len(matrix))
    )


def test_a_classifier_is_its_head_after_its_features():
    model, matrix = linear_classifier()
    x = normal(3, 6)
    assert torch.equal(model(x), model.head(model.features(x)))
    torch.testing.assert_close(model(x) - model(torch.zeros_like(x)), x @ matrix.T)


@pytest.mark.parametrize("unit_rows", [False, True])
def test_pairwise_bounds_are_norms_of_row_differences(unit_rows):
    for seed in range(5):
        model, matrix = linear_classifier(seed, unit_rows=unit_rows)
        bounds = pairwise_lipschitz(model)
        assert bounds.dtype is torch.float64
        assert bounds.shape == (4, 4)
        rows = model.head.weight.detach().numpy()
        if unit_rows:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        expected = lipschitz_bound(model.features) * np.linalg.norm(rows[:, None] - rows, axis=2)
        np.testing.assert_allclose(bounds.numpy(), expected, rtol=1e-10)
        assert not pair_fault(bounds, matrix)


def test_one_bound_for_unit_rows_is_rejected():
    model = Classifier(nn.Identity(), UnitRowLinear(2, 2)).double()
    # Each logit is 1-Lipschitz, and their difference 2-Lipschitz: more than sqrt(2).
    model.head.weight.data.copy_(torch.tensor([[3.0, 0.0], [-0.1, 0.0]]))
    matrix = materialise(model, (2,))
    assert pair_fault(torch.full((2, 2), math.sqrt(2)), matrix)
    assert not pair_fault(pairwise_lipschitz(model), matrix)
    assert float(pairwise_lipschitz(model)[0, 1]) == pytest.approx(2.0)


def test_a_sequential_with_a_linear_end_is_a_classifier():
    model, _ = linear_classifier()
    sequential = nn.Sequential(nn.Flatten(), model.features, nn.ReLU(), model.head)
    torch.testing.assert_close(pairwise_lipschitz(sequential), pairwise_lipschitz(model))

    class OwnConstructor(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), model.features, nn.ReLU(), model.head)

    torch.testing.assert_close(pairwise_lipschitz(OwnConstructor()), pairwise_lipschitz(model))


def test_a_classifiers_own_bound_is_that_of_all_its_logits():
    for unit_rows in (False, True):
        model, matrix = linear_classifier(unit_rows=unit_rows)
        assert not under_estimates(lipschitz_bound(model), matrix)
    # Unit rows alone do not make the head 1-Lipschitz.
    twins = Classifier(nn.Identity(), UnitRowLinear(2, 2)).double()
    twins.head.weight.data.fill_(1.0)
    assert under_estimates(1.0, materialise(twins, (2,)))
    assert lipschitz_bound(twins) == pytest.approx(math.sqrt(2))


def test_without_a_linear_head_all_pairs_have_one_bound():
    model, matrix = linear_classifier()
    sequential = nn.Sequential(model.features, model.head, nn.Identity())
    bounds = pairwise_lipschitz(sequential)
    assert bounds.shape == (1, 1)
    assert float(bounds) == pytest.approx(math.sqrt(2) * lipschitz_bound(sequential))
    assert not pair_fault(bounds.expand(4, 4), matrix)
    assert pair_fault(bounds.expand(4, 4) / 10, matrix)


class NoHead(nn.Module):
    """Not linear, though it has a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def forward(self, x):
        return 5 * x @ self.weight.T


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Classifier(nn.Softmax(dim=1), nn.Linear(3, 2)), "Softmax"),
        (Classifier(nn.Identity(), nn.Sequential(nn.Linear(3, 2))), "Sequential"),
        (Classifier(nn.Identity(), NoHead()), "NoHead"),
        (Classifier(nn.Identity(), DoubleLinear(3, 2)), "DoubleLinear"),
        (DoubleClassifier(nn.Identity(), nn.Linear(3, 2)), "DoubleClassifier"),
        (nn.Sequential(nn.Softmax(dim=1), nn.Linear(3, 2)), "Softmax"),
        (nn.Sequential(nn.Identity(), DoubleLinear(3, 2)), "DoubleLinear"),
        (Residual(nn.Linear(3, 3), nn.Linear(3, 3)), "Residual"),
        (NoHead(), "NoHead"),
    ],
)
def test_an_unknown_part_leaves_no_pairwise_bounds(model, name):
    with pytest.raises(CertificateError, match=name):
        pairwise_lipschitz(model)


def test_gradient_steps_share_one_interface():
    assert issubclass(DenseGradientStep, GradientStep)
    assert issubclass(ConvGradientStep, GradientStep)


def test_the_composed_kernel_maps_as_both_convolutions_do():
    draw = torch.Generator().manual_seed(0)
    inner = torch.randn(3, 2, 3, 5, generator=draw, dtype=torch.float64)
    outer = torch.randn(4, 3, 5, 1, generator=draw, dtype=torch.float64)
    composed = composed_kernel(outer, inner)
    assert composed.shape == (4, 2, 7, 5)
    x = torch.randn(2, 2, 9, 9, generator=draw, dtype=torch.float64)
    expected = F.conv2d(F.conv2d(x, inner), outer)
    assert torch.allclose(F.conv2d(x, composed), expected, atol=1e-12)


def test_a_bound_is_computed_once_for_each_kernel(monkeypatch):
    calls = []
    honest = norms.symbol_norm
    monkeypatch.setattr(norms, "symbol_norm", lambda k: calls.append(k) or honest(k))
    kernel = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(8))
    first = norms.conv_norm(kernel)
    assert norms.conv_norm(kernel.clone()) == first
    assert len(calls) == 1
    kernel[0, 0, 0, 0] += 1
    assert norms.conv_norm(kernel) != first
    assert len(calls) == 2
    # The same numbers in another shape, or at another stride, are another convolution.
    norms.conv_norm(kernel.reshape(3, 3, 9, 1))
    norms.conv_norm(kernel, stride=(2, 2))
    assert len(calls) == 4
