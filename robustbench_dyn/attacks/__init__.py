"""Attacks by name, and AutoAttack's suites with their own settings for each norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.pyautoattack_adapter import Settings, members
from robustbench_dyn.attacks.torchattacks_adapter import ATTACKS
from robustbench_dyn.errors import InputError
from robustbench_dyn.threat_models import check_norm

__all__ = ["Attack", "attack_info", "attack_names", "resolve_attacks", "suite_names"]

_NAMED: dict[str, Attack] = {attack.name: attack for attack in ATTACKS} | members(Settings())

# The members and settings of AutoAttack's versions; L1 has settings of its own in `standard`.
_SUITES: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "none": (),
}
_SETTINGS: dict[tuple[str, str], Settings] = {
    ("standard", "L1"): Settings(apgd_restarts=5, apgd_targets=5, fab_restarts=1, large_radii=True),
    ("standard", ""): Settings(apgd_restarts=1, fab_restarts=1),
    ("plus", ""): Settings(),
    ("rand", ""): Settings(apgd_restarts=1, eot_iterations=20),
    ("none", ""): Settings(),
}


def attack_names() -> tuple[str, ...]:
    """Name every single attack."""
    return tuple(_NAMED)


def suite_names() -> tuple[str, ...]:
    """Name every suite; `none` runs no attack."""
    return tuple(_SUITES)


def attack_info(name: str) -> Attack:
    """Look an attack up; raises InputError, with the nearest name, where there is none."""
    if name in _NAMED:
        return _NAMED[name]
    if name in _SUITES:
        raise InputError(f"{name!r} is a suite, not an attack; give a suite alone")
    near = get_close_matches(name, [*_NAMED, *_SUITES], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"no attack is called {name!r}; {hint}choose a suite ({', '.join(_SUITES)}) "
        f"or attacks, with commas: {', '.join(_NAMED)}"
    )


def resolve_attacks(spec: str | Sequence[str], norm: str, n_classes: int) -> list[Attack]:
    """Return the attacks that spec names, in order: a suite, a name, names with commas, or a list.

    In a suite, members whose loss is undefined for so few classes are left out and Auto-PGD on
    cross-entropy gets five restarts instead. Raises InputError for an unknown norm, fewer than 2
    classes, an empty list, an unknown name, and for a named attack that does not know the norm or
    needs more classes.
    """
    check_norm(norm)
    if n_classes < 2:
        raise InputError(f"n_classes={n_classes} leaves nothing to mistake; a classifier needs 2")
    names = [part.strip() for part in spec.split(",")] if isinstance(spec, str) else list(spec)
    if not names:
        raise InputError("the list of attacks is empty; to run no attack, say 'none'")
    if len(names) == 1 and names[0] in _SUITES:
        return _suite(names[0], norm, n_classes)
    return [_fitting(attack_info(name), norm, n_classes) for name in names]


def _suite(name: str, norm: str, n_classes: int) -> list[Attack]:
    settings = _SETTINGS.get((name, norm), _SETTINGS[name, ""])
    known = members(settings)
    if any(known[member].min_classes > n_classes for member in _SUITES[name]):
        known = members(replace(settings, apgd_restarts=5))
    wanted = [known[member] for member in _SUITES[name]]
    return [attack for attack in wanted if attack.min_classes <= n_classes]


def _fitting(attack: Attack, norm: str, n_classes: int) -> Attack:
    if norm not in attack.norms:
        known = ", ".join(sorted(attack.norms))
        raise InputError(f"attack {attack.name!r} knows {known}, not {norm}; choose another attack")
    if n_classes < attack.min_classes:
        raise InputError(
            f"attack {attack.name!r} needs {attack.min_classes} classes or more, and the model has "
            f"{n_classes}; use apgd-ce or fab-t"
        )
    return attack
