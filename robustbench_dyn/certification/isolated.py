"""Certifiers in another process: they read the module of a model, and so they run where it is.

A foreign model is in a process of its own, with its certifiers. A certifier of a plugin that is not
trusted is in a process, too; a model that ships is loaded there a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from robustbench_dyn.certification.base import Certifier, Phase, PreparedCertifier, Proof
from robustbench_dyn.errors import CertificateError, ForeignCodeError
from robustbench_dyn.plugins import (
    SERVICE,
    Entry,
    FactsOfStage,
    Plugin,
    StandIn,
    facts_of_stage,
    make_stage,
    stand_ins,
)
from robustbench_dyn.threat_models import Norm, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.models.isolated import IsolatedModel

# To prepare certifiers, of which semidefinite ones take longest, takes the time of so many calls.
_TO_PREPARE = 10


class _There(NamedTuple):
    """Where certifiers are prepared: the model, and the number of the selection.

    at_once: by name, how many examples each takes together.
    """

    model: IsolatedModel
    selection: int
    at_once: Mapping[str, int]


class PreparedInProcess(PreparedCertifier):
    """A certifier that is prepared in the process of its model; the state here says where."""

    def prove(self, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel) -> Proof:
        """Return the process' Proof, once it has passed for one; see Certifier.prove.

        The process does not get the labels: it proves what holds of the predictions. Of other
        labels nothing is proved. Raises RuntimeError where the answer is no Proof.
        """
        model, selection, _ = self.state
        about = {
            "selection": selection,
            "certifier": self.certifier.name,
            "norm": threat_model.norm,
            "eps": threat_model.eps,
        }
        answer = model.call(
            "prove",
            about,
            {"x": x, "logits": logits},
            service=SERVICE,
            times=max(1, len(x)),
        )
        proof = _checked(answer.content, answer.tensors, x, logits)
        predicted = logits.argmax(dim=1) == y
        return proof._replace(
            class_radii=proof.class_radii.where(predicted[:, None], 0.0).to(x.device)
        )

    @property
    def at_once(self) -> int:
        """How many examples a search of this model takes together."""
        there: _There = self.state
        return there.at_once[self.certifier.name]


class Prepared(NamedTuple):
    """What a process has prepared: names with settings; and, as of Selection, what it has not."""

    there: _There
    ready: list[tuple[str, dict[str, Any]]]
    not_applicable: dict[str, str]
    crashed: list[str]


def prepare_in_process(
    model: IsolatedModel,
    certifiers: Iterable[Certifier[Any]],
    input_shape: Sequence[int],
    norm: Norm,
    *,
    auto: bool = False,
    strict_rounding: bool = False,
) -> Prepared:
    """Prepare certifiers, and those of `auto`, in the process of a model; they have names there.

    Raises what catalogue.select_certifiers raises, ForeignCodeError where the answer makes no
    sense.
    """
    about = {
        "auto": auto,
        "certifiers": [[c.name, c.settings()] for c in certifiers],
        "input_shape": list(input_shape),
        "norm": norm,
        "strict_rounding": strict_rounding,
    }
    told = model.call("select", about, {}, service=SERVICE, times=_TO_PREPARE)
    try:
        facts = told.content
        reasons = {str(name): str(reason) for name, reason in facts["not_applicable"].items()}
        at_once = {str(name): max(1, _whole(number)) for name, _, number in facts["ready"]}
        return Prepared(
            _There(model, _whole(facts["selection"]), at_once),
            [(str(name), dict(settings)) for name, settings, _ in facts["ready"]],
            reasons,
            [str(name) for name in facts["crashed"] if name in reasons],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ForeignCodeError(
            f"{model.process.who} names certifiers in a way that makes no sense: {error}"
        ) from error


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise TypeError(f"{number!r} is no whole number")
    return number


def of_foreign_plugin(plugin: Plugin) -> Iterator[Entry]:
    """Yield an Entry for each certifier of an untrusted plugin."""
    return stand_ins(plugin, "certifiers", FactsOfCertifier, _make)


def facts_of(kind: type[Certifier[Any]]) -> dict[str, Any]:
    """Return what a stand-in must know of a certifier, as JSON can say it."""
    return facts_of_stage(kind, FactsOfCertifier)


class FactsOfCertifier(FactsOfStage):
    """What a process says of a certifier; see certification.base.Certifier."""

    of_the_base: ClassVar[frozenset[str]] = frozenset(dir(Certifier))

    phase: Phase = Field(default=Phase.BEFORE_ATTACKS)
    deterministic: bool = True
    radii_from_l2: bool = False
    measures_rounding: bool = False


class IsolatedCertifier(Certifier[Any], StandIn):
    """The base of the stand-ins; the state is the certifier, prepared in the process."""

    name: ClassVar[str] = "isolated"
    description: ClassVar[str] = ""

    def prepare(
        self, model: nn.Module, input_shape: tuple[int, ...], *, strict_rounding: bool = False
    ) -> Any:
        """Load the model in a process, and prepare the certifier there.

        Raises CertificateError for a model that does not ship, since no process can load it.
        """
        from robustbench_dyn.models.isolated import load_again

        there = load_again(model)
        if there is None:
            raise CertificateError(
                f"certifier {self.name!r} is code from outside of this package, and reads the "
                "module of this model, which no other process can load; give --trust (in Python: "
                "load_plugins(FOLDER, trust=True)) to run it inside this one"
            )
        norm = "L2" if "L2" in self.norms else min(self.norms)
        prepared = prepare_in_process(
            there, [self], input_shape, norm, strict_rounding=strict_rounding
        )
        return PreparedInProcess(self, prepared.there)

    def prove(
        self, state: Any, x: Tensor, logits: Tensor, y: Tensor, threat_model: ThreatModel
    ) -> Proof:
        """Return the Proof of the process; see certification.isolated."""
        proof: Proof = state.prove(x, logits, y, threat_model)
        return proof


def _make(plugin: Plugin, facts: FactsOfCertifier) -> type[Certifier[Any]]:
    return make_stage(IsolatedCertifier, plugin, facts)


def _checked(
    content: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor, logits: Tensor
) -> Proof:
    """Return a Proof of tensors that have the types, shapes and ranges of one."""
    import torch

    radii, passes = tensors.get("class_radii"), content.get("forward_passes")
    if radii is None or radii.dtype != torch.float64 or radii.shape != logits.shape:
        raise RuntimeError("the process returned no radii, (batch, classes) in float64")
    if not bool((radii >= 0).all()):  # NaN fails it
        raise RuntimeError("the process returned radii that are negative or no numbers")
    if type(passes) is not int or not 0 <= passes < 2**48:
        raise RuntimeError("the process returned no number of passes")
    candidates = tensors.get("candidates")
    if candidates is not None and (candidates.shape != x.shape or candidates.dtype != x.dtype):
        raise RuntimeError("the process returned candidates that are not of the inputs' shape")
    rounded = tensors.get("within_rounding")
    if rounded is not None and (rounded.shape != (len(x),) or rounded.dtype != torch.bool):
        raise RuntimeError("the process returned rows within rounding that are no mask")
    gave_up = tensors.get("gave_up")
    if gave_up is not None and (gave_up.shape != (len(x),) or gave_up.dtype != torch.bool):
        raise RuntimeError("the process returned searches that were given up that are no mask")
    margins = tensors.get("margins")
    if margins is not None and (margins.shape != (len(x),) or margins.dtype != torch.float64):
        raise RuntimeError("the process returned margins that are not one float64 an example")
    return Proof(
        radii.to(logits.device),
        None if candidates is None else candidates.to(x.device),
        passes,
        None if rounded is None else rounded.to(x.device),
        margins,
        gave_up,
    )
