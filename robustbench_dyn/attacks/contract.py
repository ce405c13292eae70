"""The contract of attacks: rules that the evaluation relies on, each with a negative control."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.attacks import controls
from robustbench_dyn.attacks.controls import Damage, Damaged
from robustbench_dyn.attacks.halfspaces import Halfspaces, examples_at_distance
from robustbench_dyn.plugins.contract import Finding, Outcome, Rule, check_contract
from robustbench_dyn.threat_models import Norm, ThreatModel, distance, project

_N_EXAMPLES = 8
# Small enough that neither the box nor another class is in the way.
_DISTANCES: dict[Norm, float] = {"Linf": 0.02, "L2": 0.06, "L1": 0.15}
# eps over the distance: a linear classifier has adversarial examples from 1 on.
_SLACK = 1.5
# Random searches miss some examples; an attack that does nothing misses all.
_LEAST_FOUND = 0.5
_NATIVE = ("", "robustbench-dyn")


class Searching(Protocol):
    """What the contract calls of an attack: Attack.search."""

    @property
    def search(self) -> Callable[..., Tensor]:
        """Return candidates; see Attack.search."""


@dataclass(frozen=True)
class Subject:
    """An attack under one norm, on examples of a linear classifier.

    library: the attack's; that of its own code or of this package is expected to treat each example
    by itself.
    """

    attack: Searching
    norm: Norm
    n_classes: int
    library: str = ""

    def model(self) -> Halfspaces:
        """Return the classifier, in train mode."""
        return Halfspaces(self.n_classes).train()

    def examples(self) -> tuple[Tensor, Tensor]:
        """Return x, (_N_EXAMPLES, *shape) float32, and y, the labels that the classifier gives."""
        return examples_at_distance(self.model(), _N_EXAMPLES, self.norm, _DISTANCES[self.norm])

    @property
    def threat_model(self) -> ThreatModel:
        """The ball, in which each example has an adversarial example."""
        return ThreatModel(self.norm, _SLACK * _DISTANCES[self.norm])

    def search(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attack's candidates."""
        return self.attack.search(
            model,
            x,
            y,
            self.threat_model,
            seed=0,
            batch_size=_N_EXAMPLES,
            n_classes=self.n_classes,
        )


def check_attack(attack: Any, norm: Norm) -> Iterator[Finding]:
    """Yield a Finding for each rule of the contract, under a norm that the attack supports."""
    n_classes = max(3, attack.min_classes)
    subject = Subject(attack, norm, n_classes, attack.library)
    yield from check_contract(subject, rules(norm, n_classes))


def rules(norm: Norm, n_classes: int = 3) -> list[Rule[Subject]]:
    """Return the rules; the broken counterparts are a correct attack with damaged candidates."""

    def broken(**damages: Damage) -> list[tuple[str, Subject]]:
        return [
            (fault.replace("_", " "), Subject(Damaged(damage), norm, n_classes))
            for fault, damage in damages.items()
        ]

    return [
        Rule(
            "candidates have the shape, dtype and device of x",
            _same_kind,
            broken(
                flattens=lambda x_adv, *_: x_adv.flatten(1), widens=lambda x_adv, *_: x_adv.double()
            ),
        ),
        Rule(
            "projected candidates are finite and inside the ball",
            _in_ball,
            broken(returns_NaN=lambda x_adv, *_: x_adv * float("nan")),
        ),
        Rule(
            f"adversarial examples are found at {_SLACK} times their distance",
            _finds,
            broken(
                does_nothing=lambda _x_adv, _model, x: x.clone(),
                goes_away_from_the_boundary=lambda x_adv, _model, x: 2 * x - x_adv,
                goes_anywhere=controls.step_at_random,
            ),
        ),
        Rule(
            "candidates depend on the seed and on no other generator",
            _repeats,
            broken(
                draws_from_torch=lambda x_adv, *_: x_adv + 1e-3 * torch.rand(1),
                draws_from_numpy=lambda x_adv, *_: x_adv + 1e-3 * float(np.random.rand()),  # noqa: NPY002
                draws_from_random=lambda x_adv, *_: x_adv + 1e-3 * random.random(),
            ),
        ),
        Rule(
            "the caller's generators are put back", _keeps_generators, broken(draws=controls.draw)
        ),
        Rule(
            "the model's modes, flags, gradients and weights are put back",
            _keeps_model,
            broken(
                leaves_eval_mode=controls.leave_eval_mode,
                freezes=controls.freeze,
                adds_gradients=controls.add_gradients,
            ),
        ),
        Rule(
            "x and y are left as they were",
            _keeps_examples,
            broken(writes_into_x=controls.overwrite),
        ),
        Rule(
            "each example has the same candidate alone as among others",
            _ignores_neighbours,
            broken(mixes_its_batch=lambda x_adv, *_: x_adv + 1e-3 * x_adv.mean()),
        ),
    ]


def _same_kind(subject: Subject) -> Outcome:
    x, y = subject.examples()
    found = subject.search(subject.model(), x, y)
    kinds = [f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (x, found)]
    return Outcome(kinds[0] == kinds[1], f"{kinds[1]} for {kinds[0]}")


def _in_ball(subject: Subject) -> Outcome:
    x, y = subject.examples()
    inside = project(subject.search(subject.model(), x, y), x, subject.threat_model)
    # Written so that NaN fails it.
    n_inside = int((distance(inside, x, subject.norm) <= subject.threat_model.eps).sum())
    return Outcome(n_inside == len(x), f"{n_inside} of {len(x)}")


def _finds(subject: Subject) -> Outcome:
    x, y = subject.examples()
    model = subject.model()
    inside = project(subject.search(model, x, y), x, subject.threat_model)
    n_found = int((model.eval()(inside).argmax(dim=1) != y).sum())
    required = int(_LEAST_FOUND * len(x))
    return Outcome(n_found >= required, f"{n_found} of {len(x)}, at least {required}")


def _repeats(subject: Subject) -> Outcome:
    x, y = subject.examples()
    found = list[Tensor]()
    with _generators_put_back():
        for state in (1, 2):
            torch.manual_seed(state)
            np.random.seed(state)  # noqa: NPY002  (the generator that a library may draw from)
            random.seed(state)
            found.append(subject.search(subject.model(), x, y))
    return _compare(*found)


def _keeps_generators(subject: Subject) -> Outcome:
    x, y = subject.examples()
    with _generators_put_back():
        before = _generator_states()
        subject.search(subject.model(), x, y)
        moved = [name for name, state in _generator_states().items() if state != before[name]]
    return Outcome(not moved, f"it moved that of {', '.join(moved)}" if moved else "")


def _keeps_model(subject: Subject) -> Outcome:
    x, y = subject.examples()
    model = subject.model()
    model.weight.grad = torch.ones_like(model.weight)
    before = _model_state(model)
    subject.search(model, x, y)
    changed = [name for name, state in _model_state(model).items() if state != before[name]]
    return Outcome(not changed, f"it changed {', '.join(changed)}" if changed else "")


def _keeps_examples(subject: Subject) -> Outcome:
    x, y = subject.examples()
    given = x.clone(), y.clone()
    subject.search(subject.model(), *given)
    kept = torch.equal(x, given[0]) and torch.equal(y, given[1])
    return Outcome(kept, "" if kept else "it wrote into them")


def _ignores_neighbours(subject: Subject) -> Outcome:
    if subject.library not in _NATIVE:
        return Outcome(None, f"{subject.library} draws for a batch as a whole")
    x, y = subject.examples()
    among = subject.search(subject.model(), x, y)
    alone = [subject.search(subject.model(), x[i : i + 1], y[i : i + 1]) for i in (0, len(x) - 1)]
    return _compare(among[[0, -1]], torch.cat(alone))


def _compare(a: Tensor, b: Tensor) -> Outcome:
    equal = torch.equal(a, b)
    return Outcome(equal, "" if equal else f"they differ by up to {float((a - b).abs().max()):.1e}")


def _generator_states() -> dict[str, object]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "random": random.getstate(),
    }


@contextmanager
def _generators_put_back() -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _model_state(model: Halfspaces) -> dict[str, object]:
    grad = model.weight.grad
    return {
        "its mode": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": None if grad is None else grad.tolist(),
        "weights": model.weight.tolist(),
    }
