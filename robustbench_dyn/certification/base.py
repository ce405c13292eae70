"""The base class of certifiers, which exclude classes within a radius or within one ball."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.threat_models import NORMS, Norm, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

State = TypeVar("State")
Setting = bool | int | float | str


class Proof(NamedTuple):
    """The result of a certifier for a batch.

    class_radii: (batch, classes) float64, in the threat model's norm and rounded down. Nearer than
    entry j, class j does not reach the label's logit; inf for the label itself, 0 where nothing is
    proved. candidates: of x's shape, points that the certifier takes for adversarial examples (x
    itself where it has none); the evaluation checks them. forward_passes: of the model, that the
    proof took. within_rounding: (batch,) bool, where nothing is proved since the model's own
    rounding may exceed a margin. margins: (batch,) float64, of each example the lower bound of its
    least margin over the ball, less the rounding; NaN where there is none. It proves nothing: it
    tells by how much a certificate fell short. gave_up: (batch,) bool, where an exhaustive search
    ended before its time, since no bound neared a proof.
    """

    class_radii: Tensor
    candidates: Tensor | None = None
    forward_passes: int = 0
    within_rounding: Tensor | None = None
    margins: Tensor | None = None
    gave_up: Tensor | None = None


class Phase(Enum):
    """When a stage is run. Certifiers are placed by what a proof costs for one example."""

    CLEAN = "on the clean pass"
    BEFORE_ATTACKS = "before all attacks"
    FIRST_ATTACK = "the first attack"
    AFTER_FIRST_ATTACK = "after the first attack, on what it leaves"
    ATTACKS = "the other attacks"
    LAST = "after all attacks: it searches until it has decided"


@dataclass(frozen=True, kw_only=True)
class Certifier(ABC, Generic[State]):
    """A proof method with its settings, which are the fields of a dataclass.

    A subclass is a frozen dataclass. It gives `name` and `description`, `prepare` and `prove`, and
    each setting as a field with a default; __post_init__ refuses settings with InputError.

    norms: those that it supports. phase: when it is run. With Phase.CLEAN, radii do not depend on
    the threat model's eps; any other certifier says of the ball of one threat model that a class
    is excluded, by a radius of eps, or not. deterministic: whether what it proves is certain, so
    that an adversarial example inside a radius is an error. radii_from_l2: whether radii are
    proved in L2 and converted to the other norms. measures_rounding: whether `prepare` heeds
    strict_rounding; all others subtract the worst case of the model's rounding. looks_at_time:
    whether `prove` calls patience.look_at_time between its steps; otherwise the time is looked at
    before each operation of torch, which makes small ones slower. version: raised
    when the proofs change, so that no old proof is taken for a new one.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    norms: ClassVar[frozenset[Norm]] = frozenset(NORMS)
    phase: ClassVar[Phase] = Phase.BEFORE_ATTACKS
    deterministic: ClassVar[bool] = True
    radii_from_l2: ClassVar[bool] = False
    measures_rounding: ClassVar[bool] = False
    rests_on_bounds: ClassVar[bool] = False
    looks_at_time: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @abstractmethod
    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> State:
        """Return what `prove` needs to know of a model, computed once.

        strict_rounding: subtract the worst case of the model's rounding from its margins, instead
        of what was measured of it. Raises CertificateError, with the reason, for a model that the
        method cannot treat.
        """

    @abstractmethod
    def prove(
        self, state: State, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Return what holds of each example by itself, whatever else is in the batch.

        state: of `prepare`. x: (batch, *input_shape); logits: (batch, classes), as the model
        computed them at x; y: (batch,), the labels.
        """

    def at_once(self, state: State) -> int:
        """Return how many examples a search takes together: after these, what it decided is kept.

        It holds for certifiers of Phase.LAST, whose `prove` may take long.
        """
        return 4

    @property
    def radius_based(self) -> bool:
        """Whether one pass gives the radii for every eps."""
        return self.phase is Phase.CLEAN

    def settings(self) -> dict[str, Setting]:
        """Return the settings by name, for the record of what a verdict depends on."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def label(self, norm: Norm) -> str:
        """Return the name in tables: with the norm of the proof, and settings that were changed."""
        name = name_from_l2(self.name, norm) if self.radii_from_l2 else self.name
        changed = [
            f"{field.name}={value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{name}({' '.join(changed)})" if changed else name

    def prepared(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> PreparedCertifier:
        """Return the certifier with its state for a model; raises what `prepare` raises."""
        state = self.prepare(model, input_shape, strict_rounding=strict_rounding)
        return PreparedCertifier(self, state)


class PreparedCertifier(NamedTuple):
    """A certifier, prepared for one model; state is what its `prepare` returned."""

    certifier: Certifier[Any]
    state: Any

    def prove(self, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel) -> Proof:
        """Return the certifier's Proof for examples of this model."""
        return self.certifier.prove(self.state, x, logits, y, threat_model)

    @property
    def at_once(self) -> int:
        """How many examples a search of this model takes together; see Certifier.at_once."""
        return self.certifier.at_once(self.state)

    def label(self, norm: Norm) -> str:
        """Return the certifier's name in tables."""
        return self.certifier.label(norm)


def name_from_l2(name: str, norm: Norm) -> str:
    """Return the name in tables of an L2 method whose radii are converted to `norm`."""
    return name if norm == "L2" else f"{name}-from-L2"


def radii(proof: Proof) -> Tensor:
    """Return the radii inside which no class overtakes the label, (batch,); NaN for none."""
    nearest = proof.class_radii.amin(dim=1)
    return nearest.where(nearest > 0, float("nan"))


def require(certifier: Certifier[State], *, at_least: float = 0, **settings: float) -> None:
    """Raise InputError for a setting that is no finite number of at least `at_least`."""
    for name, value in settings.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not at_least <= value < math.inf:
            raise InputError(
                f"{certifier.name}: {name}={shown(value)} is not a number of at least "
                f"{at_least:g}; give one"
            )
