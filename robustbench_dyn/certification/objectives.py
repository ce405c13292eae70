"""Objectives: margins F_label - F_j of examples and competing classes, to be bounded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.certification.rounding.allowance import (
    explained_by_rounding,
    margins_of,
    observed_rounding,
    rounding_allowance,
    surface_points,
    usual_rounding,
)
from robustbench_dyn.threat_models import ThreatModel


class Objectives(NamedTuple):
    """Margins to bound from below, one for each example that is classified as its label and class.

    coefficients: (n, classes), e_label - e_competitor, float64: the rows of the specification
    matrix C. example, competitor: (n,), on the inputs' device. margin: (n,), as the network
    computed it at the example. observed: (n,), the largest difference between it and exact
    arithmetic that was observed. worst_case: (n,), what its rounding may be at most, anywhere in
    the ball. usual: (n,), of allowance.usual_rounding.
    """

    coefficients: Tensor
    example: Tensor
    competitor: Tensor
    margin: Tensor
    observed: Tensor
    worst_case: Tensor
    usual: Tensor

    def at(self, rows: Tensor | slice) -> Objectives:
        """Return some of the objectives, by a mask or by indices."""
        return Objectives(*(part[rows] for part in self))

    def replaced(self, rows: Tensor | slice, objectives: Objectives) -> Objectives:
        """Return the objectives with others in place of some, by a mask or by indices."""
        parts = [part.clone() for part in self]
        for part, new in zip(parts, objectives, strict=True):
            part[rows] = new
        return Objectives(*parts)

    def allowance(self, worst_case: Tensor, *, strict: bool = True) -> Tensor:
        """Return what a lower bound must exceed, (n,); worst_case: (n,), of its rounding."""
        return rounding_allowance(self.margin, worst_case, self.observed, self.usual, strict=strict)


def margin_objectives(x: Tensor, logits: Tensor, y: Tensor) -> Objectives:
    """Return the objectives of all examples that are classified as y.

    logits: as the model computed them at x. Of their rounding nothing is known yet, so that nothing
    can be proved of them: see with_rounding.
    """
    margins = margins_of(logits, y)
    others = torch.ones_like(margins, dtype=torch.bool).scatter(1, y.cpu()[:, None], False)
    # Written so that NaN fails it.
    correct = ((margins > 0) | ~others).all(dim=1)
    example, competitor = (others & correct[:, None]).nonzero(as_tuple=True)
    units = torch.eye(margins.shape[1], dtype=torch.float64)
    coefficients = units[y.cpu()[example]] - units[competitor]
    margin = margins[example, competitor]
    unknown = torch.full_like(margin, torch.inf)
    usual = usual_rounding(logits)[example, 0]
    parts = (coefficients, example, competitor, margin, unknown, unknown, usual)
    return Objectives(*(part.to(x.device) for part in parts))


def with_rounding(
    objectives: Objectives,
    model: nn.Module,
    network: Network,
    errors: Tensor,
    x: Tensor,
    logits: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
) -> Objectives:
    """Return objectives with the rounding that was observed, and the worst case.

    The traced network is compared with the model at the examples and at points of their balls;
    where they differ by more than rounding can explain, nothing is to be proved. network: the
    model in float64. errors: (batch, classes), bounds of the logits' rounding over the balls. All
    else as in margin_objectives.
    """
    if not len(objectives.example):
        return objectives
    rows, owners = torch.unique(objectives.example, return_inverse=True)
    radius = torch.full((len(rows),), threat_model.eps, dtype=torch.float64)
    points = surface_points(x[rows], radius, threat_model.norm)
    at_x, at_points = (network.outputs(z.double())[-1] for z in (x[rows], points))
    observed = observed_rounding(model, points, logits[rows], (at_x, at_points), y[rows])
    observed = observed.to(x.device)[owners, objectives.competitor]
    errors = errors[objectives.example]
    label = y.to(errors.device)[objectives.example, None]
    worst_case = errors.gather(1, label)[:, 0]
    worst_case = worst_case + errors.gather(1, objectives.competitor[:, None])[:, 0]
    observed = explained_by_rounding(observed, worst_case)
    return objectives._replace(observed=observed, worst_case=worst_case)


def examples_with(rows: Tensor, objectives: Objectives, n: int) -> Tensor:
    """Say which of n examples have an objective among some rows, (n,) bool, on the CPU."""
    return torch.zeros(n, dtype=torch.bool).index_fill(0, objectives.example[rows].cpu(), True)


def least_per_example(values: Tensor, objectives: Objectives, n: int) -> Tensor:
    """Return the least value of the objectives of each example, (n,); inf where it has none."""
    least = values.new_full((n,), torch.inf)
    return least.scatter_reduce(0, objectives.example, values, "amin")


def proved_radii(proved: Objectives, logits: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return (batch, classes) float64 on the CPU: eps where proved, inf for labels, else 0."""
    radii = torch.zeros(logits.shape, dtype=torch.float64)
    radii[proved.example.cpu(), proved.competitor.cpu()] = eps
    return radii.scatter(1, y.cpu()[:, None], torch.inf)
