"""The interface of stages: the batch that a stage gets, and the results that it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from robustbench_dyn.certification.base import Phase
from robustbench_dyn.evaluation.candidates import Hit
from robustbench_dyn.results.verdicts import Outcome, Step
from robustbench_dyn.threat_models import ThreatModel


@dataclass(frozen=True)
class Batch:
    """Examples that a stage works on together.

    x: (n, *input_shape); y: (n,); ids: their example_ids. audited: of each, whether it is certified
    and attacked all the same. size: how many inputs the model is given at once, at most. seed: of
    the run. tell: takes an attack's word for the passes that it still expects to make.
    """

    ids: Sequence[int]
    x: Tensor
    y: Tensor
    threat_model: ThreatModel
    audited: Sequence[bool]
    size: int
    seed: int
    tell: Callable[[float], None] | None = None


class Spent(NamedTuple):
    """Passes that one example took, and seconds where these were measured in earlier runs."""

    forward_passes: int
    backward_passes: int = 0
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a stage found out about one example.

    spent: what it took, where that is not the example's equal share of the batch.
    """

    spent: Spent | None = None


@dataclass(frozen=True, kw_only=True)
class Classified(Result):
    """The prediction of a clean pass, and the largest radius that certifiers proved on it.

    prediction: -1 where the model gave none, ABSTAINED where a smoothed classifier gave none.
    radius: NaN where nothing is proved; certifier: the label of the one that proved it. attempts:
    the certifiers that proved nothing or less than the ball. message: why there is no prediction.
    """

    prediction: int
    radius: float = math.nan
    certifier: str = ""
    attempts: tuple[Step, ...] = ()
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Certified(Result):
    """A certifier proved a radius of at least eps; certifier: its label in tables."""

    certifier: str
    radius: float


@dataclass(frozen=True, kw_only=True)
class Broken(Result):
    """An adversarial example inside the threat model was found, and checked."""

    hit: Hit


@dataclass(frozen=True, kw_only=True)
class Open(Result):
    """Nothing was decided: an attack was survived, or a certifier proved nothing.

    outcome: SURVIVED, OPEN or WITHIN_ROUNDING. message: for printing alone. margin: what a
    certifier has as a lower bound of the least margin, where it has one.
    """

    outcome: Outcome
    message: str = ""
    margin: float | None = None


@dataclass(frozen=True, kw_only=True)
class Failed(Result):
    """The stage raised an error; outcome: FAILED for an attack, NOT_APPLICABLE for a certifier."""

    outcome: Outcome
    message: str


class Stage(Protocol):
    """One step of an evaluation.

    labels: the names in tables of what it may prove; empty for an attack. probabilistic: those of
    them that may be wrong; an adversarial example inside a radius of any other is an error.
    copies: how many inputs the model is given for one example. at_most: examples of a batch, or
    None. only_on_signs: run where there are signs of masked gradients alone. sampled: run on a
    sample of the examples that it reaches. passes: about how many of the model one example takes
    that is not decided, or as long as how many its proof takes, for progress displays.
    makes_passes: whether it makes them.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def phase(self) -> Phase: ...  # noqa: D102
    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def probabilistic(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def copies(self) -> int: ...  # noqa: D102
    @property
    def at_most(self) -> int | None: ...  # noqa: D102
    @property
    def only_on_signs(self) -> bool: ...  # noqa: D102
    @property
    def sampled(self) -> bool: ...  # noqa: D102
    @property
    def passes(self) -> float: ...  # noqa: D102
    @property
    def makes_passes(self) -> bool: ...  # noqa: D102

    def run(self, batch: Batch) -> Sequence[Result]:
        """Return one Result for each example of the batch; errors of the machine are passed on."""
        ...
