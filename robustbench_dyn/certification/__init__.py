"""Certifiers: for each example a radius inside which no adversarial example exists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Certifier:
    """A proof method.

    rival_radii(prepared, logits, y, norm=..., dimension=...) returns (batch, classes) float64:
    nearer than entry j, in `norm` and rounded down, class j does not reach the label's logit; inf
    for the label itself, 0 where nothing is proved. prepared = prepare(model), which raises
    CertificateError, with the reason, for a model that the method knows nothing about.
    label(norm) is the name in the table.
    """

    name: str
    description: str
    deterministic: bool
    prepare: Callable[[nn.Module], Tensor]
    rival_radii: Callable[..., Tensor]
    label: Callable[[Norm], str]

    def radii(
        self, prepared: Tensor, logits: Tensor, y: Tensor, *, norm: Norm, dimension: int
    ) -> Tensor:
        """Return the radii inside which no class overtakes the label, (batch,); NaN for none."""
        of_rivals = self.rival_radii(prepared, logits, y, norm=norm, dimension=dimension)
        nearest = of_rivals.amin(dim=1)
        return nearest.where(nearest > 0, float("nan"))


def _lipschitz() -> Certifier:
    from robustbench_dyn.certification import lipschitz  # noqa: PLC0415  (torch is heavy)

    return lipschitz.CERTIFIER


_CERTIFIERS: dict[str, tuple[str, Callable[[], Certifier]]] = {
    "lipschitz": ("global L2 Lipschitz bound of each logit difference", _lipschitz),
}


def certifier_names() -> dict[str, str]:
    """Return each certifier's name with one line on what it proves."""
    return {name: description for name, (description, _) in _CERTIFIERS.items()}


def resolve_certifiers(spec: str | Sequence[str], model: nn.Module) -> list[Certifier]:
    """Return the certifiers that spec names: "auto" (those that know the model), "none", or names.

    Raises InputError for an unknown name, CertificateError where a named one cannot treat model.
    """
    names = named_certifiers(spec)
    if names != ["auto"]:
        return [_able(name, model) for name in names]
    able = []
    for name in _CERTIFIERS:
        try:
            able.append(_able(name, model))
        except CertificateError:
            continue
    return able


def named_certifiers(spec: str | Sequence[str]) -> list[str]:
    """Return the names in spec, without any for "none", or "auto" alone.

    Raises InputError, with the nearest name, for an unknown one.
    """
    names = [name.strip() for name in (spec.split(",") if isinstance(spec, str) else spec)]
    if names == ["none"]:
        return []
    for name in names:
        if name not in _CERTIFIERS and names != ["auto"]:
            near = get_close_matches(name, _CERTIFIERS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"no certifier is called {name!r}; {hint}choose auto, none, or "
                f"{', '.join(_CERTIFIERS)}"
            )
    return names


def _able(name: str, model: nn.Module) -> Certifier:
    certifier = _CERTIFIERS[name][1]()
    certifier.prepare(model)
    return certifier
