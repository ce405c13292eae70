"""Rigorous upper bounds on operator norms (L2 to L2), in float64 and never by power iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from hashlib import sha256

import torch
from torch import Tensor
from torch.nn import functional as F

# Covers the rounding of the float64 sums below: they add far fewer than 1e5 terms of one sign.
_ROUNDING = 1.0 + 1e-10
# Points of a grid of frequencies for each degree of the symbol, an axis. It misses 1 / cos(pi / 32)
# - 1, half a percent an axis, with 16; 2 % with 8, 8 % with 4.
_POINTS_A_DEGREE = (16, 8, 4)
# Products of a Gram iteration over all frequencies: some seconds. Coarser grids, which tell less,
# may take half as many.
_MAX_PRODUCTS = 2**30
# Entries of the symbols that are bounded at a time: 64 MiB.
_MAX_CHUNK = 2**22
_MAX_CACHED = 4096


def _cached(bound: Callable[..., float]) -> Callable[..., float]:
    """Compute a bound once for each content of a tensor; only numbers are kept.

    Several certifiers and the record of a run use the bounds of one network.
    """
    cache: dict[bytes, float] = {}

    @wraps(bound)
    def lookup(weight: Tensor, **options: object) -> float:
        content = weight.detach().cpu().contiguous()
        description = f"{content.dtype} {tuple(content.shape)} {sorted(options.items())} ".encode()
        digest = sha256(description)
        digest.update(content.flatten().view(torch.uint8).numpy().data)
        key = digest.digest()
        if key not in cache:
            if len(cache) >= _MAX_CACHED:
                del cache[next(iter(cache))]
            cache[key] = bound(weight, **options)
        return cache[key]

    return lookup


def gram_iteration(weight: Tensor, *, n_iterations: int = 8) -> float:
    """Return an upper bound on the spectral norm of a matrix.

    |W|_2 <= |(W^T W)^(2^(k-1))|_F^(1/2^k), rescaled at each squaring (Delattre et al., arXiv
    2305.16173, Theorem 1). The bound falls towards the norm from above; eight iterations lie
    within 1 % of it for any matrix of rank below 100. weight: (rows, columns).
    """
    gram = weight.detach().double()
    gram = gram @ gram.T if gram.shape[0] < gram.shape[1] else gram.T @ gram
    log_scale, power = 0.0, 1.0
    for _ in range(n_iterations):
        scale = float(gram.norm())
        if scale == 0.0:
            return 0.0
        gram = gram / scale
        log_scale += power * torch.tensor(scale, dtype=torch.float64).log().item()
        gram, power = gram @ gram, power / 2
    log_norm = log_scale + power * float(gram.norm().log())
    return float(torch.tensor(log_norm / 2, dtype=torch.float64).exp()) * _ROUNDING


@_cached
def matrix_norm(weight: Tensor) -> float:
    """Return an upper bound on the spectral norm of a matrix, (rows, columns).

    The smaller of gram_iteration and perron_bound; the second is exact for orthonormal rows or
    columns, where the first is off by its own rank.
    """
    weight = weight.detach().double()
    narrow = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return _minimum(gram_iteration(weight), math.sqrt(perron_bound(abs_gram(narrow))))


@_cached
def conv_norm(kernel: Tensor, *, stride: tuple[int, int] = (1, 1)) -> float:
    """Return an upper bound on the norm of a convolution on images of any size.

    Holds for zeros around the image, as many as one likes, and for the adjoint, which is the
    transposed convolution. Also for circular padding, where the output has as many positions as
    the image has blocks of `stride`. The smallest of four provable bounds of polyphase(kernel):
    sqrt(norm_1 norm_inf); the perron_bound of the autocorrelation by rows or by columns (arXiv
    2208.03160), exact for orthogonal convolutions; sqrt(kh kw) times the norm of the reshaped
    kernel; and symbol_norm, the tightest for most others. kernel: (out_channels, in_channels, kh,
    kw), for a transposed convolution (in_channels, out_channels, kh, kw).
    """
    kernel = polyphase(kernel.detach().double(), stride)
    n_out, n_in, *size = kernel.shape
    magnitude = kernel.abs()
    column_sum = float(magnitude.sum(dim=(0, 2, 3)).max())
    row_sum = float(magnitude.sum(dim=(1, 2, 3)).max())
    bound = _minimum(
        math.sqrt(column_sum * row_sum) * _ROUNDING,
        math.sqrt(perron_bound(abs_gram(kernel))),
        math.sqrt(perron_bound(abs_gram(kernel.transpose(0, 1)))),
        math.sqrt(math.prod(size)) * gram_iteration(kernel.flatten(1)),
    )
    # The mean over all frequencies of the symbol's squared Frobenius norm is the kernel's.
    at_least = float(kernel.norm()) / math.sqrt(min(n_out, n_in))
    points = _affordable_points(kernel)
    # The grid's correction would only loosen the bound of a nearly orthogonal kernel.
    if points is None or bound <= at_least * _between(size, points):
        return bound
    return _minimum(bound, symbol_norm(kernel))


def composed_kernel(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the kernel of one convolution after another, C[s] = sum_k outer[k] inner[s - k].

    That is on the infinite grid, without a border between the two. outer: (out, between, h, w);
    inner: (between, in, h2, w2). Returns (out, in, h + h2 - 1, w + w2 - 1), float64.
    """
    outer, inner = outer.detach().double(), inner.detach().double()
    around = (outer.shape[2] - 1, outer.shape[3] - 1)
    composed = F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=around)
    return composed.transpose(0, 1)


def polyphase(kernel: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the kernel by which a strided convolution is one of stride 1.

    It acts on the phases of the image, x_p[m] = x[s m + p], as channels: y[n] = sum_k W[k] x[s n +
    k] = sum_p sum_a W[s a + p] x_p[n + a]. kernel: (out, in, kh, kw); returns (out, in sh sw,
    ceil(kh / sh), ceil(kw / sw)).
    """
    sh, sw = stride
    kernel = F.pad(kernel, (0, -kernel.shape[3] % sw, 0, -kernel.shape[2] % sh))
    n_out, n_in, kh, kw = kernel.shape
    blocks = kernel.reshape(n_out, n_in, kh // sh, sh, kw // sw, sw)
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def symbol_norm(kernel: Tensor, *, n_iterations: int = 8) -> float:
    """Return an upper bound on the norm of a convolution of stride 1 on the infinite grid.

    That is the supremum over all frequencies t of the norm of the symbol W(t) = sum_k W[k] exp(-i
    k t): of a zero-padded convolution, which is a block of the infinite one, and of a circular one,
    whose symbol is known on a grid, no norm is larger. Gram iteration bounds it on a grid of M
    points an axis, and between them it is at most 1 / cos(pi (k - 1) / 2M) times as large an axis.
    Proof: let a unit vector u attain the supremum s of p = |W(t) u|^2. p - s / 2 is a trigonometric
    polynomial of degree k - 1 and at most s / 2 in modulus, so at distance d from its maximum it is
    at least s / 2 cos((k - 1) d) (M. Riesz, 1914), and p at least s cos((k - 1) d / 2)^2; the
    nearest point of the grid is at most pi / M away. (Arguments of this kind, without p >= 0:
    Pfister & Bresler, arXiv 1802.09588; for convolutions: Delattre et al., arXiv 2305.16173.)

    kernel: (out, in, kh, kw). The grid is the finest of some that takes no more than seconds;
    infinite where the coarsest takes longer.
    """
    kernel = kernel.detach().double()
    n_out, n_in, *size = kernel.shape
    points = _affordable_points(kernel)
    if points is None:
        return math.inf
    frequencies = _grid(_points(size, points), size).to(kernel.device)
    taps = kernel.permute(2, 3, 0, 1).flatten(0, 1).to(frequencies.dtype)
    chunk = max(1, _MAX_CHUNK // (n_out * n_in))
    logs = [
        _log_gram_bound(torch.tensordot(frequencies[k : k + chunk], taps, dims=1), n_iterations)
        for k in range(0, len(frequencies), chunk)
    ]
    return float((torch.stack(logs).max() / 2).exp()) * _between(size, points) * _ROUNDING


def _affordable_points(kernel: Tensor) -> int | None:
    """Return how many points a degree the grid of a kernel may have, None for no grid."""
    n_out, n_in, *size = kernel.shape
    # The second term is what the table of exponentials is allowed.
    products = max(min(n_out, n_in) ** 3, 16 * math.prod(size)) / 2
    most = _MAX_PRODUCTS
    for a_degree in _POINTS_A_DEGREE:
        if products * math.prod(_points(size, a_degree)) <= most:
            return a_degree
        most = _MAX_PRODUCTS // 2
    return None


def _points(size: list[int], a_degree: int) -> list[int]:
    """Return the points of a grid on each axis."""
    return [max(1, a_degree * (k - 1)) for k in size]


def _between(size: list[int], a_degree: int) -> float:
    """Return by what factor a symbol may exceed its largest norm on the grid."""
    return math.prod(1 / math.cos(math.pi / (2 * a_degree)) for k in size if k > 1)


def _grid(points: list[int], size: list[int]) -> Tensor:
    """Return exp(-i k t) for the frequencies t of a grid, (frequencies, kh kw).

    A real kernel has conjugate symbols at t and -t, so half of the first axis is enough.
    """
    half = torch.arange(points[0] // 2 + 1, dtype=torch.float64) * (2 * math.pi / points[0])
    whole = torch.arange(points[1], dtype=torch.float64) * (2 * math.pi / points[1])
    down, right = (torch.arange(k, dtype=torch.float64) for k in size)
    angles = (half[:, None] * down)[:, None, :, None] + (whole[:, None] * right)[None, :, None, :]
    return torch.polar(torch.ones(()).double(), -angles.flatten(2).flatten(0, 1)).contiguous()


def _log_gram_bound(matrices: Tensor, n_iterations: int) -> Tensor:
    """Return the log of an upper bound on the largest squared norm of matrices, (n, rows, columns).

    gram_iteration on all of them. One whose upper bound is below another's lower bound, which is
    less by rank^(1/2^k), cannot be the largest, and is left out from then on.
    """
    wide = matrices.shape[1] < matrices.shape[2]
    gram = matrices @ matrices.mH if wide else matrices.mH @ matrices
    log_rank = math.log(gram.shape[1])
    log_scale, power = gram.new_zeros(len(gram), dtype=torch.float64), 1.0
    for _ in range(n_iterations):
        scale = torch.linalg.matrix_norm(gram)
        upper = log_scale + power * scale.log()
        # Written so that NaN is never left out.
        open_ = ~(upper < (upper - power / 2 * log_rank).max())
        # A symbol that is zero stays zero; its bound is tiny.
        scale = scale[open_].clamp_min(torch.finfo(torch.float64).tiny)
        gram = gram[open_] / scale[:, None, None]
        log_scale = log_scale[open_] + power * scale.log()
        gram, power = gram @ gram, power / 2
    return (log_scale + power * torch.linalg.matrix_norm(gram).log()).max()


def perron_bound(gram: Tensor, *, n_iterations: int = 20) -> float:
    """Return an upper bound on the spectral radius of a matrix with entries at least 0, (n, n).

    max_i (A q)_i / q_i for any q > 0 (Collatz & Wielandt); iterating q -> A q brings it down from
    the largest row sum towards the radius itself.
    """
    q, bound = gram.new_ones(len(gram)), torch.full((), torch.inf, dtype=gram.dtype)
    for _ in range(n_iterations):
        image = gram @ q
        # torch's minimum keeps NaN; so does the division by a maximum that is NaN.
        bound = torch.minimum(bound, (image / q).max())
        q = (image / image.max().clamp_min(torch.finfo(gram.dtype).tiny)).clamp_min(1e-9)
    return float(bound) * _ROUNDING


def _minimum(*bounds: float) -> float:
    # Unlike the built-in min, this is NaN where one of them is: NaN is no bound.
    return float(torch.tensor(bounds, dtype=torch.float64).min())


def abs_gram(weight: Tensor) -> Tensor:
    """Return the matrix of sums of abs(W W^T) over positions, from which T is made.

    weight: (rows, columns) or a convolution kernel (out, in, kh, kw); returns (out, out). The
    sum runs over all shifts of one kernel against another; at the border of a zero-padded image
    only some of them occur, so the sum bounds every row of |W W^T| there too.
    """
    if weight.dim() == 2:
        return (weight @ weight.T).abs()
    padding = (weight.shape[2] - 1, weight.shape[3] - 1)
    return F.conv2d(weight, weight, padding=padding).abs().sum(dim=(2, 3))


def diagonal_bound(weight: Tensor, q: Tensor) -> Tensor:
    """Return T with T_ii = sum_j |W W^T|_ij q_j / q_i, so that diag(T) - W W^T is positive.

    weight as in abs_gram; q: (out,), positive. Returns (out,). (SLL: arXiv 2303.03169, Theorem 1;
    AOL, q = 1: arXiv 2208.03160, Theorem 1.)
    """
    return abs_gram(weight) @ q / q


def excess(weight: Tensor, q: Tensor, inverse: Tensor) -> float:
    """Return the least delta >= 0 with inverse <= (1 + delta) / diagonal_bound, in float64.

    That is by how much a materialised diagonal `inverse`, computed in float32, may overshoot the
    exact 1 / T of the very weights that the layer uses.
    """
    bound = diagonal_bound(weight.detach().double(), q.detach().double())
    worst = float((bound * inverse.detach().double()).max()) * _ROUNDING
    # Written so that NaN stays NaN: max(0, nan) would be 0.
    return 0.0 if worst <= 1.0 else worst - 1.0
