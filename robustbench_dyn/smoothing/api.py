"""Evaluate a smoothed classifier: a model of its own in the tables, with its own plan of stages.

A probabilistic certificate belongs to the smoothed classifier, not to the network that it is made
of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.api import DEFAULT_AUDIT_SHARE, Evaluation, run_grid
from robustbench_dyn.evaluation.inputs import Data, as_dataset, open_store
from robustbench_dyn.evaluation.options import check_options, device_of
from robustbench_dyn.evaluation.outcomes import Stage
from robustbench_dyn.evaluation.pipeline import Pipeline
from robustbench_dyn.evaluation.under_test import under_test
from robustbench_dyn.models.isolated import count_parameters
from robustbench_dyn.models.precision import PRECISION
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.progress.report import Progress
from robustbench_dyn.results.flags import NOT_A_FUNCTION
from robustbench_dyn.results.spec import EvaluationSpec, Record, SmoothingSpec, StageSpec
from robustbench_dyn.results.store import Store, Votes
from robustbench_dyn.smoothing.stages import (
    ATTACK,
    N_DRAWS,
    N_STEPS,
    CertifiedExample,
    EotAttackStage,
    VoteStage,
)
from robustbench_dyn.smoothing.statistics import Smoothing
from robustbench_dyn.smoothing.votes import VoteCounter
from robustbench_dyn.threat_models import Norm, ThreatModel
from robustbench_dyn.version import __version__

# Raise when votes change, so that no old one is taken for a new one.
_VOTES_VERSION = 2
_BATCH_SIZE = 250


@dataclass(frozen=True)
class SmoothedEvaluation:
    """One Evaluation a threat model, as for any model, and one certificate an example."""

    evaluations: tuple[Evaluation, ...]
    certificates: tuple[CertifiedExample, ...]


def evaluate_smoothed(
    model: nn.Module,
    data: Data,
    threat_models: Sequence[ThreatModel],
    smoothing: Smoothing,
    *,
    first: int = 0,
    n_examples: int | None = None,
    seed: int = 0,
    batch_size: int | Literal["auto"] = _BATCH_SIZE,
    attacked: bool = True,
    audit_share: float = DEFAULT_AUDIT_SHARE,
    device: str | torch.device | None = None,
    store: Store | Path | str | None = None,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SmoothedEvaluation:
    """Bracket the robust accuracy of the smoothed classifier of model, at eps of one norm.

    Its prediction is PREDICT's and its radius CERTIFY's, both from n votes, each right with
    probability 1 - alpha an example; an abstention counts as misclassified. Examples that are not
    certified, and a share of the others (audit_share, at least 6), are attacked by projected
    gradient ascent in expectation over noise; an example is broken where PREDICT, from noise that
    neither the attack nor the certificate has seen, answers another class.
    Votes do not depend on alpha, norm and eps, and each batch of them is kept in the store: a run
    that was killed goes on in the middle of an example. batch_size: noisy copies that the model is
    given at once, or "auto". The other options are those of evaluate_grid. The row's
    [ci_low, ci_high] takes the verdicts as they are; what alpha leaves open comes on top.
    Raises InputError for bad input, MachineError where the machine failed.
    """
    norm = check_options(
        model,
        threat_models,
        batch_size=batch_size,
        audit_share=audit_share,
        seed=seed,
        name=name,
        progress=progress,
    )
    if not isinstance(smoothing, Smoothing):
        raise InputError(f"smoothing={smoothing!r} must be a Smoothing, such as Smoothing(0.25)")
    dataset = as_dataset(data, n_examples, first=first)
    for threat_model in threat_models:
        threat_model.check_input_shape(tuple(dataset.x.shape[1:]))
    where = device_of(model, device)
    with (
        under_test(
            model, dataset, device=where, seed=seed, batch_size=batch_size, name=name
        ) as tested,
        open_store(store) as opened,
    ):
        plan = SmoothedPlan(
            tested,
            dataset,
            norm,
            smoothing,
            opened,
            attacked=attacked,
            seed=seed,
            audit_share=audit_share,
            device=where,
        )
        pipeline = Pipeline(
            plan, tested, dataset, opened, device=where, batch_size=batch_size, progress=progress
        )
        evaluations = run_grid(pipeline, threat_models)
        size = _BATCH_SIZE if batch_size == "auto" else batch_size
        certificates = tuple(
            plan.votes.certificate(int(i), x[None].to(where), y[None].to(where), size=size)
            for i, x, y in zip(dataset.ids, dataset.x, dataset.y, strict=True)
        )
    return SmoothedEvaluation(tuple(evaluations), certificates)


class SmoothedPlan:
    """Votes, and an attack in expectation on what they leave."""

    flags: tuple[str, ...] = ()
    declared_labels: tuple[str, ...] = ()

    def __init__(
        self,
        model: ModelUnderTest,
        dataset: Dataset,
        norm: Norm,
        smoothing: Smoothing,
        store: Store,
        *,
        attacked: bool,
        seed: int,
        audit_share: float,
        device: torch.device,
    ) -> None:
        identity = model.identity
        settings = {"n_steps": N_STEPS, "n_draws": N_DRAWS}
        attack = StageSpec(name=ATTACK, label=ATTACK, settings=settings)
        votes = StageSpec(name="smoothing", label=smoothing.label(norm), version=_VOTES_VERSION)
        spec = EvaluationSpec(
            model=smoothing.name_of(identity.name),
            family=identity.family,
            plugin_version=identity.plugin_version,
            weights_sha256=identity.weights_sha256,
            state_sha256=identity.state_sha256,
            code_sha256=identity.code_sha256,
            dataset=dataset.name,
            data_sha256=dataset.sha256,
            norm=norm,
            smoothing=SmoothingSpec(
                sigma=smoothing.sigma, n0=smoothing.n0, n=smoothing.n, alpha=smoothing.alpha
            ),
            attacks=(attack,) if attacked else (),
            attacks_if_random=(attack,) if attacked else (),
            certifiers=(votes,),
            precision=PRECISION,
            seed=seed,
            audit_share=audit_share,
            device=device.type,
            torch_version=torch.__version__,
            package_version=__version__,
        )
        parameters = count_parameters(model.network.model)
        self.record = Record(
            spec=spec,
            parameters=parameters,
            suite=ATTACK if attacked else "none",
            training_record=identity.recipe_sha256,
            probabilistic=(votes.label,),
        )
        counter = VoteCounter(
            model, smoothing, StoredVotes(store, spec.votes_key()), seed=seed, n_draws=N_DRAWS
        )
        self.votes = VoteStage(counter, norm)
        self._attacks = [EotAttackStage(counter)] if attacked else []

    def refute_bounds(self) -> str:
        """Votes rest on no bound."""
        return ""

    def stages(self, flags: Collection[str]) -> list[Stage]:
        """Return the stages; raises InputError where votes are no samples of one classifier.

        A model that draws at random may be smoothed: it votes as a random classifier.
        """
        if self.record.spec.voids_certificates(flags):
            wrong = ", ".join(sorted(NOT_A_FUNCTION.intersection(flags)))
            raise InputError(
                f"the model's answer to an input depends on more than the input ({wrong}), so that "
                "votes on noisy copies are no samples of one classifier; mend the model"
            )
        return [self.votes, *self._attacks]


class StoredVotes(MutableMapping[tuple[int, str], Votes]):
    """The votes of one key in a store, by example_id and purpose; what is set is written."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key = store, key
        self._votes = store.votes(key)

    def __getitem__(self, place: tuple[int, str]) -> Votes:
        return self._votes[place]

    def __setitem__(self, place: tuple[int, str], votes: Votes) -> None:
        self._store.add_votes(self._key, *place, votes)
        self._votes[place] = votes

    def __delitem__(self, place: tuple[int, str]) -> None:
        raise TypeError("votes are kept")

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._votes)

    def __len__(self) -> int:
        return len(self._votes)
