"""Negative controls: certifiers and handlers that break a rule, which the checks must catch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.activations import LeakyReLU, Tanh
from robustbench_dyn.certification.base import Certifier, Proof
from robustbench_dyn.certification.certifiers.lipschitz import Lipschitz
from robustbench_dyn.certification.contract import certifiers, operations
from robustbench_dyn.certification.contract.certifiers import check_certifier
from robustbench_dyn.certification.contract.operations import check_operation
from robustbench_dyn.certification.network.graph import Affine, Node
from robustbench_dyn.certification.network.lowering import Handlers
from robustbench_dyn.certification.network.operations import Handler, OperationContext
from robustbench_dyn.certification.proofs.lipschitz import LipschitzState
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.plugins.contract import Control
from robustbench_dyn.threat_models import Norm, ThreatModel

Damage = Callable[[Proof, Tensor, Tensor], Proof]
_DIVISOR = -0.3


def certifier_controls() -> Iterator[Control]:
    """Yield a certifier for each rule of the contract that breaks it: Lipschitz, damaged."""
    faults: list[tuple[str, str, Certifier[LipschitzState]]] = [
        (certifiers.SETTINGS, "has a list as a setting", _Listed()),
        (certifiers.PREPARES, "raises AttributeError", _Faulty()),
        (certifiers.SHAPES, "gives float32", _damaged(_narrow)),
        (certifiers.NUMBERS, "gives NaN where it proves nothing", _damaged(_give_nan)),
        (certifiers.LABEL, "gives a radius to the label", _damaged(_bound_label)),
        (certifiers.SOUND, "grows radii by half", _damaged(_grow)),
        (certifiers.NOTHING, "certifies ties and mistakes", _damaged(_certify_all)),
        (certifiers.BATCH, "gives all the smallest radius of the batch", _damaged(_couple)),
        (certifiers.REPEATS, "shrinks radii at each call", _damaged(partial(_shrink, count(2)))),
        (certifiers.UNCHANGED, "writes into x", _damaged(_overwrite)),
        (certifiers.USEFUL, "refuses every model", _Refusing()),
    ]
    for rule, fault, certifier in faults:
        yield Control(rule, fault, partial(check_certifier, certifier))


def operation_controls() -> Iterator[Control]:
    """Yield a handler for each rule of the contract that breaks it, of tanh, neg or a division."""
    faults: list[tuple[str, str, str, Handler]] = [
        (operations.TRACED, "raises", "tanh", _raise),
        (operations.VALUES, "computes ReLU", "tanh", lambda c: c.pointwise(LeakyReLU(0.0))),
        (operations.ADJOINT, "has a wrong transpose", "neg", _untransposed),
        (operations.ABSOLUTE, "has small magnitudes", "neg", _small),
        (operations.SLOPES, "claims slopes of at most 0.5", "tanh", _flat),
        (operations.INTERVALS, "has small magnitudes", "neg", _small),
        (operations.LINES, "ignores critical points", "tanh", _straight),
        (operations.RELAXED, "has a wrong transpose", "neg", _untransposed),
        (operations.ROUNDING, "counts no rounding", "div", _unrounded),
    ]
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "tanh": torch.tanh,
        "neg": torch.neg,
        "div": lambda z: z / _DIVISOR,
    }
    for rule, fault, name, handler in faults:
        check = partial(check_operation, name, functions[name], handlers=Handlers({name: handler}))
        yield Control(rule, fault, check)


def _damaged(damage: Damage) -> Certifier[LipschitzState]:
    class Damaged(Lipschitz):
        """The certificate of a Lipschitz bound in L2, with its proofs damaged."""

        norms: ClassVar[frozenset[Norm]] = frozenset({"L2"})

        def prove(
            self,
            state: LipschitzState,
            x: Tensor,
            logits: Tensor,
            y: Tensor,
            threat_model: ThreatModel,
        ) -> Proof:
            return damage(super().prove(state, x, logits, y, threat_model), x, y)

    return Damaged()


@dataclass(frozen=True, kw_only=True)
class _Listed(Lipschitz):
    norms: ClassVar[frozenset[Norm]] = frozenset({"L2"})
    budgets: tuple[int, ...] = (1, 2)


class _Faulty(Lipschitz):
    norms: ClassVar[frozenset[Norm]] = frozenset({"L2"})

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> LipschitzState:
        raise AttributeError("the model has no such part")


class _Refusing(Lipschitz):
    norms: ClassVar[frozenset[Norm]] = frozenset({"L2"})

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> LipschitzState:
        raise CertificateError("no model is supported")


def _narrow(proof: Proof, _x: Tensor, _y: Tensor) -> Proof:
    return proof._replace(class_radii=proof.class_radii.float())


def _give_nan(proof: Proof, _x: Tensor, _y: Tensor) -> Proof:
    found = proof.class_radii
    return proof._replace(class_radii=found.where(found > 0, math.nan))


def _bound_label(proof: Proof, _x: Tensor, _y: Tensor) -> Proof:
    return proof._replace(class_radii=proof.class_radii.clamp_max(1e-6))


def _grow(proof: Proof, _x: Tensor, _y: Tensor) -> Proof:
    return proof._replace(class_radii=1.5 * proof.class_radii)


def _certify_all(proof: Proof, _x: Tensor, _y: Tensor) -> Proof:
    return proof._replace(class_radii=proof.class_radii.clamp_min(1e-3))


def _couple(proof: Proof, _x: Tensor, y: Tensor) -> Proof:
    smallest = proof.class_radii.amin(dim=0, keepdim=True).expand_as(proof.class_radii)
    return proof._replace(class_radii=smallest.scatter(1, y[:, None], math.inf))


def _shrink(divisors: Iterator[int], proof: Proof, _x: Tensor, _y: Tensor) -> Proof:
    return proof._replace(class_radii=proof.class_radii / next(divisors))


def _overwrite(proof: Proof, x: Tensor, _y: Tensor) -> Proof:
    x.zero_()
    return proof


class _FlatTanh(Tanh):
    max_slope = 0.5


class _StraightTanh(Tanh):
    def critical_points(self, slope: Tensor) -> list[Tensor]:
        return []


def _raise(_context: OperationContext) -> Node:
    raise ZeroDivisionError("a handler that does not work")


def _flat(context: OperationContext) -> Node:
    return context.pointwise(_FlatTanh())


def _straight(context: OperationContext) -> Node:
    return context.pointwise(_StraightTanh())


def _negated(context: OperationContext) -> Affine:
    return context.scaled(context.args[0], context.constant(-1.0))


def _untransposed(context: OperationContext) -> Node:
    return replace(_negated(context), adjoint=lambda coefficients: (coefficients,))


def _small(context: OperationContext) -> Node:
    return replace(_negated(context), abs_linear=lambda z: 0.1 * z)


def _unrounded(context: OperationContext) -> Node:
    factor = context.constant(1 / _DIVISOR)
    return replace(context.scaled(context.args[0], factor), n_summands=0)
