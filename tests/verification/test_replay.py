"""Replays of rows whose stages or model come from outside, and of rows without a kept image."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from oracles.digits_plugin import write_plugin

from robustbench_dyn import ThreatModel, evaluate, load_dataset, load_model
from robustbench_dyn.certification.base import Certifier, Phase, Proof
from robustbench_dyn.certification.proofs.lipschitz import class_radii
from robustbench_dyn.plugins import load_plugins
from robustbench_dyn.reporting.published import entries_of
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.rebuilding import RefusedError, rebuild_attacks
from robustbench_dyn.verification.replay import replay

OPTIONS = ReplayOptions(20, seed=3)


@dataclass(frozen=True, kw_only=True)
class OneStep(Certifier[torch.Tensor]):
    """Margin over a Lipschitz bound whose norm is that of one step of power iteration."""

    name: ClassVar = "one_step"
    description: ClassVar = "a norm that is too small"
    phase: ClassVar = Phase.CLEAN

    def prepare(self, model, input_shape, *, strict_rounding=False):
        del input_shape, strict_rounding
        weight = model.head.weight.detach().double()
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(weight.shape[1], generator=generator).double()
        image = weight @ (v / v.norm())
        # Of each difference of two rows, |(w_i - w_j) v| for one random direction v.
        return (image[:, None] - image).abs()

    def prove(self, state, x, logits, y, threat_model):
        margins = logits.gather(1, y[:, None]).double() - logits.double()
        norm, dimension = threat_model.norm, x[0].numel()
        return Proof(class_radii(state, margins, y, norm=norm, dimension=dimension))


@pytest.fixture
def linear(tmp_path):
    write_plugin(tmp_path / "linear")
    load_plugins(tmp_path / "linear")
    return load_model("linear", dataset="digits"), load_dataset("digits", n_examples=40)


def row_of(linear, **options):
    store = Store(None)
    model, data = linear
    evaluate(model, data, ThreatModel("L2", 0.5), store=store, **options)
    (entry,) = entries_of(store, n_adversarial=2)
    store.close()
    return entry.evidence


def test_a_norm_by_one_step_of_power_iteration_certifies_nothing(linear):
    loose = row_of(linear, certifiers=[OneStep()], attacks="none")
    found = replay(loose, OPTIONS)
    assert {finding.check for finding in found.findings} == {"certificate"}
    assert any("one_step" in note for note in found.notes)


def test_a_sound_bound_of_the_same_network_holds(linear):
    found = replay(row_of(linear, certifiers="lipschitz", attacks="pgd"), OPTIONS)
    assert not found.findings
    assert any("certificates checked, all hold" in told for told in found.statements)


@pytest.mark.slow
def test_what_a_foreign_certifier_proved_counts_where_one_of_ours_proves_it(linear):
    both = row_of(linear, certifiers=[OneStep(), "lipschitz"], attacks="none")
    true = row_of(linear, certifiers="lipschitz", attacks="none")
    sound = {v.example_id for v in true.verdicts if v.status is Status.CERTIFIED}
    proved = {v.example_id for v in both.verdicts if v.certifier == "one_step"}
    assert proved - sound
    found = replay(both, ReplayOptions(None, seed=1)).findings
    unproved = {i for f in found if "not proved" in f.message for i in f.examples}
    assert unproved
    assert not unproved & sound


@pytest.mark.slow
def test_broken_examples_without_an_image_are_attacked_again(linear):
    row = row_of(linear, certifiers="none", attacks="standard")
    assert sum(v.x_adv is not None for v in row.verdicts) == 2
    found = replay(row, OPTIONS)
    assert not found.findings
    assert any("broken examples without an image" in told for told in found.statements)


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"name": "no_such_attack"}, "no_such_attack"),
        ({"settings": {"no_such": 1}}, "no_such"),
        ({"code_sha256": "a" * 64}, "other code"),
    ],
)
def test_an_attack_that_is_not_here_is_refused_in_a_sentence(facts, word, linear):
    row = row_of(linear, certifiers="none", attacks="pgd:n_steps=2")
    spec = row.record.spec
    (stage,) = spec.attacks
    changed = replace(spec, attacks=(replace(stage, **facts),))
    with pytest.raises(RefusedError, match=word):
        rebuild_attacks(replace(row, record=replace(row.record, spec=changed)))


def test_other_weights_under_the_same_name_are_refused(linear):
    row = row_of(linear, certifiers="none", attacks="none")
    spec = replace(row.record.spec, weights_sha256="a" * 64)
    with pytest.raises(RefusedError, match="other weights"):
        replay(replace(row, record=replace(row.record, spec=spec)), OPTIONS)


@pytest.mark.slow
def test_a_model_from_outside_is_replayed_in_its_own_process(tmp_path, untrusted):
    del untrusted
    write_plugin(tmp_path / "outside")
    load_plugins(tmp_path / "outside")
    model = load_model("outside", dataset="digits")
    assert not list(model.parameters())
    row = row_of((model, load_dataset("digits", n_examples=20)), attacks="pgd")
    found = replay(row, ReplayOptions(6, seed=2))
    assert not found.findings, found
