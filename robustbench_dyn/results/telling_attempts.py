"""Sentences about certifiers: why one was not applicable, by how much another one fell short."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from robustbench_dyn.results.attempts import Attempt
from robustbench_dyn.results.headings import counted, format_eps


def told_attempts(attempts: Sequence[Attempt]) -> list[str]:
    """Return one sentence a certifier, about the eps that tells most.

    That is the least one at which nothing was proved, or else the largest one.
    """
    if not attempts:
        return ["no certifier was run, so that nothing is certified"]
    all_eps = sorted({attempt.eps for attempt in attempts})
    in_vain = [eps for eps in all_eps if not _proved(attempts, eps)]
    eps = in_vain[0] if in_vain else all_eps[-1]
    at = f"at eps {format_eps(eps)}, " if len(all_eps) > 1 else ""
    chosen = [attempt for attempt in attempts if attempt.eps == eps]
    ran = [attempt for attempt in chosen if not attempt.not_applicable]
    told = [f"{attempt.certifier}: {at}{_of_one(attempt)}" for attempt in ran]
    return [*told, *_not_applicable(chosen, briefly=eps not in in_vain)]


def told_radii(attempts: Sequence[Attempt]) -> list[str]:
    """Return one sentence a certifier about the radii that it proved along a curve."""
    if not attempts:
        return ["no certifier was run, so that nothing is certified above eps 0"]
    told, proves = list[str](), False
    for attempt in attempts:
        if attempt.not_applicable:
            continue
        if attempt.radii is None:
            told.append(f"{attempt.certifier}: its radius is the largest one of no example")
            continue
        proves = True
        told.append(
            f"{attempt.certifier}: certified radii up to {attempt.radii.largest:.3g} (median "
            f"{attempt.radii.median:.3g})"
        )
    return [*told, *_not_applicable(attempts, briefly=proves)]


def _proved(attempts: Iterable[Attempt], eps: float) -> int:
    return sum(attempt.proved for attempt in attempts if attempt.eps == eps)


def _not_applicable(attempts: Iterable[Attempt], *, briefly: bool) -> Iterator[str]:
    """Yield a sentence a reason, with all certifiers that have it; briefly: one, without reasons.

    Where other certifiers prove something, the reasons are of less interest.
    """
    names: dict[str, list[str]] = {}
    for attempt in attempts:
        if attempt.not_applicable:
            names.setdefault(attempt.not_applicable, []).append(attempt.certifier)
    if briefly and names:
        all_names = ", ".join(name for group in names.values() for name in group)
        why = "`attempts`, in --json and Python, has the reasons"
        yield f"not run on this model: {all_names} ({why})"
        return
    for reason, group in names.items():
        yield f"{', '.join(group)}: not run: {reason}"


def _of_one(attempt: Attempt) -> str:
    n = attempt.tried
    if not n:
        return "run on no example, since none was left for it"
    told = f"proved {attempt.proved} of {counted(n, 'example')}"
    parts = [*_shortfall(attempt)]
    return "; ".join([told, *parts])


def _shortfall(attempt: Attempt) -> Iterator[str]:
    """Yield what is known of the examples that were not proved."""
    if attempt.proved == attempt.tried:
        return
    others = "on the others, " if attempt.proved else ""
    if attempt.radii is not None:
        yield (
            f"{others}its radii reach {attempt.radii.largest:.3g} (median "
            f"{attempt.radii.median:.3g}), and eps is {format_eps(attempt.eps)}"
        )
    elif attempt.margins is not None:
        yield (
            f"{others}its lower bounds of the margin reach {attempt.margins.largest:.3g} (median "
            f"{attempt.margins.median:.3g}), and a proof needs one above 0"
        )
    elif not attempt.unproved:
        yield f"{others}it proved no radius above 0"
    for reason, n in attempt.unproved.items():
        yield f"{reason} ({counted(n, 'example')})"
