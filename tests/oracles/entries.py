"""Entries of leaderboards from the statuses of their examples, with evidence that carries them."""

from oracles.evidence import evidence
from robustbench_dyn.reporting.published import entry_of
from robustbench_dyn.reporting.ranking import ranked


def entry(model, statuses, *, columns=None, **facts):
    """Return the entry of a model with these statuses, see oracles.evidence; columns: of the row.

    It has no open flags unless the columns say so.
    """
    made = entry_of(evidence(model, statuses, **facts), model)
    return made._replace(row=made.row | {"open_flags": ""} | (columns or {}))


def letters(n_certified, n=200):
    """Return statuses of n examples: so many certified, 10 undecided, the others broken."""
    return "c" * n_certified + "u" * 10 + "b" * (n - n_certified - 10)


# Of one table: two tied models, one with two seeds, one on other images, one with an open flag.
ENTRIES = ranked(
    [
        entry("a", letters(150), eps=8 / 255, norm="Linf"),
        entry("b", letters(150), eps=8 / 255, norm="Linf"),
        entry("c", letters(20), eps=8 / 255, norm="Linf", seed=0),
        entry("c", letters(40), eps=8 / 255, norm="Linf", seed=1),
        entry("few", letters(30, 50), eps=8 / 255, norm="Linf"),
        entry(
            "masked",
            letters(190),
            eps=8 / 255,
            norm="Linf",
            columns={"open_flags": "zero_gradients:0.4", "corrections": "example 3 by x (2026)"},
        ),
    ]
)
