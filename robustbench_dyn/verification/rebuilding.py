"""Attacks, certifiers and the model of a row, made again from its record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.catalogue import ATTACKS
from robustbench_dyn.certification.base import Certifier
from robustbench_dyn.certification.catalogue import CERTIFIERS
from robustbench_dyn.datasets import Dataset, load_dataset
from robustbench_dyn.errors import DynbenchError, InputError
from robustbench_dyn.evaluation.plan import stage_spec
from robustbench_dyn.models.counting import CountingModel
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.identity import (
    hash_tensors,
    measured_identity,
    registered_identity,
)
from robustbench_dyn.models.loading import load_model
from robustbench_dyn.models.precision import full_precision
from robustbench_dyn.models.sources import SOURCES, is_from_source, table_name
from robustbench_dyn.models.validation import probe_logits
from robustbench_dyn.plugins import BUILT_IN, Registry
from robustbench_dyn.results.evidence import Evidence
from robustbench_dyn.results.flags import CERTIFIED_ELSEWHERE, RANDOM
from robustbench_dyn.results.spec import EvaluationSpec, StageSpec
from robustbench_dyn.smoothing.statistics import Smoothing
from robustbench_dyn.verification.at_hand import why_missing
from robustbench_dyn.verification.options import ReplayOptions

if TYPE_CHECKING:
    from torch import Tensor, nn


class RefusedError(DynbenchError):
    """A row cannot be replayed here: what it names is not there, or is not what it was."""


class Subject(NamedTuple):
    """The model and the images of a row, as they are here; note: what could not be compared."""

    model: nn.Module
    dataset: Dataset
    note: str


def rebuild_subject(evidence: Evidence, options: ReplayOptions) -> Subject:
    """Load the model and the images of a row.

    Raises RefusedError where there is no such model or data set here, or its hash is another one.
    """
    spec = evidence.record.spec
    first, last = evidence.verdicts[0].example_id, evidence.verdicts[-1].example_id
    if missing := why_missing(spec.dataset):
        raise RefusedError(f"the row cannot be replayed here: {missing}")
    try:
        data = load_dataset(spec.dataset, n_examples=last + 1, data_dir=options.data_dir)
        model = _load(spec, options)
    except DynbenchError as error:
        raise RefusedError(f"the row cannot be replayed here: {error}") from error
    if data.sha256 != spec.data_sha256:
        raise RefusedError(
            f"the row is about other images than {spec.dataset} has here: their SHA-256 are "
            f"{spec.data_sha256[:12]} and {data.sha256[:12]}"
        )
    _check_identity(model, spec)
    return Subject(model, data.rows(first, last + 1), _check_code(model, evidence, data.x))


def _load(spec: EvaluationSpec, options: ReplayOptions) -> nn.Module:
    """Load the model of a row: from the file that the options name, or by its name."""
    name = base_name(spec)
    if options.model and table_name(options.model) == name:
        return load_model(
            options.model, dataset=spec.dataset, norm=spec.norm, weights=options.weights
        )
    source = SOURCES.get(name.partition("/")[0]) if is_from_source(name) else None
    if source is not None and source.only_files:
        raise InputError(
            f"{name} is a model from a file, which a row does not tell; give --model {source.form}"
        )
    return load_model(name, dataset=spec.dataset, norm=spec.norm, plugins=options.plugins)


def base_name(spec: EvaluationSpec) -> str:
    """Return the name of the model that a row's classifier is made of."""
    if spec.smoothing is None:
        return spec.model
    return spec.model.removesuffix(f"~{spec.smoothing.sigma:g}")


def smoothing_of(spec: EvaluationSpec) -> Smoothing:
    """Return how the classifier of a row is smoothed; raises RefusedError for bad settings."""
    told = spec.smoothing
    if told is None:
        raise RefusedError(f"{spec.model} is not smoothed")
    try:
        return Smoothing(told.sigma, n0=told.n0, n=told.n, alpha=told.alpha)
    except InputError as error:
        raise RefusedError(f"the row cannot be replayed: {error}") from error


def _check_identity(model: nn.Module, spec: EvaluationSpec) -> None:
    known = registered_identity(model) or measured_identity(model)
    if known is None:
        raise RefusedError(f"{spec.model} cannot be identified, and so not compared with the row")
    for what, here, there in (
        ("weights", known.weights_sha256, spec.weights_sha256),
        ("tensors", known.state_sha256, spec.state_sha256),
    ):
        if here != there:
            raise RefusedError(
                f"the row is about other {what} than {spec.model} has here: their SHA-256 are "
                f"{there[:12]} and {here[:12]}"
            )


def _check_code(model: nn.Module, evidence: Evidence, x: Tensor) -> str:
    """Hold the code of the model's plugin to the row; return a note where that cannot be done.

    The hash of a model that ran in a process of its own, or came from a file of a user's own,
    covers its logits, too, whose last digits differ between machines. Raises RefusedError where the
    code is another one.
    """
    spec = evidence.record.spec
    known = registered_identity(model) or measured_identity(model)
    code = known.code_sha256 if known is not None else ""
    if code == spec.code_sha256:
        return ""
    with full_precision(), frozen_eval(model), torch.no_grad():
        logits = probe_logits(CountingModel(model), x, torch.device("cpu"))
    measured = hash_tensors({"logits": logits})
    if hashlib.sha256(f"{code} {measured}".encode()).hexdigest() == spec.code_sha256:
        return ""
    if measured_identity(model) is not None or CERTIFIED_ELSEWHERE in evidence.flags:
        return (
            "the hash of the model's code is not that of the row; it covers logits, whose last "
            "digits differ between machines, so that the code may be equal"
        )
    raise RefusedError(
        f"the row is about other code than the plugin of {spec.model} has here: their SHA-256 are "
        f"{spec.code_sha256[:12]} and {code[:12]}"
    )


def rebuild_attacks(evidence: Evidence) -> list[Attack]:
    """Return the attacks of a row, with their settings.

    Those that are run on signs of masked gradients alone are among them where there were signs.
    Raises RefusedError for one that is unknown here, or of other code.
    """
    spec, on_signs = evidence.record.spec, bool(evidence.signs)
    stages = spec.attacks_if_random if RANDOM in evidence.flags else spec.attacks
    return [
        replace(_rebuilt(ATTACKS, stage), only_on_signs=False)
        for stage in stages
        if on_signs or not stage.only_on_signs
    ]


def rebuild_certifiers(evidence: Evidence) -> tuple[list[Certifier[Any]], list[str]]:
    """Return the certifiers of a row, with their settings, and the names of those not of ours.

    What a certifier from a plugin proves is its own word: it confirms nothing. Raises RefusedError
    for one that is unknown here, or whose operations have other code.
    """
    found, foreign = list[Certifier[Any]](), list[str]()
    for stage in evidence.record.spec.certifiers:
        if stage.name not in CERTIFIERS or CERTIFIERS.entry(stage.name).origin != BUILT_IN:
            foreign.append(stage.label)
            continue
        found.append(_rebuilt(CERTIFIERS, stage))
    return found, foreign


def _rebuilt(registry: Registry[Any], stage: StageSpec) -> Any:
    """Make a stage again; raises RefusedError where it is none of those here."""
    kind = registry.kind
    if stage.name not in registry:
        raise RefusedError(
            f"the row ran the {kind} {stage.name!r}, which is not here; give its plugin by "
            "--plugins"
        )
    try:
        made = registry.create(stage.name, stage.settings)
    except InputError as error:
        raise RefusedError(f"the row cannot be replayed: {error}") from error
    if stage_spec(made).code_sha256 != stage.code_sha256:
        raise RefusedError(
            f"the row ran the {kind} {stage.name!r} with other code from plugins than there is here"
        )
    return made


def versions_that_differ(evidence: Evidence, made: Sequence[Attack | Certifier[Any]]) -> list[str]:
    """Name the stages whose version is another one here than in a row."""
    spec = evidence.record.spec
    there = {s.name: s.version for s in (*spec.attacks, *spec.attacks_if_random, *spec.certifiers)}
    return [
        f"{stage.name}: version {there[stage.name]} in the row, {stage.version} here"
        for stage in made
        if there.get(stage.name, stage.version) != stage.version
    ]
