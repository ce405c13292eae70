"""Certifiers: which classes cannot overtake the label, within a radius or within one ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.threat_models import NORMS, Norm, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn


class Proof(NamedTuple):
    """rival_radii: (batch, classes) float64, in the threat model's norm and rounded down.

    Nearer than entry j, class j does not reach the label's logit; inf for the label itself, 0
    where nothing is proved. candidates: of x's shape, points that the certifier takes for
    adversarial examples (x itself where it has none); the harness judges them. forward_passes: of
    the model, that the proof took. within_rounding: (batch,) bool, where nothing is proved since
    the model's own rounding may exceed a margin.
    """

    rival_radii: Tensor
    candidates: Tensor | None = None
    forward_passes: int = 0
    within_rounding: Tensor | None = None


def name_from_l2(name: str, norm: Norm) -> str:
    """Name in the table a method whose radii are of L2, where they are asked for in `norm`."""
    return name if norm == "L2" else f"{name}-from-L2"


def _own_name(_norm: Norm) -> str:
    return ""


class Cost(Enum):
    """What a proof costs for one example, and with that its place among the attacks."""

    NOTHING = "of the first pass"
    LOW = "before all attacks"
    HIGH = "after the first attack, for what that leaves"
    EXHAUSTIVE = "after all attacks: it searches until it has decided"


@dataclass(frozen=True)
class Certifier:
    """A proof method.

    prove(state, x, logits, y, threat_model) returns a Proof; x: (batch, *input_shape), logits:
    (batch, classes) as the model computed them, y: (batch,). state = prepare(model, input_shape),
    which raises CertificateError, with the reason, for a model that the method cannot treat.
    measures_rounding: prepare also takes strict_rounding, whether the worst that the model's
    rounding may do is taken off its margins, or what was measured of it (see rounding.py); all
    others take off the worst.
    label(norm) is the name in the table. norms: those that it knows.
    cost: when it is run. Where it is Cost.NOTHING, radii do not depend on the threat model's eps;
    others say of the ball of one threat model that a class is excluded, by a radius of eps, or not.
    version: raised when its proofs change, so that no old proof is taken for a new one.
    """

    name: str
    description: str
    deterministic: bool
    prepare: Callable[..., Any]
    prove: Callable[..., Proof]
    label: Callable[[Norm], str] = _own_name
    norms: frozenset[Norm] = frozenset(NORMS)
    cost: Cost = Cost.LOW
    measures_rounding: bool = False
    version: int = 1

    @property
    def at_any_eps(self) -> bool:
        """Whether one pass gives the radii for every eps."""
        return self.cost is Cost.NOTHING

    def prepared(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool
    ) -> Prepared:
        """Return the certifier with what it has to know of a model; raises what prepare raises."""
        options = {"strict_rounding": strict_rounding} if self.measures_rounding else {}
        return Prepared(self, self.prepare(model, input_shape, **options))


class Prepared(NamedTuple):
    """A certifier, prepared for one model; state is what its prepare returned."""

    certifier: Certifier
    state: Any

    def prove(self, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel) -> Proof:
        """Return the certifier's Proof for examples of this model."""
        return self.certifier.prove(self.state, x, logits, y, threat_model)

    def label(self, norm: Norm) -> str:
        """Return the certifier's name in the table."""
        return self.certifier.label(norm) or self.certifier.name


class Selection(NamedTuple):
    """The certifiers of a run, the cheapest first, and those that `auto` could not use.

    not_applicable: the reason, by name. crashed: those of them whose preparation ended in an
    error that says nothing about the model.
    """

    ready: list[Prepared]
    not_applicable: dict[str, str]
    crashed: list[str]


def radii(proof: Proof) -> Tensor:
    """Return the radii inside which no class overtakes the label, (batch,); NaN for none."""
    nearest = proof.rival_radii.amin(dim=1)
    return nearest.where(nearest > 0, float("nan"))


def _lipschitz() -> Certifier:
    from robustbench_dyn.certification import lipschitz  # noqa: PLC0415  (torch is heavy)

    return lipschitz.CERTIFIER


def _lipsdp() -> Certifier:
    from robustbench_dyn.certification import lipsdp  # noqa: PLC0415

    return lipsdp.CERTIFIER


def _lipschitz_in_box() -> Certifier:
    from robustbench_dyn.certification import lipschitz_in_box  # noqa: PLC0415

    return lipschitz_in_box.CERTIFIER


def _interval() -> Certifier:
    from robustbench_dyn.certification import interval  # noqa: PLC0415

    return interval.CERTIFIER


def _linear_relaxation() -> Certifier:
    from robustbench_dyn.certification import linear_relaxation  # noqa: PLC0415

    return linear_relaxation.CERTIFIER


def _local_lipsdp() -> Certifier:
    from robustbench_dyn.certification import local_lipsdp  # noqa: PLC0415

    return local_lipsdp.CERTIFIER


def _complete() -> Certifier:
    from robustbench_dyn.certification import complete  # noqa: PLC0415

    return complete.CERTIFIER


# The cheapest first: this is the order in which they are asked.
_CERTIFIERS: dict[str, tuple[str, Callable[[], Certifier]]] = {
    "lipschitz": ("global L2 Lipschitz bound of each logit difference", _lipschitz),
    "lipsdp": (
        "semidefinite L2 Lipschitz bound of each logit difference (LipSDP), small networks",
        _lipsdp,
    ),
    "lipschitz_in_box": (
        "global L2 Lipschitz bound from the middle of the Linf ball within [0, 1]",
        _lipschitz_in_box,
    ),
    "interval": ("interval bounds of every value over the ball and [0, 1]", _interval),
    "linear_relaxation": (
        "lines around every activation, with optimised slopes (alpha-CROWN)",
        _linear_relaxation,
    ),
    "local_lipsdp": (
        "semidefinite L2 Lipschitz bound within the ball (local LipSDP), small networks",
        _local_lipsdp,
    ),
    "complete": (
        "branch and bound: exact for small networks of ReLU",
        _complete,
    ),
}


def certifier_names() -> dict[str, str]:
    """Return each certifier's name with one line on what it proves."""
    return {name: description for name, (description, _) in _CERTIFIERS.items()}


def resolve_certifiers(
    spec: str | Sequence[str], model: nn.Module, input_shape: tuple[int, ...], norm: Norm,
    *, strict_rounding: bool = False,
) -> list[Prepared]:  # fmt: skip
    """Return the certifiers that spec names, ready for model and the cheapest first.

    See select_certifiers.
    """
    return select_certifiers(spec, model, input_shape, norm, strict_rounding=strict_rounding).ready


def select_certifiers(
    spec: str | Sequence[str], model: nn.Module, input_shape: tuple[int, ...], norm: Norm,
    *, strict_rounding: bool = False,
) -> Selection:  # fmt: skip
    """Return the certifiers that spec names, ready for model, and why others of `auto` are not.

    spec: "none", names, or "auto", which chooses by architecture: a model whose Lipschitz bound is
    useful (no logit difference has more than certification.lipschitz.USEFUL) gets the certificates
    of that bound alone, which cost a pass, while relaxing such deep networks proves little for
    much. Any other model gets each other certifier that supports its operations, and semidefinite
    bounds and `complete` only where it is small enough for them; what a certifier raises is the
    reason why it is not applicable.
    Raises InputError for an unknown name or one that does not support the norm, CertificateError
    where a named one cannot treat model.
    """
    names = named_certifiers(spec)
    if names == ["auto"]:
        return _automatic(model, input_shape, norm, strict_rounding=strict_rounding)
    order = list(_CERTIFIERS)
    ready = []
    for name in sorted(dict.fromkeys(names), key=order.index):
        certifier = _CERTIFIERS[name][1]()
        if norm not in certifier.norms:
            known = ", ".join(sorted(certifier.norms))
            raise InputError(f"certifier {name!r} supports {known}, not {norm}; choose another one")
        try:
            ready.append(certifier.prepared(model, input_shape, strict_rounding=strict_rounding))
        except CertificateError:
            raise
        # A certifier reads a model that anybody may have written, and may fail at anything.
        except Exception as error:
            raise CertificateError(
                f"certifier {name!r} cannot be prepared for this model: "
                f"{type(error).__name__}: {error}; choose another one, or auto"
            ) from error
    return Selection(ready, {}, [])


def _automatic(
    model: nn.Module, input_shape: tuple[int, ...], norm: Norm, *, strict_rounding: bool
) -> Selection:
    from robustbench_dyn.certification.lipschitz import is_useful  # noqa: PLC0415

    selection = Selection([], {}, [])
    for name in _CERTIFIERS:
        if name == "lipschitz_in_box":
            continue
        _prepare(name, model, input_shape, norm, selection, strict_rounding=strict_rounding)
        if name == "lipschitz" and selection.ready and is_useful(selection.ready[0].state.bounds):
            # The bounds may take seconds: both certificates are made of the same.
            in_box = Prepared(_lipschitz_in_box(), selection.ready[0].state)
            if norm in in_box.certifier.norms:
                selection.ready.append(in_box)
            break
    return selection


def _prepare(
    name: str, model: nn.Module, input_shape: tuple[int, ...], norm: Norm, selection: Selection,
    *, strict_rounding: bool,
) -> None:  # fmt: skip
    """Prepare a certifier that supports the norm, or keep the reason why it is not applicable."""
    certifier = _CERTIFIERS[name][1]()
    if norm not in certifier.norms:
        return
    try:
        selection.ready.append(
            certifier.prepared(model, input_shape, strict_rounding=strict_rounding)
        )
    except CertificateError as error:
        selection.not_applicable[name] = str(error)
    # A certifier reads a model that anybody may have written, and may fail at anything.
    except Exception as error:
        selection.not_applicable[name] = f"{type(error).__name__}: {error}"
        selection.crashed.append(name)


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
