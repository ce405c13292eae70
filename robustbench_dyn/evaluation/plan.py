"""The plan of an evaluation: its stages in their order, and what their verdicts depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import fields
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Protocol

import torch
from torch import nn

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.attacks.catalogue import SUITES, resolve_attacks
from robustbench_dyn.certification.base import Certifier, Phase, PreparedCertifier
from robustbench_dyn.certification.catalogue import named_certifiers, select_certifiers
from robustbench_dyn.certification.network.operations import OPERATIONS
from robustbench_dyn.certification.patience import (
    SECONDS_OF_AUTO,
    SECONDS_OF_AUTO_PER_EXAMPLE,
    OutOfTime,
    Patience,
)
from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.outcomes import Stage
from robustbench_dyn.evaluation.stages import AttackStage, CertifierStage, ClassRadii, CleanStage
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.lipschitz.declared import declared_bounds, refute_declared_bounds
from robustbench_dyn.models.counting import surrogates_of
from robustbench_dyn.models.determinism import seeded
from robustbench_dyn.models.isolated import IsolatedModel, count_parameters
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.models.precision import PRECISION
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.plugins import BUILT_IN, code_of, find_plugins, hash_code, is_trusted
from robustbench_dyn.results.flags import (
    CERTIFIED_ELSEWHERE,
    RANDOM,
    REFUTED_BOUND,
    SELF_DECLARED,
)
from robustbench_dyn.results.spec import EvaluationSpec, Record, StageSpec
from robustbench_dyn.threat_models import Norm
from robustbench_dyn.version import __version__

Attacks = str | Attack | Sequence[str | Attack]
Certifiers = str | Certifier[Any] | Sequence[str | Certifier[Any]]

# The name of attacks that were chosen one by one.
CUSTOM_SUITE = "custom"
# Inputs of the evaluation near which the model's own bounds are tested, and of one pass there.
_NEAR, _AT_ONCE = 4, 64


class Plan(Protocol):
    """What a pipeline runs.

    record: what the verdicts depend on, and facts about the model. flags: what making the plan
    found out about the model. declared_labels: of the certifiers that rest on a bound that the
    model states of itself; what they prove counts only once some of it was attacked.
    """

    @property
    def record(self) -> Record: ...  # noqa: D102
    @property
    def flags(self) -> Collection[str]: ...  # noqa: D102
    @property
    def declared_labels(self) -> Collection[str]: ...  # noqa: D102

    def refute_bounds(self) -> str:
        """Return how a bound that the model states of itself was refuted, or nothing."""
        ...

    def renew(self) -> None:
        """Give the certifiers their whole time again, as for another eps."""
        ...

    def stages(self, flags: Collection[str]) -> list[Stage]:
        """Return the stages for a model with these flags, in their order; first the clean pass.

        Raises InputError where such a model cannot be evaluated.
        """
        ...


class NetworkPlan:
    """Clean pass, certifiers and attacks of a network, the cheapest decisive stage first.

    Raises InputError for attacks and certifiers that do not exist or do not support the norm,
    CertificateError where a named certifier cannot treat the model.
    """

    def __init__(
        self,
        model: ModelUnderTest,
        dataset: Dataset,
        norm: Norm,
        *,
        attacks: Attacks,
        certifiers: Certifiers,
        strict_rounding: bool,
        seed: int,
        batch_size: int | Literal["auto"],
        audit_share: float,
        device: torch.device,
        certify_seconds: float | None = None,
    ) -> None:
        network = model.network.model
        self._model, self._norm = model, norm
        self.patience = _patience(certify_seconds, certifiers, n_examples=len(dataset.ids))
        with seeded(seed, "preparation"):
            surrogates = bool(surrogates_of(network))
            self._attacks = resolve_attacks(
                attacks, norm, model.n_classes, has_surrogates=surrogates
            )
            selection = select_certifiers(
                certifiers,
                network,
                tuple(dataset.x.shape[1:]),
                norm,
                strict_rounding=strict_rounding,
                patience=self.patience,
            )
        self._certifiers = selection.ready
        _check_names(self.certifiers, self._attacks)
        # A suite gives way to the one in expectation where the outputs are random; attacks that
        # were named one by one stay.
        suite = isinstance(attacks, str) and attacks in SUITES
        self._if_random = (
            resolve_attacks("rand", norm, model.n_classes)
            if suite and attacks not in ("none", "rand")
            else self._attacks
        )
        self.flags = [f"certifier_failed:{name}" for name in selection.crashed]
        foreign = isinstance(network, IsolatedModel)
        resting = any(prepared.certifier.rests_on_bounds for prepared in self._certifiers)
        declared = declared_bounds(network) if foreign or resting else []
        self.declared_labels = tuple(
            prepared.label(norm)
            for prepared in self._certifiers
            if foreign or (declared and prepared.certifier.rests_on_bounds)
        )
        if self.declared_labels and declared:
            self.flags.append(SELF_DECLARED)
        if self._certifiers and foreign:
            self.flags.append(CERTIFIED_ELSEWHERE)
        identity = model.identity
        attack_spec = partial(stage_spec, in_suite=suite)
        spec = EvaluationSpec(
            model=identity.name,
            family=identity.family,
            plugin_version=identity.plugin_version,
            weights_sha256=identity.weights_sha256,
            state_sha256=identity.state_sha256,
            code_sha256=identity.code_sha256,
            dataset=dataset.name,
            data_sha256=dataset.sha256,
            norm=norm,
            attacks=tuple(attack_spec(attack) for attack in self._attacks),
            attacks_if_random=tuple(attack_spec(attack) for attack in self._if_random),
            certifiers=tuple(
                stage_spec(prepared.certifier, label=prepared.label(norm))
                for prepared in self._certifiers
            ),
            rounding="strict" if strict_rounding else "measured",
            precision=PRECISION,
            seed=seed,
            batch_size=batch_size,
            audit_share=audit_share,
            device=device.type,
            torch_version=torch.__version__,
            package_version=__version__,
            certify_seconds=certify_seconds,
        )
        self.record = Record(
            spec=spec,
            parameters=count_parameters(network),
            lipschitz_bound=bound_of(network, self.patience),
            declared_bounds=tuple(declared) if self.declared_labels else (),
            not_applicable=selection.not_applicable,
            suite=_name_of(attacks),
            training_record=identity.recipe_sha256,
            probabilistic=tuple(
                prepared.label(norm)
                for prepared in self._certifiers
                if not prepared.certifier.deterministic
            ),
        )

    @property
    def certifiers(self) -> list[Certifier[Any]]:
        """The certifiers that are ready for the model, the cheapest first."""
        return [prepared.certifier for prepared in self._certifiers]

    def refute_bounds(self) -> str:
        """Search for two inputs that refute a bound which the model states; takes passes."""
        if not self.declared_labels:
            return ""
        size = self.record.spec.batch_size
        return refute_declared_bounds(
            self._model.network.model,
            self._model.sample(_NEAR),
            batch_size=min(size, _AT_ONCE) if isinstance(size, int) else _NEAR,
        )

    def renew(self) -> None:
        """Give the certifiers their whole time again, as for another eps."""
        self.patience.renew()

    def stages(self, flags: Collection[str]) -> list[Stage]:
        """Return the stages; a model that is no function of its input is attacked alone.

        Nothing is proved from a bound that was refuted.
        """
        certifiers = [] if self.record.spec.voids_certificates(flags) else self._certifiers
        if REFUTED_BOUND in flags:
            certifiers = [c for c in certifiers if not c.certifier.rests_on_bounds]
        attacks = self._if_random if RANDOM in flags else self._attacks
        # Predictions and checks of candidates are by the majority of many passes.
        self._model.in_expectation = RANDOM in flags
        return arrange(self._model, certifiers, attacks, self._norm, self.patience)


def arrange(
    model: ModelUnderTest,
    certifiers: Sequence[PreparedCertifier],
    attacks: Sequence[Attack],
    norm: Norm,
    patience: Patience | None = None,
) -> list[Stage]:
    """Put the stages in order: each comes in when all before it left an example undecided.

    patience: the time that proofs are at the expense of, by default without a limit.
    """
    patience = patience or Patience()
    known = ClassRadii(model, certifiers, patience)
    stages: list[Stage] = [CleanStage(model, certifiers, known, norm, patience)]
    stages += [
        CertifierStage(model, prepared, norm, patience)
        for prepared in certifiers
        if not prepared.certifier.radius_based
    ]
    stages += [
        AttackStage(model, attack, known, first=not place) for place, attack in enumerate(attacks)
    ]
    order = list(Phase)
    # Sorting is stable: within a phase the order stays.
    return sorted(stages, key=lambda stage: order.index(stage.phase))


def _patience(seconds: float | None, certifiers: Certifiers, *, n_examples: int) -> Patience:
    """Return the time that certifiers have: a budget, or that of `auto`, which ends no search."""
    if seconds is not None or not named_certifiers(certifiers).auto:
        return Patience(seconds)
    of_auto = SECONDS_OF_AUTO + SECONDS_OF_AUTO_PER_EXAMPLE * n_examples
    return Patience(of_auto, searches=False)


def _name_of(attacks: Attacks) -> str:
    """Return the name of the suite that was chosen."""
    match attacks:
        case str(name) | [str(name)] if name.strip() in SUITES:
            return name.strip()
    return CUSTOM_SUITE


def _check_names(certifiers: Sequence[Certifier[Any]], attacks: Sequence[Attack]) -> None:
    """Raise InputError where two stages have one name, by which the store knows them."""
    taken = {CleanStage.name, *(certifier.name for certifier in certifiers)}
    for attack in attacks:
        if attack.name in taken:
            raise InputError(
                f"an attack and another stage are called {attack.name!r}; rename one of them"
            )
    if any(certifier.name == CleanStage.name for certifier in certifiers):
        raise InputError(f"no certifier may be called {CleanStage.name!r}; rename it")


def stage_spec(
    stage: Attack | Certifier[Any], *, label: str = "", in_suite: bool = False
) -> StageSpec:
    """Return what a verdict depends on of an attack or a certifier.

    label: its name in tables; by default with the settings that are not the default ones. in_suite:
    a suite chose the settings, and tables show its name alone.
    """
    if not label:
        label = stage.name if in_suite else _with_settings(stage)
    return StageSpec(
        name=stage.name,
        label=label,
        version=stage.version,
        settings=stage.settings(),
        library=_library(getattr(stage, "library", "")),
        code_sha256=_code(stage),
        gradient_free=getattr(stage, "gradient_free", False),
        only_on_signs=getattr(stage, "only_on_signs", False),
        sampled=getattr(stage, "sampled", False),
    )


def _with_settings(stage: Attack | Certifier[Any]) -> str:
    settings = stage.settings()
    changed = [
        f"{part.name}={settings[part.name]}"
        for part in fields(stage)
        if part.name in settings and settings[part.name] != part.default
    ]
    return f"{stage.name}({' '.join(changed)})" if changed else stage.name


@cache
def _library(name: str) -> str:
    """Return a library's name and version, or nothing where it is this one or none."""
    try:
        return "" if name in ("", "robustbench-dyn") else f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def _code(stage: Attack | Certifier[Any]) -> str:
    """Return the hash of the code that a stage takes from plugins; empty where it takes none."""
    code = code_of(type(stage))
    if not isinstance(stage, Certifier):
        return code
    handlers = (
        entry.target
        for entry in OPERATIONS.entries().values()
        if entry.origin != BUILT_IN and not entry.problem
    )
    # In the process of a foreign model, untrusted plugins add operations as well.
    foreign = {
        hash_code(plugin.folder)
        for plugin in find_plugins()
        if plugin.card and plugin.provides("operations") and not is_trusted(plugin)
    }
    operations = sorted({code_of(handler) for handler in handlers} | foreign)
    return (
        hashlib.sha256(" ".join([code, *operations]).encode()).hexdigest() if operations else code
    )


def bound_of(model: nn.Module, patience: Patience | None = None) -> float | None:
    """Return the Lipschitz bound of a model in L2, or None where it has none that can be told."""
    patience = patience or Patience()
    if isinstance(model, IsolatedModel):
        told: float | None = model.facts["lipschitz_bound"]
        return told
    try:
        with patience.spending():
            return lipschitz_bound(model)
    except OutOfTime:
        return None
    # The model's own method may raise anything; the certifier tells what.
    except Exception as error:
        if is_machine_error(error):
            raise
        return None
