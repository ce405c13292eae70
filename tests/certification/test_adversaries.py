"""Hostile modules against every certifier and norm: refused, or certified truly."""

import contextlib

import pytest
import torch
from oracles.adversaries import ADVERSARIES
from oracles.refutation import built, certificates, predictions, refuted

from robustbench_dyn import evaluate
from robustbench_dyn.certification import objectives
from robustbench_dyn.certification.catalogue import certifier_names
from robustbench_dyn.certification.network import recorder, tracer
from robustbench_dyn.certification.proofs.affine_pieces import PiecesState
from robustbench_dyn.certification.rounding import allowance as rounding
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.lipschitz import bounds as lipschitz
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.results.flags import NOT_A_FUNCTION
from robustbench_dyn.threat_models import NORMS, ThreatModel


def refutations(adversary, names=None, norms=NORMS):
    """Return how many certificates there are, and those that the search refutes."""
    n_certified, found = 0, []
    for norm in norms:
        for name in names or certifier_names():
            model, x = built(adversary)
            with frozen_eval(model):
                y = predictions(model, x)
                try:
                    for k, radius in certificates(model, x, y, name, norm):
                        n_certified += 1
                        there = refuted(model, x[k], y[k], norm, radius)
                        if there is not None:
                            found.append((name, norm, radius, x[k].flatten(), there.flatten()))
                except CertificateError as error:
                    assert len(str(error)) > 20
                except InputError as error:
                    assert "supports" in str(error)
    return n_certified, found


FUNCTIONS = [adversary for adversary in ADVERSARIES if adversary.family != "changing"]


@pytest.mark.slow
@pytest.mark.parametrize("adversary", FUNCTIONS, ids=lambda adversary: adversary.name)
def test_no_certificate_of_an_adversary_is_refuted(adversary):
    n_certified, found = refutations(adversary)
    assert found == []
    if adversary.family == "honest":
        assert n_certified > 100


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=lambda adversary: adversary.name)
def test_no_verdict_of_an_adversary_is_refuted(adversary):
    model, x = built(adversary)
    y, before = predictions(model, x), x.clone()
    try:
        evaluation = evaluate(
            model, (x, y), ThreatModel("L2", 0.1), attacks="apgd-ce", audit_share=0, batch_size=4
        )
    except InputError as error:
        assert "differ by" in str(error)
        assert adversary.name in ("turns_while_frozen", "weight_that_alternates")
        return
    assert torch.equal(x, before)
    flags = evaluation.summary["flags"].split()
    certified = [v for v in evaluation.verdicts if v.status == "certified"]
    if adversary.family == "changing":
        assert not certified
        assert NOT_A_FUNCTION & set(flags)
    if adversary.name in ("normalising_in_place", "writing_past_autograd"):
        assert "writes_into_input" in flags
    for verdict in certified:
        k = verdict.example_id
        assert refuted(model, x[k], y[k], "L2", verdict.certified_radius) is None
    assert adversary.family != "honest" or certified


def nothing_allowed(margins, *_, **__):
    return torch.zeros_like(margins)


def measured_alone(_margins, _worst, observed, usual, *, strict):
    return torch.maximum(16 * observed, usual)


class Unguarded(contextlib.nullcontext):
    def __init__(self, _depends):
        super().__init__()


def nothing(*_):
    return None


def together(a, _b):
    return torch.zeros(len(a), dtype=torch.float64)


def believing(*args, rounded=PiecesState.rounded):
    found = rounded(*args)
    return found._replace(consistent=torch.ones_like(found.consistent))


# What is switched off, and an adversary with a certifier that then believes it.
GUARDS = {
    "rounding": (
        {(rounding, "rounding_allowance"): nothing_allowed},
        "swamping_biases",
        "lipschitz",
    ),
    "the worst case": (
        {(objectives, "rounding_allowance"): measured_alone},
        "swamping_in_a_corner",
        "linear_relaxation",
    ),
    "hooks": (
        {
            (lipschitz, "check_as_written"): nothing,
            (lipschitz, "check_as_written_alone"): nothing,
            (rounding, "_distances"): together,
        },
        "forward_hook",
        "lipschitz",
    ),
    "subclasses": (
        {(lipschitz, "is_as_written"): lambda *_: True, (rounding, "_distances"): together},
        "overridden_call",
        "lipschitz",
    ),
    "logits of the pieces": (
        {(PiecesState, "rounded"): believing},
        "pieces_for_the_certifier",
        "max_affine",
    ),
    "distances": ({(rounding, "_distances"): together}, "weight_of_the_grad_mode", "lipschitz"),
    "what leaves torch": (
        {
            (tracer, "RefuseEscapes"): Unguarded,
            (objectives, "explained_by_rounding"): lambda observed, _worst_case: 0 * observed,
        },
        "constants_by_numpy",
        "interval",
    ),
    "shapes": (
        {
            (recorder, "refuse_data_dependence"): nothing,
            (objectives, "explained_by_rounding"): lambda observed, _worst_case: 0 * observed,
        },
        "shape_by_nonzero",
        "interval",
    ),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_a_certificate_is_refuted(guard, monkeypatch):
    patches, name, certifier = GUARDS[guard]
    adversary = next(a for a in ADVERSARIES if a.name == name)
    assert refutations(adversary, [certifier])[1] == []
    for (module, attribute), replacement in patches.items():
        monkeypatch.setattr(module, attribute, replacement)
    assert refutations(adversary, [certifier])[1] != []


@pytest.mark.parametrize("name", ["legacy_weight_norm", "pruned_weights"])
def test_weights_of_hooks_are_up_to_date_in_bounds(name):
    model, x = built(next(a for a in ADVERSARIES if a.name == name))
    # Before any pass, as a plugin's weights are when they have just been loaded.
    before = lipschitz.lipschitz_bound(model)
    predictions(model, x)
    assert before == lipschitz.lipschitz_bound(model) > 5


def test_a_layer_that_overwrites_its_input_is_named():
    model, _ = built(next(a for a in ADVERSARIES if a.name == "activation_in_place"))
    with pytest.raises(CertificateError, match=r"LeakyReLU.*inplace=True"):
        lipschitz.lipschitz_bound(model)
