"""What a certifier is: which classes cannot overtake the label, within a radius or one ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from robustbench_dyn.threat_models import NORMS, Norm, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn


class Proof(NamedTuple):
    """class_radii: (batch, classes) float64, in the threat model's norm and rounded down.

    Nearer than entry j, class j does not reach the label's logit; inf for the label itself, 0
    where nothing is proved. candidates: of x's shape, points that the certifier takes for
    adversarial examples (x itself where it has none); the harness judges them. forward_passes: of
    the model, that the proof took. within_rounding: (batch,) bool, where nothing is proved since
    the model's own rounding may exceed a margin.
    """

    class_radii: Tensor
    candidates: Tensor | None = None
    forward_passes: int = 0
    within_rounding: Tensor | None = None


def name_from_l2(name: str, norm: Norm) -> str:
    """Name in the table a method whose radii are of L2, where they are asked for in `norm`."""
    return name if norm == "L2" else f"{name}-from-L2"


def _own_name(_norm: Norm) -> str:
    return ""


class Phase(Enum):
    """When a stage is run. Certifiers are placed by what a proof costs for one example."""

    CLEAN = "on the clean pass"
    BEFORE_ATTACKS = "before all attacks"
    FIRST_ATTACK = "the first attack"
    AFTER_FIRST_ATTACK = "after the first attack, on what it leaves"
    ATTACKS = "the other attacks"
    LAST = "after all attacks: it searches until it has decided"


@dataclass(frozen=True)
class Certifier:
    """A proof method.

    prove(state, x, logits, y, threat_model) returns a Proof; x: (batch, *input_shape), logits:
    (batch, classes) as the model computed them, y: (batch,). state = prepare(model, input_shape),
    which raises CertificateError, with the reason, for a model that the method cannot treat.
    measures_rounding: prepare also takes strict_rounding, whether the worst that the model's
    rounding may do is taken off its margins, or what was measured of it (see rounding.py); all
    others take off the worst.
    label(norm) is the name in the table. norms: those that it knows.
    cost: when it is run. Where it is Phase.CLEAN, radii do not depend on the threat model's eps;
    others say of the ball of one threat model that a class is excluded, by a radius of eps, or not.
    version: raised when its proofs change, so that no old proof is taken for a new one.
    """

    name: str
    description: str
    deterministic: bool
    prepare: Callable[..., Any]
    prove: Callable[..., Proof]
    label: Callable[[Norm], str] = _own_name
    norms: frozenset[Norm] = frozenset(NORMS)
    phase: Phase = Phase.BEFORE_ATTACKS
    measures_rounding: bool = False
    version: int = 1

    @property
    def radius_based(self) -> bool:
        """Whether one pass gives the radii for every eps."""
        return self.phase is Phase.CLEAN

    def settings(self) -> dict[str, Any]:
        return {}

    def prepared(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool
    ) -> Prepared:
        """Return the certifier with what it has to know of a model; raises what prepare raises."""
        options = {"strict_rounding": strict_rounding} if self.measures_rounding else {}
        return Prepared(self, self.prepare(model, input_shape, **options))


class Prepared(NamedTuple):
    """A certifier, prepared for one model; state is what its prepare returned."""

    certifier: Certifier
    state: Any

    def prove(self, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel) -> Proof:
        """Return the certifier's Proof for examples of this model."""
        return self.certifier.prove(self.state, x, logits, y, threat_model)

    def label(self, norm: Norm) -> str:
        """Return the certifier's name in the table."""
        return self.certifier.label(norm) or self.certifier.name


def radii(proof: Proof) -> Tensor:
    """Return the radii inside which no class overtakes the label, (batch,); NaN for none."""
    nearest = proof.class_radii.amin(dim=1)
    return nearest.where(nearest > 0, float("nan"))


PreparedCertifier = Prepared
