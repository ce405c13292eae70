"""The result of the evaluation of a smoothed classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.result import Evaluation, evaluations_markdown
from robustbench_dyn.results.attempts import Attempt
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.headings import format_eps
from robustbench_dyn.results.verdicts import Verdict
from robustbench_dyn.smoothing.stages import CertifiedExample
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from robustbench_dyn.datasets import Dataset


@dataclass(frozen=True, repr=False)
class SmoothedEvaluation:
    """One Evaluation a threat model, as for any model, and one certificate an example.

    The attributes of an Evaluation are here, too: those of the first threat model that was given,
    since most runs have one; at(eps) returns the Evaluation of another. The HTML and to_markdown()
    show all of them.
    """

    evaluations: tuple[Evaluation, ...]
    certificates: tuple[CertifiedExample, ...]

    def at(self, eps: float) -> Evaluation:
        """Return the evaluation at one of the eps that were given; InputError for another."""
        for evaluation in self.evaluations:
            if evaluation.threat_model.eps == eps:
                return evaluation
        given = ", ".join(format_eps(one.threat_model.eps) for one in self.evaluations)
        raise InputError(f"eps={eps!r} was not evaluated; choose one of {given}")

    @property
    def threat_model(self) -> ThreatModel:
        """The first threat model."""
        return self.evaluations[0].threat_model

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts under the first threat model."""
        return self.evaluations[0].verdicts

    @property
    def summary(self) -> dict[str, Any]:
        """The leaderboard row of the first threat model."""
        return self.evaluations[0].summary

    @property
    def key(self) -> str:
        """The name of the evaluation in the store."""
        return self.evaluations[0].key

    @property
    def costs(self) -> tuple[StageCost, ...]:
        """The costs of the stages under the first threat model."""
        return self.evaluations[0].costs

    @property
    def not_applicable(self) -> dict[str, str]:
        """Certifiers that cannot treat the model; votes treat every model."""
        return self.evaluations[0].not_applicable

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What the votes came to under the first threat model."""
        return self.evaluations[0].attempts

    @property
    def data(self) -> Dataset | None:
        """The examples."""
        return self.evaluations[0].data

    @property
    def examples(self) -> pd.DataFrame:
        """One row an example under the first threat model."""
        return self.evaluations[0].examples

    def plot(self, *, title: str = "") -> Figure:
        """Draw the first threat model as Evaluation.plot does."""
        return self.evaluations[0].plot(title=title)

    def show(self, example_id: int) -> Figure:
        """Draw one example under the first threat model as Evaluation.show does.

        The class of the adversarial example is not said, since it takes new votes.
        """
        return self.evaluations[0].show(example_id)

    def to_markdown(self) -> str:
        """Return a Markdown table with a row for each threat model."""
        return evaluations_markdown(self.evaluations)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.evaluations))})"

    def _repr_html_(self) -> str:
        from robustbench_dyn.drawing.html import evaluations_html  # noqa: PLC0415

        return evaluations_html(self.evaluations)
