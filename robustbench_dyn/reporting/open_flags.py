"""Open flags: what keeps a row from being ranked, until what the flag asks for was run."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from robustbench_dyn.results.flags import (
    CERTIFIED_ELSEWHERE,
    CHANGED,
    COUPLED,
    GRAD_MODE,
    NO_GRADIENTS,
    NOT_AUDITED,
    PIECEWISE_CONSTANT,
    RANDOM,
    REFUTED_BOUND,
    SOFTMAX_OUTPUTS,
    TINY_LOGITS,
    name_of,
)

_Row = Mapping[str, Any]
# The + between attacks, and not one in a setting such as pgd(step_size=1e+3).
_BETWEEN = re.compile(r"\+(?![^()]*\))")


def open_flags(row: _Row, failed_properties: Collection[str] = ()) -> list[str]:
    """Return the flags that keep a row apart, in the order in which they stand in it.

    failed_properties: the declared properties of the model that were measured and do not hold.
    Each flag is explained in results.flags.FLAGS.
    """
    flags = [
        flag
        for flag in str(row["flags"] or "").split()
        if _IS_OPEN.get(name_of(flag), _never)(flag, row)
    ]
    flags += [f"property_failed:{name}" for name in failed_properties]
    if not row["training_record"]:
        flags.append("no_training_record")
    if row["empirical_accuracy"] is None:
        flags.append("no_attack")
    if not row["evidence_sha256"]:
        flags.append("no_evidence")
    return flags


def _never(flag: str, row: _Row) -> bool:
    del flag, row
    return False


def _always(flag: str, row: _Row) -> bool:
    del flag, row
    return True


def _without_added_attacks(flag: str, row: _Row) -> bool:
    """Whether the suite added no attack because of the signs, or none of those ended."""
    del flag
    return not _names(row["added_attacks"]) - _failed(row)


def _without_surrogate(flag: str, row: _Row) -> bool:
    del flag
    return "transfer" not in _names(row["attacks"]) - _failed(row)


def _without_expectation(flag: str, row: _Row) -> bool:
    ended = _names(row["attacks"]) - _failed(row)
    in_expectation = any(name.startswith("eot") for name in ended)
    return not in_expectation and _without_added_attacks(flag, row)


def _on_every_example(flag: str, row: _Row) -> bool:
    """Whether an attack failed on each example that it was given."""
    return flag.split(":")[1] in _failed(row)


def _while_prepared(flag: str, row: _Row) -> bool:
    """Whether a certifier failed before it saw an example, so that the flag counts none."""
    del row
    return flag.count(":") == 1


def _names(attacks: str | None) -> set[str]:
    """Return the names in a column of attacks, without their settings."""
    return {label.partition("(")[0] for label in _labels(attacks)}


def _failed(row: _Row) -> set[str]:
    """Return the names of the attacks that failed on each example."""
    failed = [label for label in _labels(row["attacks"]) if label.endswith("(failed)")]
    return {label.partition("(")[0] for label in failed}


def _labels(attacks: str | None) -> list[str]:
    return [label for label in _BETWEEN.split(attacks or "") if label]


_IS_OPEN: Final[Mapping[str, Callable[[str, _Row], bool]]] = {
    "attack_failed": _on_every_example,
    "certifier_failed": _while_prepared,
    "unattacked": _always,
    RANDOM: _without_expectation,
    COUPLED: _always,
    GRAD_MODE: _always,
    CHANGED: _always,
    CERTIFIED_ELSEWHERE: _always,
    REFUTED_BOUND: _always,
    NOT_AUDITED: _always,
    TINY_LOGITS: _without_added_attacks,
    SOFTMAX_OUTPUTS: _without_added_attacks,
    PIECEWISE_CONSTANT: _without_surrogate,
    NO_GRADIENTS: _without_surrogate,
    "white_box_failed": _always,
    "hits_inside_radius": _always,
    "zero_gradients": _without_added_attacks,
    "wrong_gradients": _without_added_attacks,
    "accuracy_at_large_eps": _without_added_attacks,
    "*_beats_white_box": _without_added_attacks,
}
