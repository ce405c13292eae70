"""Verdicts: the status of one example under one threat model, with the evidence for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import NamedTuple

from robustbench_dyn.errors import InputError

# The prediction of a smoothed classifier that cannot say which class it prefers.
ABSTAINED = -2


class Status(StrEnum):
    """The five things that can be said of an example; only `certified` is a proof of robustness."""

    MISCLASSIFIED = "misclassified"
    BROKEN = "broken"
    CERTIFIED = "certified"
    UNDECIDED = "undecided"
    ERROR = "error"


class Outcome(StrEnum):
    """How a stage ended for one example.

    Attacks: survived, broken, failed, spared (it ran on a sample without the example). Certifiers:
    certified, open (nothing was proved), within rounding (nothing is to be proved, since the
    network's own rounding may exceed a margin), not applicable (it raised), withdrawn (what it
    proved does not count).
    """

    SURVIVED = "survived"
    BROKEN = "broken"
    FAILED = "failed"
    SPARED = "spared"
    CERTIFIED = "certified"
    OPEN = "open"
    WITHIN_ROUNDING = "within rounding"
    NOT_APPLICABLE = "not applicable"
    WITHDRAWN = "withdrawn"


class Step(NamedTuple):
    """One stage that an example went through: an attack or a certifier by name, and its eps.

    message: why it failed, for printing alone. margin: the lower bound of the least margin over the
    ball, of a certifier that left the example open and has one; a proof needs one above 0.
    """

    stage: str
    outcome: Outcome
    eps: float
    message: str = ""
    margin: float | None = None

    def values(self) -> list[str | float]:
        """Return what is kept of it, in order: no margin where it has none, as in earlier files."""
        known: list[str | float] = [self.stage, self.outcome, self.eps, self.message]
        return known if self.margin is None else [*known, self.margin]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One example's status with its evidence; a row of `Evaluation.examples`.

    certified_radius and adversarial_distance are in the threat model's norm, NaN where there is
    none. certifier: what proved the radius; empty where nothing is proved. prediction is -1 where
    the model gave no usable one, and ABSTAINED where a smoothed classifier gave none, which counts
    as misclassified. seconds is the example's share of its batch's wall clock. x_adv holds the
    adversarial example's bytes (its dtype is the input's). next_stage: the attack or certifier that
    the example waits for; empty once the verdict is final. trail: the stages so far, in their
    order. reason: what they come to, for printing alone.
    Raises InputError where the evidence does not carry the status.
    """

    example_id: int
    label: int
    prediction: int
    status: Status
    eps: float
    certified_radius: float = math.nan
    certifier: str = ""
    adversarial_distance: float = math.nan
    attack: str = ""
    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0
    reason: str = ""
    x_adv: bytes | None = field(default=None, repr=False)
    next_stage: str = ""
    trail: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        proved = not self.certifier or self.certified_radius > 0
        if not (proved and self._carries_status()):
            raise InputError(
                f"the evidence does not carry the status {self.status.value!r}: {self}"
            )

    def _carries_status(self) -> bool:
        # Each test is written so that NaN fails it.
        match self.status:
            case Status.MISCLASSIFIED:
                return self.prediction not in (self.label, -1)
            case Status.BROKEN:
                broken = bool(self.attack) and self.adversarial_distance <= self.eps
                return broken and self.prediction == self.label
            case Status.CERTIFIED:
                certified = bool(self.certifier) and self.certified_radius >= self.eps
                return certified and self.prediction == self.label
            case Status.UNDECIDED:
                return self.prediction == self.label and bool(self.reason)
            case Status.ERROR:
                return bool(self.reason)


def alike(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """Group verdicts that ended alike after the same stages: their numbers alone tell them apart.

    Those with equal trails that are not one object may stand in two groups; what is read from a
    file shares them.
    """
    groups: dict[tuple[object, ...], list[Verdict]] = {}
    for v in verdicts:
        how = v.status, v.eps, v.certifier, v.attack, v.next_stage, id(v.trail)
        groups.setdefault(how, []).append(v)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of masked gradients, and its value: a share of examples, or how many of them."""

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name}:{round(self.value, 2):g}"


_INTERNAL = ("eps", "x_adv", "next_stage", "trail")
EXAMPLE_COLUMNS: tuple[str, ...] = tuple(
    column.name for column in fields(Verdict) if column.name not in _INTERNAL
)
