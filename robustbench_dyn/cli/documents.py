"""Parts of the JSON documents that several commands print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from robustbench_dyn.results.summary import count_statuses

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_dyn.evaluation.result import CurveEvaluation, Evaluation
    from robustbench_dyn.results.attempts import Attempt


def counts_of(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return the number of examples of each status, at each eps."""
    return [
        {"eps": evaluation.threat_model.eps}
        | {str(status): n for status, n in count_statuses(evaluation.verdicts).items()}
        for evaluation in evaluations
    ]


def attempts_of(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return what each certifier came to at each eps; see results.attempts.Attempt."""
    return [as_document(attempt) for one in evaluations for attempt in one.attempts]


def curve_document(evaluation: CurveEvaluation, points: pd.DataFrame) -> dict[str, Any]:
    """Return a curve with what it was made of; points: its rows, as of reporting.curves.curve."""
    about = ("model", "dataset", "norm", "n_examples", "seed", "attacks", "certifiers", "flags")
    return {
        **{name: evaluation.summary[name] for name in about},
        "attempts": attempts_of([evaluation]),
        "curve": points.to_dict("records"),
    }


def as_document(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as JSON has it: a spread is an object, or null where there is no number."""
    spreads = {name: getattr(attempt, name) for name in ("radii", "margins")}
    return asdict(attempt) | {
        name: None if spread is None else spread._asdict() for name, spread in spreads.items()
    }


def rows_of(by_model: dict[str, list[Evaluation]]) -> list[dict[str, Any]]:
    """Return the rows of the leaderboard, of one model after the other."""
    return [evaluation.summary for evaluations in by_model.values() for evaluation in evaluations]


def of_each(
    describe: Callable[[Sequence[Evaluation]], list[dict[str, Any]]],
    by_model: dict[str, list[Evaluation]],
) -> list[dict[str, Any]]:
    """Return descriptions of the evaluations, each with its model."""
    return [
        {"model": name, **document}
        for name, evaluations in by_model.items()
        for document in describe(evaluations)
    ]
