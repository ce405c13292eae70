"""Contracts: rules for every thing of a kind, each tested with a negative control."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from robustbench_dyn.errors import DataUnavailableError

T = TypeVar("T")


class Outcome(NamedTuple):
    """What a test of a rule found; holds: None where the rule does not apply."""

    holds: bool | None
    detail: str = ""


class Finding(NamedTuple):
    """A rule of a contract and whether its subject keeps it; None where it does not apply.

    caught: the faults that the same test found in counterparts that break the rule on purpose.
    """

    rule: str
    holds: bool | None
    detail: str = ""
    caught: tuple[str, ...] = ()


class Control(NamedTuple):
    """A check of a counterpart that breaks a rule on purpose, and what the counterpart does."""

    rule: str
    fault: str
    check: Callable[[], Iterable[Finding]]


@dataclass(frozen=True)
class Rule(Generic[T]):
    """A rule, its test, and counterparts that break it on purpose, with what each does wrong."""

    name: str
    test: Callable[[T], Outcome]
    broken: Iterable[tuple[str, T]]


def check_contract(subject: T, rules: Iterable[Rule[T]]) -> Iterator[Finding]:
    """Yield a Finding for each rule.

    An exception of the subject breaks the rule. A rule whose test passes a broken counterpart does
    not count as kept: the test itself is wrong. Raises DataUnavailableError, as the subject does.
    """
    for rule in rules:
        outcome = _try(rule.test, subject)
        caught = list[str]()
        for fault, counterpart in rule.broken if outcome.holds is not None else ():
            # Without _try: the test must find the fault, and a crash is no finding.
            if rule.test(counterpart).holds is not False:
                outcome = Outcome(False, f"the test is wrong: it passes one that {fault}")
                break
            caught.append(fault)
        yield Finding(rule.name, outcome.holds, outcome.detail, tuple(caught))


def with_controls(findings: Iterable[Finding], controls: Iterable[Control]) -> Iterator[Finding]:
    """Yield findings, each with the faults that the check of its rule caught in counterparts.

    A rule does not count as kept where its check passes a broken counterpart, or has none to pass.
    """
    of_rule = dict[str, list[Control]]()
    for control in controls:
        of_rule.setdefault(control.rule, []).append(control)
    for finding in findings:
        caught = list[str]()
        for control in of_rule.get(finding.rule, ()):
            found = {counterpart.rule: counterpart for counterpart in control.check()}
            if found[finding.rule].holds is False:
                caught.append(control.fault)
        missed = [c.fault for c in of_rule.get(finding.rule, ()) if c.fault not in caught]
        if missed or not caught:
            wrong = (
                f"the test is wrong: it passes one that {', '.join(missed) or 'breaks the rule'}"
            )
            yield Finding(finding.rule, False, wrong)
        else:
            yield finding._replace(caught=tuple(caught))


def _try(test: Callable[[T], Outcome], subject: T) -> Outcome:
    try:
        return test(subject)
    except DataUnavailableError:
        raise
    # The subject may be any code.
    except Exception as error:
        return Outcome(False, f"it raises {type(error).__name__}: {error}")
