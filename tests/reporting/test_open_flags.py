"""Open flags keep a row from being ranked until what they ask for was run."""

from dataclasses import replace

import pytest
from oracles.entries import entry
from oracles.evidence import evidence, verdict

from robustbench_dyn.reporting.open_flags import open_flags
from robustbench_dyn.results.flags import FLAGS, name_of, unknown_flags
from robustbench_dyn.results.verdicts import Outcome, Step

ROW = entry("m", "ccbu").row
SIGN = {"attacks": "pgd+square", "added_attacks": "square"}
# Each flag: a value in a row, columns with which it is open, and columns with which it is not.
CASES = {
    "attack_failed": (
        "attack_failed:pgd:4",
        {"attacks": "pgd(failed)+fab"},
        {"attacks": "pgd+fab"},
    ),
    "unattacked": ("unattacked:1", {}, None),
    "certifier_failed": ("certifier_failed:lipsdp", {}, {"flags": "certifier_failed:lipsdp:3"}),
    "within_rounding": ("within_rounding:ibp:3", None, {}),
    "writes_into_input": ("writes_into_input", None, {}),
    "errors": ("errors:2", None, {}),
    "random_outputs": ("random_outputs", {}, {"attacks": "eot-pgd+square"}),
    "batch_coupled": ("batch_coupled", {}, None),
    "depends_on_grad_mode": ("depends_on_grad_mode", {}, None),
    "changed_during_run": ("changed_during_run", {}, None),
    "keeps_state": ("keeps_state", None, {}),
    "certified_in_plugin_process": ("certified_in_plugin_process", {}, None),
    "self_declared_bound": ("self_declared_bound", None, {}),
    "refuted_bound": ("refuted_bound", {}, None),
    "not_audited": ("not_audited", {}, None),
    "tiny_logits": ("tiny_logits", {}, SIGN),
    "piecewise_constant": ("piecewise_constant", SIGN, {"attacks": "pgd+transfer"}),
    "no_gradients": ("no_gradients", SIGN, {"attacks": "transfer"}),
    "softmax_outputs": ("softmax_outputs", {}, SIGN),
    "white_box_failed": ("white_box_failed:2", {}, None),
    "hits_inside_radius": ("hits_inside_radius:1", {}, None),
    "zero_gradients": ("zero_gradients:0.4", {}, SIGN),
    "wrong_gradients": ("wrong_gradients:0.4", {}, SIGN),
    "accuracy_at_large_eps": ("accuracy_at_large_eps:0.4", {}, SIGN),
    "*_beats_white_box": ("square_beats_white_box:3", {}, SIGN),
}
OF_ROWS = ("property_failed", "no_training_record", "no_evidence", "no_attack")


def test_each_flag_has_a_case():
    assert {*CASES, *OF_ROWS} == set(FLAGS)
    assert all(name_of(flag) == name for name, (flag, *_) in CASES.items())


@pytest.mark.parametrize("name", [n for n, (_, columns, _) in CASES.items() if columns is not None])
def test_a_flag_is_open_until_what_it_asks_for_was_run(name):
    flag, columns, closed = CASES[name]
    assert open_flags(ROW | {"flags": flag} | columns) == [flag]
    assert FLAGS[name].asks_for
    if closed is not None:
        assert open_flags(ROW | {"flags": flag} | closed) == []


@pytest.mark.parametrize("name", [n for n, (_, columns, _) in CASES.items() if columns is None])
def test_a_flag_that_asks_for_nothing_is_never_open(name):
    flag, _, columns = CASES[name]
    assert open_flags(ROW | {"flags": flag} | columns) == []
    assert not FLAGS[name].asks_for


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, []),
        ({"training_record": ""}, ["no_training_record"]),
        ({"training_record": None}, ["no_training_record"]),
        ({"empirical_accuracy": None}, ["no_attack"]),
        ({"evidence_sha256": ""}, ["no_evidence"]),
        ({"evidence_sha256": None}, ["no_evidence"]),
        ({"flags": None}, []),
    ],
)
def test_a_row_lacks_what_publication_asks_for(columns, expected):
    assert open_flags(ROW | columns) == expected
    assert all(FLAGS[name].asks_for for name in expected)


def test_failed_properties_are_open_by_name():
    assert open_flags(ROW, ["lipschitz", "symplectic"]) == [
        "property_failed:lipschitz",
        "property_failed:symplectic",
    ]


def test_open_flags_keep_the_order_of_the_row():
    flags = "refuted_bound keeps_state batch_coupled"
    assert open_flags(ROW | {"flags": flags}, ["p"]) == [
        "refuted_bound",
        "batch_coupled",
        "property_failed:p",
    ]


@pytest.mark.parametrize(
    ("flag", "attacks", "added", "is_open"),
    [
        # An attack that failed on all examples has not answered a flag.
        ("zero_gradients:1", "pgd+square(failed)", "square", True),
        ("zero_gradients:1", "pgd+square(failed)+hsj", "square+hsj", False),
        ("no_gradients", "pgd+transfer(failed)", "transfer", True),
        ("random_outputs", "eot-pgd(failed)", "", True),
        # Settings are no part of the name.
        ("attack_failed:pgd:4", "pgd(n_steps=3)(failed)", "", True),
        ("attack_failed:pgd:4", "pgd(n_steps=3)", "", False),
        ("attack_failed:pgd:4", "pgd(step_size=1e+20)(failed)", "", True),
        ("attack_failed:pgd:4", "pgd-x(failed)", "", False),
        ("no_gradients", "pgd+transfer(n_steps=3)", "", False),
        ("zero_gradients:1", "square(n=1)(failed)", "square(n=1)", True),
        ("zero_gradients:1", "pgd", "", True),
        ("zero_gradients:1", "pgd", None, True),
    ],
)
def test_only_attacks_that_ended_close_a_flag(flag, attacks, added, is_open):
    row = ROW | {"flags": flag, "attacks": attacks, "added_attacks": added}
    assert open_flags(row) == ([flag] if is_open else [])


@pytest.mark.parametrize("labels", ["pgd", "pgd(n_steps=3)"])
def test_an_attack_that_failed_everywhere_keeps_its_row_apart(labels):
    one = evidence("m", "cc", attacks=("pgd",))
    failed = replace(verdict(1, "u"), trail=(Step("pgd", Outcome.FAILED, 0.5),))
    stage = replace(one.record.spec.attacks[0], label=labels)
    spec = replace(one.record.spec, attacks=(stage,))
    one = replace(
        one,
        record=replace(one.record, spec=spec),
        verdicts=(replace(verdict(0, "c"), trail=()), failed),
    )
    assert "attack_failed:pgd:1" in open_flags(one.row())


def test_unknown_flags_are_told():
    known = " ".join(flag for flag, *_ in CASES.values())
    assert unknown_flags(known) == []
    assert unknown_flags(f"{known} new:1 x_beats_black_box") == [
        "new:1",
        "x_beats_black_box",
    ]
