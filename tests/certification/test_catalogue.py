"""Certifiers by name, as objects and with settings, and what `auto` chooses."""

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from robustbench_dyn import ThreatModel, evaluate
from robustbench_dyn.certification import catalogue, effort
from robustbench_dyn.certification.base import Certifier, Phase, Proof
from robustbench_dyn.certification.catalogue import (
    CERTIFIERS,
    certifier_names,
    named_certifiers,
    resolve_certifiers,
    select_certifiers,
)
from robustbench_dyn.certification.certifiers.complete import Complete
from robustbench_dyn.certification.certifiers.interval import Interval
from robustbench_dyn.certification.certifiers.linear_relaxation import LinearRelaxation
from robustbench_dyn.certification.certifiers.lipsdp import LipSDP
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.flows import Classifier
from robustbench_dyn.plugins import Entry, Registry

SHAPE = (3, 4)


class Opaque(nn.Module):
    def forward(self, x):
        return x.flatten(1).atan()


def linear():
    """A classifier whose Lipschitz bound is not vacuous."""
    return Classifier(nn.Flatten(), nn.Linear(12, 3))


def vacuous():
    """A network of ReLU whose Lipschitz bound is vacuous."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    model[1].weight.data.mul_(1000)
    return model


def resolve(spec, model=None, norm="L2"):
    return resolve_certifiers(spec, model or linear(), SHAPE, norm)


def names(spec, model=None):
    return [prepared.certifier.name for prepared in resolve(spec, model)]


@dataclass(frozen=True, kw_only=True)
class Mine(Certifier[None]):
    """A certifier of a plugin."""

    name: ClassVar = "mine"
    description: ClassVar = "proves nothing"
    phase: ClassVar = Phase.BEFORE_ATTACKS

    def prepare(self, model, input_shape, *, strict_rounding=False):
        if isinstance(model, Opaque):
            raise CertificateError("too opaque")

    def prove(self, state, x, logits, y, threat_model):
        return Proof(torch.zeros(logits.shape, dtype=torch.float64))


@pytest.fixture
def plugin(monkeypatch):
    """The catalogue with a certifier of a plugin in it."""
    entries = CERTIFIERS.entries().values()
    mine = Entry("mine", Mine, origin="the folder x")
    registry = Registry("certifier", entries, from_plugins=lambda: [mine])
    monkeypatch.setattr(catalogue, "CERTIFIERS", registry)


def test_names_resolve():
    assert names("auto") == names("lipschitz") == names(" lipschitz ") == ["lipschitz"]
    assert names(["lipschitz"]) == names(["auto"]) == ["lipschitz"]
    assert names("none") == names([]) == names(["none"]) == []


def test_certifiers_run_once_in_the_order_of_their_costs():
    several = ["linear_relaxation", "lipschitz", "interval", "interval"]
    assert names(several) == ["lipschitz", "interval", "linear_relaxation"]
    assert list(certifier_names()) == [
        "max_affine",
        "lipschitz",
        "lipsdp",
        "lipschitz_in_box",
        "interval",
        "linear_relaxation",
        "max_affine_exact",
        "local_lipsdp",
        "complete",
    ]
    phases = [list(Phase).index(CERTIFIERS.get(name).phase) for name in certifier_names()]
    assert phases == sorted(phases)


def test_names_objects_and_settings_may_be_mixed():
    complete = Complete(seconds_per_example=5)
    for spec in (
        ["complete:seconds_per_example=5", "interval"],
        "interval,complete:seconds_per_example=5",
        [complete, "interval"],
        [complete, Interval(), "interval"],
    ):
        found = [prepared.certifier for prepared in resolve(spec, vacuous())]
        assert found == [Interval(), complete]
    assert resolve(complete, vacuous())[0].certifier == complete


def test_settings_are_recorded_and_shown_where_they_were_changed():
    certifier = Complete(seconds_per_example=5)
    assert certifier.settings() == {"seconds_per_example": 5, "seconds": 1800.0, "split": "auto"}
    assert certifier.label("L2") == "complete(seconds_per_example=5)"
    assert Complete().label("L2") == "complete"
    assert Interval().settings() == {}
    assert LipSDP(max_units=7).label("Linf") == "lipsdp-from-L2(max_units=7)"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Complete(seconds_per_example=-1),
        lambda: Complete(seconds_per_example=float("nan")),
        lambda: Complete(seconds="many"),
        lambda: LipSDP(max_units=0),
        lambda: LinearRelaxation(n_iterations=-1),
        lambda: named_certifiers("complete:seconds=-1"),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="is not a number of at least"):
        make()


def test_unknown_settings_are_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'seconds_per_example'"):
        named_certifiers("complete:second_per_example=5")
    with pytest.raises(InputError, match="given twice, with different settings"):
        named_certifiers(["complete", Complete(seconds_per_example=5)])


def test_settings_are_heeded():
    with pytest.raises(CertificateError, match="1 to 3 activations"):
        resolve("lipsdp:max_units=3", vacuous())
    assert names("complete,lipsdp:max_units=4", vacuous()) == ["lipsdp", "complete"]


def test_labels_name_the_norm_of_the_proof():
    (prepared,) = resolve("lipschitz")
    certifier = prepared.certifier
    assert certifier.deterministic
    assert certifier.description == certifier_names()[certifier.name]
    assert [prepared.label(norm) for norm in ("L2", "Linf", "L1")] == [
        "lipschitz",
        "lipschitz-from-L2",
        "lipschitz-from-L2",
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lipshitz", "did you mean 'lipschitz'.*auto, none"),
        (["Lipschitz"], "did you mean"),
        ("lipschitz,lipschits", "no certifier is called 'lipschits'"),
        ("", "called ''; choose auto"),
        ("none,interval", "no certifier is called 'none'"),
        ("zzz", "no certifier is called 'zzz'; choose auto, none, or max_affine"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(spec, message):
    with pytest.raises(InputError, match=message):
        resolve(spec)


def test_auto_leaves_out_what_a_name_refuses_with_the_reason():
    for model, culprit in (
        (Opaque(), "Opaque"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 2)), "Dropout"),
        (Classifier(nn.Flatten(), Opaque()), "Opaque"),
    ):
        assert names("auto", model) == []
        assert names("none", model) == []
        with pytest.raises(CertificateError, match=culprit):
            resolve("lipschitz", model)
    assert names("auto", nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == ["lipschitz"]


def test_certifiers_given_beside_auto_are_run_as_well():
    assert names("auto,interval") == ["lipschitz", "interval"]
    assert names(["auto", "lipschitz"], linear()) == ["lipschitz"]
    chosen = names("auto", vacuous())
    assert "complete" in chosen
    found = resolve(["auto", Complete(seconds_per_example=5)], vacuous())
    assert [prepared.certifier.name for prepared in found] == chosen
    assert found[-1].certifier == Complete(seconds_per_example=5)
    # Where it cannot be run, one that was given is refused, and one of `auto` left out.
    assert "complete" not in names("auto", Opaque())
    with pytest.raises(CertificateError):
        resolve("auto,complete", Opaque())


def test_plugins_certifiers_come_last_in_their_phase(plugin):
    spec = "complete,mine,linear_relaxation,interval,lipschitz"
    assert names(spec, vacuous()) == [
        "lipschitz",
        "interval",
        "mine",
        "linear_relaxation",
        "complete",
    ]
    assert certifier_names()["mine"] == "proves nothing"


def test_auto_runs_plugins_certifiers_where_they_are_named(plugin):
    assert "mine" not in names("auto", vacuous())
    assert names("auto,mine", vacuous())[3] == "mine"
    with pytest.raises(CertificateError, match="too opaque"):
        resolve("auto,mine", Opaque())


def test_an_object_without_a_name_in_the_catalogue_is_run():
    assert names(["interval", "lipschitz", Mine()], vacuous()) == ["lipschitz", "interval", "mine"]


def test_an_evaluation_takes_objects_and_shows_their_settings():
    torch.manual_seed(0)
    x = torch.rand(4, *SHAPE)
    model = vacuous()
    y = model(x).argmax(dim=1)
    found = evaluate(
        model,
        (x, y),
        ThreatModel("Linf", 1e-4),
        attacks="none",
        certifiers=["interval", Complete(seconds_per_example=5)],
    )
    assert found.summary["certifiers"] == "interval+complete(seconds_per_example=5)"


def test_an_error_in_a_models_own_bound_is_a_crash():
    class Faulty(Opaque):
        def lipschitz_bound(self):
            raise ZeroDivisionError

    selection = select_certifiers("auto", Faulty(), SHAPE, "L2")
    assert selection.crashed == ["lipschitz"]
    assert selection.not_applicable["lipschitz"].startswith("ZeroDivisionError")
    # The control: a bound that is not known is a reason, and no crash.
    selection = select_certifiers("auto", Opaque(), SHAPE, "L2")
    assert selection.crashed == []
    assert "no Lipschitz bound is known" in selection.not_applicable["lipschitz"]
    with pytest.raises(CertificateError, match=r"'lipschitz' cannot be prepared.*ZeroDivision"):
        resolve("lipschitz", Faulty())


def useful():
    """A small network of ReLU whose Lipschitz bound proves something, but not all."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU())
    return Classifier(features, nn.Linear(8, 3)).requires_grad_(False)


def test_auto_relaxes_small_networks_of_a_useful_bound_too():
    chosen = names("auto", useful())
    assert chosen[0] == "lipschitz"
    assert {"interval", "linear_relaxation", "complete"} <= set(chosen)
    torch.manual_seed(1)
    x = torch.rand(30, *SHAPE)
    y = useful()(x).argmax(dim=1)
    threat_model = ThreatModel("Linf", 0.1)
    alone, auto = (
        evaluate(useful(), (x, y), threat_model, attacks="pgd", certifiers=certifiers).summary
        for certifiers in ("lipschitz", "auto")
    )
    assert alone["certified_accuracy"] < auto["certified_accuracy"]
    assert auto["gap"] == 0


def test_auto_leaves_large_networks_to_a_useful_bound(monkeypatch):
    monkeypatch.setattr(effort, "CHEAP", 1.0)
    selection = select_certifiers("auto", useful(), SHAPE, "Linf")
    ready = [prepared.certifier.name for prepared in selection.ready]
    assert ready == ["lipschitz", "lipschitz_in_box"]
    reason = "multiplications, more than 1e+00; name the certifier"
    assert all(reason in why for why in selection.not_applicable.values())
    assert {"interval", "linear_relaxation", "complete"} <= set(selection.not_applicable)
    # What is named is run all the same.
    selection = select_certifiers("auto,interval", useful(), SHAPE, "Linf")
    assert "interval" in {prepared.certifier.name for prepared in selection.ready}
    assert "interval" not in selection.not_applicable


def test_auto_searches_no_network_that_is_dear_to_relax(monkeypatch):
    assert "complete" in names("auto", vacuous())
    monkeypatch.setattr(effort, "CHEAP", 1.0)
    selection = select_certifiers("auto", vacuous(), SHAPE, "L2")
    ready = {prepared.certifier.name for prepared in selection.ready}
    assert "linear_relaxation" in ready
    assert "complete" not in ready
    assert "name the certifier" in selection.not_applicable["complete"]
    assert "complete" in names("auto,complete", vacuous())


def test_auto_relaxes_affine_networks_where_their_bound_is_not_exact():
    assert names("auto", linear()) == ["lipschitz"]
    in_linf = [prepared.certifier.name for prepared in resolve("auto", linear(), "Linf")]
    assert "interval" in in_linf


def test_effort_counts_each_neuron_times_what_comes_before_it():
    counted = effort.effort_of(useful(), SHAPE)
    # 8 neurons behind 12 moves and 8 * 13 products; 3 logits behind 8 activations and 3 * 9 more.
    before = 12 + 8 * 13
    assert counted == (False, 2 * 8 * before + 2 * 3 * (before + 8 + 3 * 9))


def test_preparing_leaves_the_model_as_it_is():
    model = linear()
    model.train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (prepared,) = resolve("auto", model)
    assert not prepared.state.bounds.requires_grad
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "call", ["certifier_names()", "named_certifiers('auto,complete:seconds_per_example=5')"]
)
def test_listing_and_constructing_certifiers_is_light(call):
    code = f"import sys, robustbench_dyn.certification.catalogue as c; c.{call}"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
