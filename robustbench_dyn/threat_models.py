"""Threat models: a norm, a radius, and the input range [0, 1]."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Literal, get_args

from robustbench_dyn.errors import InputError, ShapeError, shown

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["Linf", "L2", "L1"]
NORMS: tuple[Norm, ...] = get_args(Norm)
# Of small images; a data set may have others (DatasetInfo.default_eps).
DEFAULT_EPS: dict[Norm, float] = {"L2": 0.5, "Linf": 8 / 255, "L1": 2.0}

_LONGEST_EPS = 100
# An eps such as 2/7 is written as a fraction up to here.
_LARGEST_DENOMINATOR = 1000
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_RATIO = re.compile(r"([-+]?\d+)/(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """All x_adv in [0, 1] with norm(x_adv - x) <= eps.

    norm: "Linf", "L2" or "L1". eps: raw input units, so 8 / 255 and not 8.
    Raises InputError where the norm is unknown or no input in [0, 1] could need that eps.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        check_norm(self.norm)
        number = isinstance(self.eps, Real) and not isinstance(self.eps, bool)
        # Compared, for math.isfinite fails on whole numbers beyond the floats.
        if not (number and 0 < self.eps <= sys.float_info.max):
            way = "give eps in raw input units"
            if isinstance(self.eps, str):
                way = "give a number such as 8 / 255, without quotes"
            raise InputError(f"eps={shown(self.eps)} is not a positive number; {way}")
        # Two points of [0, 1]^d are at most 1 apart in Linf: a wider eps is a forgotten / 255.
        if self.norm == "Linf" and self.eps > 1:
            raise InputError(
                f"eps={self.eps:g} is wider than the input range [0, 1]; "
                "give eps in raw input units (8/255, not 8)"
            )

    def check_input_shape(self, input_shape: tuple[int, ...]) -> None:
        """Raise InputError where eps is as wide as the whole input space [0, 1]^d."""
        widest = widest_eps(self.norm, input_shape)
        if self.eps > widest:
            raise InputError(
                f"eps={self.eps:g} in {self.norm} is more than a quarter of the input range's "
                f"diameter {4 * widest:g}; give eps in raw input units (8/255, not 8)"
            )


def parse_eps(text: str) -> float:
    """Read 0.5 or 8/255; raises InputError where it is neither."""
    # Not by Fraction("1e1000000000"), which computes all digits.
    text = text.strip()
    eps = math.nan
    if len(text) <= _LONGEST_EPS:
        if _DECIMAL.fullmatch(text):
            eps = float(text)
        elif (ratio := _RATIO.fullmatch(text)) and int(ratio[2]):
            eps = float(Fraction(int(ratio[1]), int(ratio[2])))
    if not math.isfinite(eps):
        raise InputError(f"eps={shown(text)} is not a number; give it as 0.5 or as 8/255")
    return eps


def format_eps(eps: float, *, digits: int | None = None) -> str:
    """Write eps as k/255 where it is one, else as a short decimal or p/q, else with all digits.

    The text stands for this eps alone: parse_eps gives eps again. digits: round an eps that is no
    k/255 to so many digits, for radii of a grid, which stand for no threat model.
    """
    k = round(eps * 255)
    if 0 < k < 128 and k / 255 == eps:
        return f"{k}/255"
    short = f"{eps:.{digits or 6}g}".replace("e+", "e")
    if digits or float(short) == eps:
        return short
    ratio = Fraction(eps).limit_denominator(_LARGEST_DENOMINATOR)
    if ratio.numerator / ratio.denominator == eps:
        return f"{ratio.numerator}/{ratio.denominator}"
    return repr(float(eps)).replace("e+", "e")


def widest_eps(norm: Norm, input_shape: tuple[int, ...]) -> float:
    """Return the widest eps that a threat model on inputs of this shape may have."""
    dimension = math.prod(input_shape)
    # A ball as wide as a quarter of the space's diameter makes every classifier trivial.
    return {"Linf": 1.0, "L2": math.sqrt(dimension) / 4, "L1": dimension / 4}[norm]


def parse_norm(text: str) -> Norm:
    """Return the norm of this name, in upper or lower case; raises InputError for any other."""
    for norm in NORMS:
        if text.lower() == norm.lower():
            return norm
    raise InputError(f"norm={shown(text)} is unknown; choose one of {', '.join(NORMS)}")


def check_norm(norm: str) -> None:
    """Raise InputError where norm is none of Linf, L2, L1."""
    if norm not in NORMS:
        raise InputError(f"norm={shown(norm)} is unknown; choose one of {', '.join(NORMS)}")


def distance(x_adv: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """Return norm(x_adv[i] - x[i]) for each example i, computed in float64.

    x_adv, x: (batch, *input_shape). Returns (batch,), float64; NaN where an entry is not finite.
    Raises ShapeError where the shapes differ.
    """
    _check_shapes(x_adv, x)
    delta = (x_adv.double() - x.double()).flatten(1).abs()
    finite = delta.isfinite().all(dim=1)
    if norm == "Linf":
        result = delta.amax(dim=1)
    elif norm == "L2":
        result = delta.square().sum(dim=1).sqrt()
    else:
        result = delta.sum(dim=1)
    return result.where(finite, math.nan)


def project(x_adv: Tensor, x: Tensor, threat_model: ThreatModel) -> Tensor:
    """Move each x_adv[i] to the nearest point of the ball around x[i], then into [0, 1].

    x and x_adv: (batch, *input_shape), raw input units, x in [0, 1]. The result has x's dtype and
    distance(result, x) <= eps holds in float64 without any tolerance. Clipping cannot leave the
    ball because x itself is in [0, 1]. The L1 projection is that of Duchi et al. (ICML 2008).
    Raises ShapeError where the shapes differ.
    """
    _check_shapes(x_adv, x)
    centre, eps = x.double(), threat_model.eps
    delta = (x_adv.double() - centre).flatten(1)
    if threat_model.norm == "Linf":
        delta = delta.clamp(-eps, eps)
    elif threat_model.norm == "L2":
        delta = delta * (eps / delta.norm(dim=1, keepdim=True).clamp_min(eps))
    else:
        delta = _project_l1(delta, eps)
    delta = delta.view_as(centre)
    result = (centre + delta).clamp(0, 1).to(x.dtype)
    # Casting to x's dtype can round a point on the sphere outwards; shrink those until none is.
    for halvings in range(12):
        outside = distance(result, x, threat_model.norm) > eps
        if not outside.any():
            return result
        shrunk = centre[outside] + (1.0 - 1e-6 * 2**halvings) * delta[outside]
        result[outside] = shrunk.clamp(0, 1).to(x.dtype)
    outside = distance(result, x, threat_model.norm) > eps
    result[outside] = x[outside]
    return result


def _project_l1(delta: Tensor, eps: float) -> Tensor:
    magnitude = delta.abs()
    descending = magnitude.sort(dim=1, descending=True).values
    excess = descending.cumsum(dim=1) - eps
    rank = magnitude.new_tensor(range(1, magnitude.shape[1] + 1))
    n_kept = (descending * rank > excess).sum(dim=1, keepdim=True).clamp_min(1)
    threshold = (excess.gather(1, n_kept - 1) / n_kept).clamp_min(0)
    return delta.sign() * (magnitude - threshold).clamp_min(0)


def _check_shapes(x_adv: Tensor, x: Tensor) -> None:
    if x_adv.shape != x.shape:
        raise ShapeError(
            f"x_adv has shape {tuple(x_adv.shape)} and x has {tuple(x.shape)}; they must be equal"
        )
