"""Attacks by name, with settings, and suites of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustbench_dyn import attacks
from robustbench_dyn.attacks import (
    APGD,
    ATTACKS,
    CW,
    PGD,
    SUITES,
    AutoAttackAPGD,
    AutoAttackAPGDT,
    Square,
    resolve_attacks,
)
from robustbench_dyn.errors import InputError


def names(spec, norm="Linf", n_classes=10, **options):
    chosen = resolve_attacks(spec, norm, n_classes, **options)
    return [attack.name for attack in chosen if not attack.only_on_signs]


# Names, objects and settings


def test_names_and_objects_resolve_in_order():
    assert names(" pgd, square") == names(["pgd", "square"]) == ["pgd", "square"]
    assert resolve_attacks(PGD(n_steps=7), "L2", 10) == [PGD(n_steps=7)]
    assert resolve_attacks([Square(), "cw"], "L2", 10) == [Square(), CW()]


def test_settings_are_given_after_the_name():
    assert resolve_attacks("pgd:n_steps=100,random_start=false,square", "L2", 10) == [
        PGD(n_steps=100, random_start=False),
        Square(),
    ]
    assert resolve_attacks(["square", "pgd:n_steps=3,alpha=0.1"], "L2", 10) == [
        Square(),
        PGD(n_steps=3, alpha=0.1),
    ]


@pytest.mark.parametrize(
    ("spec", "norm", "n_classes", "message"),
    [
        ("sqare", "Linf", 10, "did you mean 'square'.* choose a suite, or attacks with commas: "),
        ("standrad", "Linf", 10, "did you mean 'standard'"),
        ("", "L2", 10, "no attack is called ''"),
        ([], "L2", 10, "'none'"),
        ("pgd,standard", "L2", 10, "'standard' is a suite, not an attack"),
        ("standard:n_steps=3", "L2", 10, "'standard' is a suite, not an attack"),
        (["pgd", 3], "L2", 10, "3 is neither a name nor an attack"),
        ("pgd:steps=3", "L2", 10, "no setting of attack 'pgd' is called 'steps'; did you mean 'n_"),
        ("pgd:only_on_signs=true", "L2", 10, "choose n_steps, alpha, random_start"),
        ("pgd:n_steps=many", "L2", 10, "attack 'pgd': n_steps='many' is not a whole number"),
        ("pgd:alpha=-1", "L2", 10, "alpha=-1 is not positive"),
        ("aa-apgd-ce:eot_iter=0", "L2", 10, "eot_iter=0 is below 1"),
        ("pgd,square,pgd:n_steps=3", "L2", 10, "'pgd' is given twice with different settings"),
        ("apgd-t", "Linf", 3, "needs 4 classes"),
        ("apgd-dlr", "L2", 2, "needs 3 classes"),
        ("cw", "Linf", 10, "supports L2, not Linf"),
        ("pgd", "L1", 10, "supports L2, Linf, not L1"),
        ("standard", "L3", 10, "norm='L3'"),
        ("standard", "L2", 1, "n_classes=1"),
    ],
)
def test_what_cannot_be_run_is_refused(spec, norm, n_classes, message):
    with pytest.raises(InputError, match=message):
        resolve_attacks(spec, norm, n_classes)


def test_the_same_attack_twice_is_run_once():
    assert names("pgd,square,pgd") == ["pgd", "square"]


# Suites


def test_suites_have_their_members_in_order():
    assert list(SUITES) == ["standard", "standard-full", "autoattack", "plus", "rand", "none"]
    assert names("standard") == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert names(["autoattack"]) == ["aa-apgd-ce", "aa-apgd-t", "aa-fab-t", "aa-square"]
    assert names("standard", norm="L1") == names("autoattack", norm="L1")
    assert names("none") == []
    for norm in ("L2", "Linf"):
        assert names("rand", norm) == names("rand", norm, 3) == ["eot-apgd-ce", "eot-apgd-dlr"]
        assert names("rand", norm, 2) == ["eot-apgd-ce"]
    assert names("rand", "L1") == ["aa-apgd-ce", "aa-apgd-dlr"]


def test_transfer_ends_the_standard_suite_where_there_are_surrogates():
    assert names("standard", has_surrogates=True) == [*names("standard"), "transfer"]
    assert names("standard", "L1", has_surrogates=True) == names("standard", "L1")
    assert names("autoattack", has_surrogates=True) == names("autoattack")


def test_suites_end_with_attacks_that_are_run_only_on_signs():
    def on_signs(spec, norm):
        chosen = resolve_attacks(spec, norm, 10)
        flags = [attack.only_on_signs for attack in chosen]
        assert flags == sorted(flags)
        return [attack.name for attack in chosen if attack.only_on_signs]

    for suite in ("standard", "autoattack", "plus"):
        assert on_signs(suite, "Linf") == ["rays", "hop-skip-jump", "square-long"]
        assert on_signs(suite, "L2") == ["hop-skip-jump", "square-long"]
        assert on_signs(suite, "L1") == ["hop-skip-jump"]
    for spec in ("rand", "none", "apgd-ce", "hop-skip-jump,square-long"):
        assert on_signs(spec, "Linf") == []


def test_few_classes_drop_undefined_losses_and_restart_apgd():
    assert names("standard", n_classes=3) == ["apgd-ce", "apgd-dlr", "fab-t", "square"]
    assert names("standard", n_classes=2) == ["apgd-ce", "fab-t", "square"]
    assert names("autoattack", n_classes=3) == ["aa-apgd-ce", "aa-fab-t", "aa-square"]
    plus = ["aa-apgd-ce", "aa-apgd-dlr", "aa-fab", "aa-square", "aa-fab-t"]
    assert names("plus", n_classes=3) == plus
    for suite, kind in (("standard", APGD), ("autoattack", AutoAttackAPGD)):
        restarts = [resolve_attacks(suite, "Linf", n)[0].n_restarts for n in (2, 3, 4)]
        assert restarts == [5, 5, 1]
        assert type(resolve_attacks(suite, "Linf", 3)[0]) is kind


def test_autoattack_has_settings_of_its_own_in_l1():
    first, targeted = resolve_attacks("autoattack", "L1", 10)[:2]
    assert first == AutoAttackAPGD(n_restarts=5, use_largereps=True)
    assert targeted == AutoAttackAPGDT(n_targets=5, use_largereps=True)
    assert resolve_attacks("plus", "L1", 10)[0] == AutoAttackAPGD()


# The catalogue


def test_attacks_are_registered_under_their_own_names():
    for name in ATTACKS:
        kind = ATTACKS.get(name)
        assert kind.name == name
        assert kind.description
        assert kind.library in ("robustbench-dyn", "torchattacks", "pyautoattack")
        assert getattr(attacks, kind.__name__) is kind
        assert kind.__name__ in attacks.__all__
    for name in SUITES:
        assert SUITES.get(name).description


def test_the_docs_name_the_settings_of_each_attack():
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    documented, above = {}, ()
    for row in re.findall(r"^\| (`.*`) \| (.*) \|$", page, re.MULTILINE):
        names = re.findall(r"`([\w-]+)`", row[0])
        settings = (*(above if "the same" in row[1] else ()), *re.findall(r"`(\w+)`", row[1]))
        documented |= {name: set(settings) for name in names}
        above = settings
    for name in ATTACKS:
        assert documented.get(name, set()) == set(ATTACKS.get(name)().settings()), name


def test_attacks_without_gradients_are_known():
    free = {name for name in ATTACKS if ATTACKS.get(name).gradient_free}
    assert free == {"transfer", "square", "square-long", "aa-square", "rays", "hop-skip-jump"}


def test_listing_the_attacks_is_light():
    code = (
        "import sys; from robustbench_dyn.attacks import ATTACKS, SUITES, PGD, resolve_attacks;"
        "[ATTACKS.get(name)().settings() for name in ATTACKS]; list(SUITES);"
        "resolve_attacks('standard', 'L2', 10); resolve_attacks('pgd:n_steps=3', 'L2', 10);"
        "print({'torch', 'numpy', 'torchattacks', 'pyautoattack'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
