"""Attacks and suites by name, and the attacks that a choice of names and objects stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustbench_dyn.attacks import isolated, native, suites
from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.external import autoattack, torchattacks
from robustbench_dyn.attacks.suites import Suite
from robustbench_dyn.errors import InputError, shown
from robustbench_dyn.plugins import (
    BUILT_IN,
    Entry,
    Registry,
    from_plugins,
    parse_names,
    subclass_of,
    unknown,
)
from robustbench_dyn.threat_models import Norm, check_norm

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    [
        Entry(kind.name, kind, kind.description)
        for module in (torchattacks, native, autoattack)
        for kind in module.ATTACKS
    ],
    from_plugins=from_plugins(
        "attacks", subclass_of(Attack), of_foreign=isolated.of_foreign_plugin
    ),
)
SUITES: Registry[Suite] = Registry(
    "suite of attacks",
    [Entry(suite.name, suite, suite.description) for suite in suites.SUITES],
)


def resolve_attacks(
    spec: str | Attack | Sequence[str | Attack],
    norm: Norm,
    n_classes: int,
    *,
    has_surrogates: bool | None = None,
) -> list[Attack]:
    """Return the attacks that spec stands for, in order.

    spec: a suite; names with commas, each with settings if wanted, "pgd:n_steps=100,square"; an
    Attack; or a list of names and Attacks. has_surrogates: whether the model names surrogates,
    where that is known; if so, the transfer attack ends the standard suite's unconditional part.
    Raises InputError for an unknown norm, fewer than 2 classes, an empty list, an unknown name or
    setting, two attacks of one name, and for an attack that does not support the norm, needs more
    classes, or needs surrogates where there are none.
    """
    check_norm(norm)
    if n_classes < 2:
        raise InputError(f"n_classes={n_classes} leaves nothing to mistake; a classifier needs 2")
    choice = list(spec) if isinstance(spec, Iterable) and not isinstance(spec, str) else [spec]
    if not choice:
        raise InputError("the list of attacks is empty; to run no attack, give 'none'")
    if len(choice) == 1 and isinstance(choice[0], str) and choice[0].strip() in SUITES:
        suite = SUITES.get(choice[0].strip())
        return suite.attacks(norm, n_classes, bool(has_surrogates))
    attacks = _distinct(attack for item in choice for attack in _attacks_of(item))
    for attack in attacks:
        _check_fit(attack, norm, n_classes, has_surrogates=has_surrogates)
    return attacks


def _attacks_of(item: str | Attack) -> list[Attack]:
    if isinstance(item, str):
        return [_create(name, settings) for name, settings in parse_names(item)]
    if not isinstance(item, Attack):
        raise InputError(
            f"{shown(item)} is neither a name nor an attack; give an object, such as "
            "PGD(n_steps=100)"
        )
    if item.name in ATTACKS:
        entry = ATTACKS.entry(item.name)
        # Verdicts are stored by name: another class would be given those of the built-in attack.
        if entry.origin == BUILT_IN and type(item) is not entry.target:
            raise InputError(
                f"{type(item).__name__} is called {item.name!r}, as a built-in attack is; give the "
                "class another name"
            )
    return [item]


def _create(name: str, settings: Mapping[str, Any]) -> Attack:
    if name in SUITES:
        raise InputError(f"{name!r} is a suite, not an attack; give a suite alone, as it is")
    if name not in ATTACKS:
        hint = "a suite, or attacks with commas: "
        raise InputError(unknown("attack", name, [*SUITES, *ATTACKS], hint=hint))
    attack = ATTACKS.create(name, settings)
    if not isinstance(attack, Attack):
        raise InputError(
            f"{name!r} from {ATTACKS.entry(name).origin} is no attack; make it a subclass of Attack"
        )
    return attack


def _distinct(attacks: Iterable[Attack]) -> list[Attack]:
    """Return the attacks without repetitions; one name cannot stand for two of them."""
    by_name = dict[str, Attack]()
    for attack in attacks:
        if by_name.setdefault(attack.name, attack) != attack:
            raise InputError(
                f"attack {attack.name!r} is given twice with different settings, and verdicts know "
                "it by its name; give one of them"
            )
    return list(by_name.values())


def _check_fit(attack: Attack, norm: Norm, n_classes: int, *, has_surrogates: bool | None) -> None:
    if norm not in attack.norms:
        supported = ", ".join(sorted(attack.norms))
        raise InputError(
            f"attack {attack.name!r} supports {supported}, not {norm}; choose another attack"
        )
    if n_classes < attack.min_classes:
        raise InputError(
            f"attack {attack.name!r} needs {attack.min_classes} classes or more, and the model has "
            f"{n_classes}; use apgd-ce or fab-t"
        )
    if attack.needs_surrogates and has_surrogates is False:
        raise InputError(
            f"attack {attack.name!r} needs surrogates, and the model names none; give it a "
            "method surrogates() -> dict[str, nn.Module], or choose another attack"
        )
