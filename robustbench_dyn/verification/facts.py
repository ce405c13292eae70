"""Facts and flags of a row held to the model: size, bounds, flags and signs of masked gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.masking import N_EXAMPLES, find_signs
from robustbench_dyn.evaluation.plan import bound_of
from robustbench_dyn.lipschitz.declared import declared_bounds, refute_declared_bounds
from robustbench_dyn.models.identity import measured_identity, registered_identity
from robustbench_dyn.models.isolated import count_parameters
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.flags import COUPLED, RANDOM, REFUTED_BOUND, SELF_DECLARED
from robustbench_dyn.results.verdicts import Status
from robustbench_dyn.verification.options import ReplayOptions
from robustbench_dyn.verification.rules import RADIUS

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.verification.replay import Replayed

_NEAR, _AT_ONCE = 4, 64


def check_facts(
    found: Replayed,
    evidence: Evidence,
    model: ModelUnderTest,
    dataset: Dataset,
    options: ReplayOptions,
) -> None:
    """Hold what a row tells about its model to the model; model: frozen, in eval mode."""
    _numbers(found, evidence, model.network.model)
    _flags(found, evidence, model)
    _declared(found, evidence, model)
    _signs(found, evidence, model, dataset, options)


def _numbers(found: Replayed, evidence: Evidence, model: nn.Module) -> None:
    record, spec = evidence.record, evidence.record.spec
    known = registered_identity(model) or measured_identity(model)
    family, version = (known.family, known.plugin_version) if known else ("", "")
    for name, told, here in (
        ("family", spec.family, family),
        ("plugin_version", spec.plugin_version, version),
        ("parameters", record.parameters, count_parameters(model)),
        ("training_record", record.training_record, known.recipe_sha256 if known else ""),
    ):
        if told != here:
            found.fails("facts", f"{name} is {told} in the row, and {here} of the model")
    stated, bound = record.lipschitz_bound, bound_of(model)
    if stated is not None and (bound is None or not math.isclose(stated, bound, rel_tol=RADIUS)):
        found.fails("facts", f"lipschitz_bound is {stated} in the row, and {bound} of the model")


def _flags(found: Replayed, evidence: Evidence, model: ModelUnderTest) -> None:
    """Name flags that a validation sets today, on the same images, and the row lacks."""
    flags = model.examine() if not model.examined else model.flags
    for flag in flags:
        if flag in evidence.flags:
            continue
        # Batches are summed in another order on another device.
        if flag == COUPLED and model.sample(1).device.type != evidence.record.spec.device:
            found.notes.append(f"on this device, not on that of the row: {flag}")
        else:
            found.fails("flags", f"the model has the flag {flag}, which the row lacks")


def _declared(found: Replayed, evidence: Evidence, model: ModelUnderTest) -> None:
    """Test bounds that the model states of itself, where certificates rest on them."""
    network = model.network.model
    claimed, flags = declared_bounds(network), set(evidence.flags)
    if not claimed or not any(v.status is Status.CERTIFIED for v in evidence.verdicts):
        return
    if evidence.record.declared_bounds and SELF_DECLARED not in flags:
        found.fails("flags", f"the model has the flag {SELF_DECLARED}, which the row lacks")
    if not evidence.record.declared_bounds or REFUTED_BOUND in flags:
        return
    refuted = refute_declared_bounds(network, model.sample(_NEAR), batch_size=_AT_ONCE)
    if refuted:
        found.fails("certificate", f"certificates rest on a bound that does not hold: {refuted}")
    else:
        found.notes.append(
            f"certificates rest on a bound that {' and '.join(claimed)} states of itself"
        )


def _signs(
    found: Replayed,
    evidence: Evidence,
    model: ModelUnderTest,
    dataset: Dataset,
    options: ReplayOptions,
) -> None:
    """Name signs of masked gradients that are there, and that the row does not tell."""
    spec, known = evidence.record.spec, {sign.name for sign in evidence.signs}
    undecided = any(verdict.status is Status.UNDECIDED for verdict in evidence.verdicts)
    asked = any(attack.only_on_signs for attack in spec.attacks)
    if not (undecided and asked) or RANDOM in evidence.flags:
        return
    first = evidence.verdicts[0].example_id
    correct = [v.example_id - first for v in evidence.verdicts if v.prediction == v.label]
    rows = torch.tensor(correct[:N_EXAMPLES], dtype=torch.int64)
    device = model.sample(1).device
    x, y = dataset.x[rows].to(device), dataset.y[rows].to(device)
    # A sign at the edge depends on the seed: it has to be there with both.
    names = [
        {
            sign.name: sign
            for sign in find_signs(
                model.network, x, y, n_classes=model.n_classes, batch_size=_AT_ONCE, seed=seed
            )
        }
        for seed in (spec.seed, options.seed)
    ]
    for name in sorted(names[0].keys() & names[1].keys() - known):
        found.fails("flags", f"masked gradients: the row lacks the sign {names[0][name]}")
