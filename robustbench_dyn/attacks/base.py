"""The base class of attacks: a subclass searches, and evaluation checks what it returns."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, final

from robustbench_dyn.errors import InputError, ShapeError, shown
from robustbench_dyn.threat_models import NORMS, Norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from robustbench_dyn.attacks.problem import AttackProblem
    from robustbench_dyn.threat_models import ThreatModel

Setting = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search for adversarial examples with its settings; it does not check its own success.

    A subclass is a frozen dataclass, whose fields are its settings, and defines `perturb`. Facts
    about the class are class variables:

    - name: letters, digits, '-', '_' and '.'. norms: those that it supports.
    - library: the package whose code it runs. description: one line for tables.
    - min_classes: the fewest classes for which its loss is defined.
    - gradient_free: it uses no gradient of the model.
    - per_class: it searches towards single classes, and profits from class_radii.
    - needs_surrogates: it does nothing to a model that names no surrogates.
    - batches_itself: perturb is given all examples at once, and keeps to batch_size itself.
    - version: raised when its candidates change, so that no old verdict is taken for a new one.

    Two fields are no settings, for suites: an attack with only_on_signs is run only on signs of
    masked gradients, one with sampled on a sample of the survivors (results.sampling).
    Raises InputError for a setting of another type than its default, a number that is not finite,
    and a count, n_..., below 1.
    """

    name: ClassVar[str]
    norms: ClassVar[frozenset[Norm]] = frozenset(NORMS)
    library: ClassVar[str] = ""
    description: ClassVar[str] = ""
    min_classes: ClassVar[int] = 2
    gradient_free: ClassVar[bool] = False
    per_class: ClassVar[bool] = False
    needs_surrogates: ClassVar[bool] = False
    batches_itself: ClassVar[bool] = False
    version: ClassVar[int] = 1

    only_on_signs: bool = field(default=False, metadata={"setting": False})
    sampled: bool = field(default=False, metadata={"setting": False})

    def __post_init__(self) -> None:
        _check_class(type(self))
        for part in fields(self):
            _check_setting(part.name, getattr(self, part.name), part.default)

    def settings(self) -> dict[str, Setting]:
        """Return what its candidates depend on besides its version, by name."""
        return {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if part.metadata.get("setting", True)
        }

    def expected_passes(self, n_classes: int) -> float:
        """Return about how many passes, forwards and backwards, an unbroken example takes.

        Progress displays plan with it; no result depends on it. By default as the settings have
        it: steps, iterations or queries, times restarts, targets and passes a step.
        """
        settings = self.settings()
        per_step = 1 if self.gradient_free else 2
        n_targets = settings.get("n_targets")
        targets = min(int(n_targets), n_classes - 1) if isinstance(n_targets, int) else 1
        factors = [settings.get(name) for name in _FACTORS]
        steps = math.prod(int(factor) for factor in factors if isinstance(factor, int))
        return float(per_step * max(1, targets) * max(1, steps))

    @abstractmethod
    def perturb(self, problem: AttackProblem) -> Tensor:
        """Return a candidate for each example, (n, C, H, W); where none was found, x for instance.

        problem.model gives logits in float32; its parameters have no gradients. The evaluation
        checks which candidates are adversarial.
        """

    @final
    def search(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat_model: ThreatModel,
        *,
        seed: int,
        batch_size: int,
        n_classes: int,
        class_radii: Tensor | None = None,
        tell: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Return candidates of x's shape, dtype and device, from chunks of batch_size, all seeded.

        x: (n, *input_shape) in [0, 1]; y: (n,). class_radii, tell: see AttackProblem; by default
        nothing is known, and nothing told. The same arguments give the same candidates. The model
        runs in eval mode; its modes, requires_grad flags and gradients, and the caller's random
        streams, are put back. What the model or the library raises is passed on.
        Raises ShapeError where x and y differ in length, or x and the candidates; InputError where
        batch_size is below 1.
        """
        import torch

        from robustbench_dyn.attacks.wrapping import posed

        if len(x) != len(y):
            raise ShapeError(
                f"x has {len(x)} examples and y has {len(y)} labels; give one label each"
            )
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} is below 1; give a positive number")
        if len(x) == 0:
            return x.clone()
        with posed(
            model,
            x,
            y,
            threat_model,
            seed=seed,
            n_classes=n_classes,
            batch_size=batch_size,
            class_radii=class_radii,
            tell=tell,
        ) as problem:
            everything = torch.arange(len(x), device=x.device)
            at_once = len(x) if self.batches_itself else batch_size
            candidates = torch.cat(
                [
                    self.perturb(problem.rows(chunk)).detach().to(x.device, x.dtype)
                    for chunk in torch.split(everything, at_once)
                ]
            )
        if candidates.numel() != x.numel():
            raise ShapeError(
                f"attack {self.name!r} returned candidates of shape {tuple(candidates.shape)} for "
                f"x of shape {tuple(x.shape)}; return one for each example"
            )
        return candidates.reshape(x.shape)


# Settings that multiply the passes of an attack.
_FACTORS = ("n_iterations", "n_steps", "n_queries", "n_restarts", "n_passes", "eot_iter")


def _check_class(kind: type[Attack]) -> None:
    """Raise InputError where a class has no usable name, or a setting that is no field."""
    name = getattr(kind, "name", "")
    if not re.fullmatch(r"[a-zA-Z][\w.-]*", name):
        raise InputError(
            f"attack {kind.__name__} is called {name!r}; give it a class variable `name` of "
            "letters, digits, '-', '_' and '.'"
        )
    known = {part.name for part in fields(kind)}
    for setting, annotation in vars(kind).get("__annotations__", {}).items():
        # Verdicts would not depend on it.
        if setting not in known and "ClassVar" not in str(annotation):
            raise InputError(
                f"setting {setting!r} of attack {kind.__name__} is no field; put "
                "@dataclass(frozen=True, kw_only=True) before the class"
            )


# By the type of a setting's default: the types that a value may have, and what to call them.
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a word"),
}
_ANY_KIND = ((bool, int, float, str), "a number, true, false or a word")


def _check_setting(name: str, value: Any, default: Any) -> None:
    if value is None and default is None:
        return
    kinds, what = _KINDS.get(type(default), _ANY_KIND)
    # Not isinstance: true is no number.
    if type(value) not in kinds:
        raise InputError(f"{name}={shown(value)} is not {what}; give {what}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}={value} is not finite; give a finite number")
    if name.startswith("n_") and value < 1:
        raise InputError(f"{name}={value} is below 1; give 1 or more")
