"""Attacks by name, and suites of them: our standard one, and AutoAttack's versions as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from robustbench_dyn.attacks import native
from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.external import autoattack
from robustbench_dyn.attacks.external.autoattack import PREFIX, Settings
from robustbench_dyn.attacks.external.torchattacks import ATTACKS
from robustbench_dyn.attacks.native import ON_SIGNS, TRANSFER
from robustbench_dyn.errors import InputError
from robustbench_dyn.models.counting import surrogates_of
from robustbench_dyn.threat_models import check_norm

__all__ = [
    "BLACK_BOX",
    "TRANSFER",
    "Attack",
    "attack_info",
    "attack_names",
    "resolve_attacks",
    "suite_names",
    "surrogates_of",
]

# The attacks that look at no gradient of the model.
BLACK_BOX = frozenset({TRANSFER, "square", PREFIX + "square", *ON_SIGNS})

_NAMED: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        *ATTACKS,
        *native.members().values(),
        *autoattack.members(Settings()).values(),
    )
}

# `standard` is AutoAttack's standard version by our own attacks, and `rand` its version for
# randomised models; the others, and both of them in L1, are pyautoattack's.
_SUITES: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "autoattack": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "none": (),
}
# The settings of AutoAttack's versions; L1 has settings of its own in the standard one.
_SETTINGS: dict[tuple[str, str], Settings] = {
    ("autoattack", "L1"): Settings(
        apgd_restarts=5, apgd_targets=5, fab_restarts=1, large_radii=True
    ),
    ("autoattack", ""): Settings(apgd_restarts=1, fab_restarts=1),
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


def resolve_attacks(
    spec: str | Sequence[str], norm: str, n_classes: int, *, has_surrogates: bool | None = None
) -> list[Attack]:
    """Return the attacks that spec names, in order: a suite, a name, names with commas, or a list.

    In a suite, members whose loss is undefined for so few classes are left out and Auto-PGD on
    cross-entropy gets five restarts instead. has_surrogates: whether the model names surrogates,
    where that is known; if so, the transfer attack ends the standard suite. Every suite but `rand`
    and `none` ends with attacks that are run only on signs of masked gradients (only_on_signs).
    Raises InputError for an unknown norm, fewer than 2 classes, an empty list, an unknown name, and
    for a named attack that does not know the norm, needs more classes, or needs surrogates where
    there are none.
    """
    check_norm(norm)
    if n_classes < 2:
        raise InputError(f"n_classes={n_classes} leaves nothing to mistake; a classifier needs 2")
    names = [part.strip() for part in spec.split(",")] if isinstance(spec, str) else list(spec)
    if not names:
        raise InputError("the list of attacks is empty; to run no attack, say 'none'")
    if len(names) == 1 and names[0] in _SUITES:
        return _suite(names[0], norm, n_classes, has_surrogates=bool(has_surrogates))
    attacks = [_fitting(attack_info(name), norm, n_classes) for name in names]
    for attack in attacks:
        if attack.on_surrogates and has_surrogates is False:
            raise InputError(
                f"attack {attack.name!r} needs surrogates, and the model names none; give it a "
                "method surrogates() -> dict[str, nn.Module], or choose another attack"
            )
    return attacks


def _suite(name: str, norm: str, n_classes: int, *, has_surrogates: bool) -> list[Attack]:
    on_signs = [
        replace(attack, only_on_signs=True)
        for attack in (_NAMED[member] for member in ON_SIGNS)
        if norm in attack.norms and name not in ("rand", "none")
    ]
    if name == "standard" and norm == "L1":
        # Our Auto-PGD and Square know no L1.
        name = "autoattack"
    known, many = native.members(), native.members(apgd_restarts=5)
    if name == "standard":
        wanted = [*_SUITES[name], *([TRANSFER] if has_surrogates else [])]
        if n_classes == 3:
            # DLR is defined, and its targeted form is not.
            wanted.insert(1, "apgd-dlr")
    elif name == "rand" and norm != "L1":
        wanted = ["eot-" + member for member in _SUITES[name]]
    else:
        settings = _SETTINGS.get((name, norm), _SETTINGS[name, ""])
        known = autoattack.members(settings)
        many = autoattack.members(replace(settings, apgd_restarts=5))
        wanted = [PREFIX + member for member in _SUITES[name]]
    if any(known[member].min_classes > n_classes for member in wanted):
        known = many
    fitting = [known[member] for member in wanted if known[member].min_classes <= n_classes]
    return [*fitting, *on_signs]


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
