"""Entries of leaderboards from the statuses of their examples, with evidence that carries them."""

from oracles.evidence import evidence
from robustbench_dyn.reporting.published import entry_of


def entry(model, statuses, *, columns=None, **facts):
    """Return the entry of a model with these statuses, see oracles.evidence; columns: of the row.

    It has no open flags unless the columns say so.
    """
    made = entry_of(evidence(model, statuses, **facts), model)
    return made._replace(row=made.row | {"open_flags": ""} | (columns or {}))
