"""The result of an evaluation: verdicts, the row made of them, and how both are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.results.attempts import Attempt
from robustbench_dyn.results.cells import to_markdown_text
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.curves import curve_points
from robustbench_dyn.results.headings import format_eps, format_percent, heading
from robustbench_dyn.results.telling import (
    bracket_of,
    counts_of,
    notes_of,
    table_of,
    threat_model_of,
    title_of,
)
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS, Verdict
from robustbench_dyn.threat_models import ThreatModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

X_ADV: Final = "x_adv"


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Verdicts of one model under one threat model, and the leaderboard row made of them.

    key: what the store calls the evaluation. costs: what it took, stage by stage, in this run and
    in those before it that left verdicts in the store. not_applicable: certifiers of `auto` that
    cannot treat the model, with the reason. attempts: what each certifier came to. data: the
    examples. model: the model as it was given, for show(); None for a smoothed classifier. A
    pickled evaluation leaves the model behind.
    """

    threat_model: ThreatModel
    verdicts: tuple[Verdict, ...]
    summary: dict[str, Any]
    key: str
    costs: tuple[StageCost, ...]
    not_applicable: dict[str, str] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    data: Dataset | None = field(default=None, compare=False)
    model: nn.Module | None = field(default=None, compare=False)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Return one row an example, in the order of example_id.

        x_adv, the last column: the adversarial example as an array of the input's shape, None where
        none was found. No table on disk can hold it: drop it before to_csv and to_parquet.
        """
        import pandas as pd  # noqa: PLC0415  (slow to import, wanted only here)

        from robustbench_dyn.drawing.arrays import adversarial_array  # noqa: PLC0415

        rows = [[getattr(v, column) for column in EXAMPLE_COLUMNS] for v in self.verdicts]
        table = pd.DataFrame(rows, columns=list(EXAMPLE_COLUMNS))
        arrays = pd.Series([None] * len(table), dtype=object)
        if self.data is not None:
            for place, verdict in enumerate(self.verdicts):
                arrays[place] = adversarial_array(verdict, self.data)
        return table.assign(status=table["status"].map(str), **{X_ADV: arrays})

    def plot(self, *, title: str = "") -> Figure:
        """Draw the examples of each status as a bar, and certified radii and attacks over eps.

        Returns a matplotlib Figure, which notebooks show; figure.savefig(file) writes it.
        """
        from robustbench_dyn.drawing.radii import plot_bracket  # noqa: PLC0415

        return plot_bracket(self, title=title)

    def show(self, example_id: int) -> Figure:
        """Draw one example beside the adversarial example that was found, with the predictions.

        Images: original, perturbation, adversarial example. Points of the plane: in the decision
        regions, with the ball of eps and the certified ball. Other inputs: their values in order.
        The predictions are those of the model as it is now. Raises InputError where the example was
        not evaluated.
        """
        from robustbench_dyn.drawing.examples import show_example  # noqa: PLC0415

        return show_example(self, example_id)

    def to_markdown(self) -> str:
        """Return the title, the row and the notes below it as Markdown, accuracies in percent."""
        return evaluations_markdown([self])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({title_of(self.summary)}, {threat_model_of(self)}: "
            f"{bracket_of(self)}; {counts_of(self)})"
        )

    def _repr_html_(self) -> str:
        from robustbench_dyn.drawing.html import evaluations_html  # noqa: PLC0415

        return evaluations_html([self])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"model": None}


@dataclass(frozen=True, repr=False)
class CurveEvaluation(Evaluation):
    """Verdicts at the widest eps of a norm, each with all that is known below.

    A verdict's certified_radius is the largest that was proved, and its adversarial_distance that
    of the nearest adversarial example found. radii: where certifiers were run, rising from 0.
    """

    radii: tuple[float, ...] = ()

    def plot(self, *, title: str = "") -> Figure:
        """Draw certified and empirical accuracy over eps.

        Returns a matplotlib Figure, which notebooks show; figure.savefig(file) writes it.
        """
        from robustbench_dyn.drawing.curves import plot_curves  # noqa: PLC0415

        return plot_curves({self.summary["model"]: self}, title=title)

    def to_markdown(self) -> str:
        """Return the curve at its radii as Markdown, accuracies in percent."""
        rows = [
            [
                # Radii of a grid; their digits say nothing.
                format_eps(point.eps, digits=4),
                format_percent(point.certified_accuracy),
                format_percent(point.empirical_accuracy),
            ]
            for point in curve_points(self.verdicts, self.radii)
        ]
        headings = map(heading, ("eps", "certified_accuracy", "empirical_accuracy"))
        return _markdown(self._title(), [*headings], rows, [*notes_of([self], curve=True)])

    def __repr__(self) -> str:
        shown = {self.radii[0], self.radii[len(self.radii) // 2], self.radii[-1]}
        brackets = (
            f"[{format_percent(point.certified_accuracy)} %, "
            f"{format_percent(point.empirical_accuracy)} %] at {format_eps(point.eps, digits=3)}"
            for point in curve_points(self.verdicts, sorted(shown))
        )
        return f"{type(self).__name__}({self._title()}: robust accuracy in {', '.join(brackets)})"

    def _repr_html_(self) -> str:
        from robustbench_dyn.drawing.html import curve_html  # noqa: PLC0415

        return curve_html(self, curve_points(self.verdicts, self.radii))

    def _title(self) -> str:
        return f"{title_of(self.summary)}, {self.threat_model.norm}"


def evaluations_markdown(evaluations: Sequence[Evaluation]) -> str:
    """Return evaluations of one model as a Markdown table, one row an eps."""
    headings, rows = table_of(evaluations)
    first = evaluations[0]
    title = f"{title_of(first.summary)}, {first.threat_model.norm}"
    return _markdown(title, headings, rows, [*notes_of(evaluations)])


def _markdown(title: str, headings: list[str], rows: list[list[str]], notes: list[str]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (headings, ["---:"] * len(headings), *rows)]
    parts = [f"**{to_markdown_text(title)}**", "\n".join(lines), *map(to_markdown_text, notes)]
    return "\n\n".join(parts) + "\n"
