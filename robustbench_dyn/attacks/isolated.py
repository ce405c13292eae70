"""Attacks of plugins that are not trusted: the search runs in a process of its own.

The process gets the examples with their labels, and asks for logits and gradients of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from robustbench_dyn.attacks.base import Attack
from robustbench_dyn.errors import ShapeError
from robustbench_dyn.plugins import (
    SERVICE,
    Entry,
    FactsOfStage,
    Plugin,
    StandIn,
    facts_of_stage,
    make_stage,
    process_of,
    stand_ins,
)

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_dyn.attacks.problem import AttackProblem


class FactsOfAttack(FactsOfStage):
    """What a process says of an attack; see attacks.base.Attack."""

    of_the_base: ClassVar[frozenset[str]] = frozenset(dir(Attack))

    library: str = ""
    min_classes: int = 2
    gradient_free: bool = False
    per_class: bool = False
    needs_surrogates: bool = False
    batches_itself: bool = False


def of_foreign_plugin(plugin: Plugin) -> Iterator[Entry]:
    """Yield an Entry for each attack of an untrusted plugin."""
    return stand_ins(plugin, "attacks", FactsOfAttack, _make)


def facts_of(kind: type[Attack]) -> dict[str, Any]:
    """Return what a stand-in must know of an attack, as JSON can say it."""
    return facts_of_stage(kind, FactsOfAttack)


class IsolatedAttack(Attack, StandIn):
    """The base of the stand-ins."""

    name: ClassVar[str] = "isolated"

    def perturb(self, problem: AttackProblem) -> Tensor:
        """Return the candidates that the process finds, (n, C, H, W)."""
        import torch

        from robustbench_dyn.models import serving
        from robustbench_dyn.models.counting import surrogates_of

        model = problem.model
        most = max(len(problem.x), problem.batch_size)
        served = serving.serve_attack({"": model, **surrogates_of(model)}, problem.x, most)
        about = {
            "attack": self.name,
            "settings": self.settings(),
            "norm": problem.threat_model.norm,
            "eps": problem.threat_model.eps,
            "seed": problem.seed,
            "n_classes": problem.n_classes,
            "batch_size": problem.batch_size,
            "surrogates": list(served["parts"])[1:],
        }
        tensors = {
            "x": problem.x,
            "y": problem.y,
            "class_radii": problem.class_radii,
            "random_state": torch.get_rng_state(),
        }
        process = process_of(self.plugin)
        with torch.enable_grad():
            answer = process.call(
                f"{SERVICE}:perturb",
                about,
                tensors,
                times=max(1, len(problem.x)),
                answering=lambda question: serving.answer(served, question),
            )
        candidates = answer.tensors.get("candidates")
        if candidates is None or candidates.numel() != problem.x.numel():
            raise ShapeError(
                f"attack {self.name!r} returned no candidate for each example; return one each"
            )
        # The next chunk goes on where this one has stopped drawing.
        state = answer.tensors.get("random_state")
        if state is not None and state.shape == tensors["random_state"].shape:
            torch.set_rng_state(state)
        return candidates.to(problem.x)


def _make(plugin: Plugin, facts: FactsOfAttack) -> type[Attack]:
    return make_stage(IsolatedAttack, plugin, facts)
