"""Hostile modules against every certifier and norm: refused, or certified truly."""

import contextlib
import math
import warnings

import pytest
import torch
from adversaries.collection import ADVERSARIES, SHAPE

from robustbench_dyn import evaluate
from robustbench_dyn.certification import (
    certifier_names,
    pairs,
    radii,
    recording,
    resolve_certifiers,
    rounding,
)
from robustbench_dyn.determinism import NOT_A_FUNCTION
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.flows import frozen, lipschitz
from robustbench_dyn.forward import call_without_graph
from robustbench_dyn.threat_models import NORMS, ThreatModel, distance, project, widest_eps

EPS = (0.03, 0.1, 0.3)


def points(dtype):
    """Return inputs whose sum lies at several distances from 2, where the plain margin vanishes."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.2 * torch.rand(8, *SHAPE, generator=generator) - 0.1
    middle = torch.tensor([0.42, 0.45, 0.48, 0.5313, 0.55, 0.6, 0.7, 0.88])
    return (noise - noise.mean(dim=(1, 2, 3), keepdim=True) + middle.view(-1, 1, 1, 1)).to(dtype)


def nearby(x, norm, radius):
    """Return points of one ball within [0, 1]: along the diagonals, to single pixels, at random."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.tensor([1.0, -1.0])
    corners = torch.cartesian_prod(signs, signs, signs, signs)
    moves = torch.cat([corners, torch.eye(4), -torch.eye(4),
                       torch.randn(40, 4, generator=generator)])  # fmt: skip
    power = {"Linf": math.inf, "L2": 2, "L1": 1}[norm]
    moves = moves / moves.norm(p=power, dim=1, keepdim=True)
    scales = torch.tensor([1.0, 0.95, 0.8, 0.5, 0.2]) * radius
    moves = (scales[:, None, None] * moves).reshape(-1, *SHAPE).to(x)
    model = ThreatModel(norm, radius)
    candidates = project((x + moves).clamp(0, 1), x.expand_as(moves), model)
    inside = distance(candidates, x.expand_as(candidates), norm) <= radius
    return candidates[inside]


def predictions(model, x):
    """Return the model's answers in batches of four, as a user might ask for them."""
    return torch.cat([call_without_graph(model, part).argmax(dim=1) for part in x.split(4)])


def refuted(model, x, y, norm, radius):
    """Return a point of the ball with another answer than y, None where the search finds none."""
    near = nearby(x[None], norm, radius)
    wrong = predictions(model, near) != y
    return near[wrong][0] if wrong.any() else None


def certificates(model, x, y, name, norm):
    """Yield (example, radius) that one certifier certifies, at its own radii or at several eps."""
    (prepared,) = resolve_certifiers(name, model, SHAPE, norm)
    logits = call_without_graph(model, x)
    for eps in EPS[:1] if prepared.certifier.at_any_eps else EPS:
        found = radii(prepared.prove(x, logits, y, ThreatModel(norm, eps)))
        for k in (found > 0).nonzero().flatten().tolist():
            # No further than the box reaches; beyond that there is nothing to search.
            yield k, min(float(found[k]), widest_eps(norm, SHAPE) * 0.999)


def built(adversary):
    """Return the module in eval mode, and inputs of its dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = adversary.build().eval()
    parameters = list(model.parameters())
    return model, points(parameters[0].dtype if parameters else torch.float32)


def refutations(adversary, names=None, norms=NORMS):
    """Return how many certificates there are, and those that the search refutes."""
    n_certified, found = 0, []
    for norm in norms:
        for name in names or certifier_names():
            model, x = built(adversary)
            with frozen(model):
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


@pytest.mark.parametrize("adversary", FUNCTIONS, ids=lambda adversary: adversary.name)
def test_no_certifier_believes_an_adversary(adversary):
    n_certified, found = refutations(adversary)
    assert found == []
    if adversary.family == "honest":
        assert n_certified > 100


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=lambda adversary: adversary.name)
def test_an_evaluation_of_an_adversary_says_nothing_that_is_false(adversary):
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


def measured_alone(_margins, _worst, seen, usual, *, strict):
    return torch.maximum(16 * seen, usual)


class Unguarded(contextlib.nullcontext):
    def __init__(self, _depends):
        super().__init__()


def nothing(*_):
    return None


def together(a, _b):
    return torch.zeros(len(a), dtype=torch.float64)


# What is switched off, and an adversary with a certifier that is then believed.
GUARDS = {
    "rounding": ({(rounding, "allowed_for"): nothing_allowed}, "swamping_biases", "lipschitz"),
    "the worst case": (
        {(pairs, "allowed_for"): measured_alone},
        "swamping_in_a_corner", "linear_relaxation",
    ),
    "hooks": (
        {(lipschitz, "check_as_written"): nothing, (lipschitz, "check_as_written_alone"): nothing,
         (rounding, "_apart"): together},
        "forward_hook", "lipschitz",
    ),
    "subclasses": (
        {(lipschitz, "is_as_written"): lambda *_: True, (rounding, "_apart"): together},
        "overridden_call", "lipschitz",
    ),
    "distances": ({(rounding, "_apart"): together}, "weight_of_the_grad_mode", "lipschitz"),
    "what leaves torch": (
        {(recording, "RefuseEscapes"): Unguarded,
         (pairs, "believed"): lambda seen, _possible: 0 * seen},
        "constants_by_numpy", "interval",
    ),
    "shapes": (
        {(recording, "check_operation"): nothing,
         (pairs, "believed"): lambda seen, _possible: 0 * seen},
        "shape_by_nonzero", "interval",
    ),
}  # fmt: skip


@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_an_adversary_is_believed(guard, monkeypatch):
    patches, name, certifier = GUARDS[guard]
    adversary = next(a for a in ADVERSARIES if a.name == name)
    assert refutations(adversary, [certifier])[1] == []
    for (module, attribute), replacement in patches.items():
        monkeypatch.setattr(module, attribute, replacement)
    assert refutations(adversary, [certifier])[1] != []


@pytest.mark.parametrize("name", ["legacy_weight_norm", "pruned_weights"])
def test_weights_that_a_hook_makes_are_made_before_they_are_read(name):
    model, x = built(next(a for a in ADVERSARIES if a.name == name))
    # Before any pass, as a plugin's weights are when they have just been loaded.
    before = lipschitz.lipschitz_bound(model)
    predictions(model, x)
    assert before == lipschitz.lipschitz_bound(model) > 5


def test_a_part_that_overwrites_its_input_is_named():
    model, _ = built(next(a for a in ADVERSARIES if a.name == "activation_in_place"))
    with pytest.raises(CertificateError, match=r"LeakyReLU.*inplace=True"):
        lipschitz.lipschitz_bound(model)
