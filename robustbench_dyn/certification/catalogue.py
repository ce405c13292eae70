"""Certifiers by name, and the choice that `auto` makes for a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from robustbench_dyn.certification import isolated
from robustbench_dyn.certification.base import Certifier, Phase, PreparedCertifier
from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.plugins import Entry, Registry, from_plugins, parse_names, subclass_of
from robustbench_dyn.threat_models import Norm

if TYPE_CHECKING:
    from torch import nn

    from robustbench_dyn.certification.effort import Effort
    from robustbench_dyn.certification.patience import Patience
    from robustbench_dyn.models.isolated import IsolatedModel

AnyCertifier = Certifier[Any]

_PACKAGE = "robustbench_dyn.certification.certifiers"
# Within a phase the cheapest first: this is the order in which they are run.
_BUILT_IN = {
    "max_affine": "max_affine:MaxAffine",
    "lipschitz": "lipschitz:Lipschitz",
    "lipsdp": "lipsdp:LipSDP",
    "lipschitz_in_box": "lipschitz_in_box:LipschitzInBox",
    "interval": "interval:Interval",
    "linear_relaxation": "linear_relaxation:LinearRelaxation",
    "max_affine_exact": "max_affine_exact:MaxAffineExact",
    "local_lipsdp": "local_lipsdp:LocalLipSDP",
    "complete": "complete:Complete",
}

# For models alone whose heads have affine pieces.
_OF_PIECES = ("max_affine", "max_affine_exact")

CERTIFIERS: Registry[type[AnyCertifier]] = Registry(
    "certifier",
    [Entry(name, f"{_PACKAGE}.{target}") for name, target in _BUILT_IN.items()],
    hint="auto, none, or ",
    from_plugins=from_plugins(
        "certifiers", subclass_of(Certifier), of_foreign=isolated.of_foreign_plugin
    ),
)


class NamedCertifiers(NamedTuple):
    """The choice of a user: whether `auto` chooses, and the certifiers given besides."""

    auto: bool
    certifiers: tuple[AnyCertifier, ...]


class Selection(NamedTuple):
    """The certifiers of a run in the order in which they are run, and those that were left out.

    not_applicable: the reason, by name, of those of `auto`, and of any whose preparation took
    longer than there was time. crashed: those of them whose preparation ended in an error that says
    nothing about the model.
    """

    ready: list[PreparedCertifier]
    not_applicable: dict[str, str]
    crashed: list[str]


Spec = str | AnyCertifier | Sequence[str | AnyCertifier]


def certifier_names() -> dict[str, str]:
    """Return each certifier's name with one line on what it proves, or why it cannot be used."""
    return {name: _description(name) for name in CERTIFIERS}


def _description(name: str) -> str:
    try:
        return CERTIFIERS.get(name).description
    except InputError as problem:
        return str(problem)


def named_certifiers(spec: Spec) -> NamedCertifiers:
    """Return the certifiers that spec gives, in the order in which they are run.

    spec: names, each with settings ("complete:seconds_per_example=5,interval"), Certifier objects,
    a sequence of both, "auto", or "none". Raises InputError, with the nearest name, for an unknown
    one, for a setting that it does not have, and for two certifiers of one name that differ.
    """
    parts = [spec] if isinstance(spec, (str, Certifier)) else list(spec)
    if len(parts) == 1 and isinstance(parts[0], str) and parts[0].strip() == "none":
        parts = []
    auto, found = False, dict[str, AnyCertifier]()
    for part in parts:
        for certifier in [part] if isinstance(part, Certifier) else _parse(part):
            if certifier is None:
                auto = True
            elif found.setdefault(certifier.name, certifier) != certifier:
                raise InputError(
                    f"certifier {certifier.name!r} is given twice, with different settings; "
                    "give it once"
                )
    return NamedCertifiers(auto, tuple(_in_order(found.values())))


def _parse(text: str) -> Iterable[AnyCertifier | None]:
    """Yield the certifiers that a text names; None stands for `auto`."""
    for name, settings in parse_names(text):
        if name == "auto" and not settings:
            yield None
        else:
            yield CERTIFIERS.create(name, settings)


def _in_order(certifiers: Iterable[AnyCertifier]) -> list[AnyCertifier]:
    """Return certifiers by phase, and within one as registered; objects without a name last."""
    phases, names = list(Phase), list(CERTIFIERS)
    return sorted(
        certifiers,
        key=lambda c: (
            phases.index(c.phase),
            names.index(c.name) if c.name in names else len(names),
        ),
    )


def resolve_certifiers(
    spec: Spec,
    model: nn.Module,
    input_shape: tuple[int, ...],
    norm: Norm,
    *,
    strict_rounding: bool = False,
) -> list[PreparedCertifier]:
    """Return the certifiers that spec gives, ready for model; see select_certifiers."""
    return select_certifiers(spec, model, input_shape, norm, strict_rounding=strict_rounding).ready


def select_certifiers(
    spec: Spec,
    model: nn.Module,
    input_shape: tuple[int, ...],
    norm: Norm,
    *,
    strict_rounding: bool = False,
    patience: Patience | None = None,
) -> Selection:
    """Return the certifiers that spec gives, ready for model, and why others of `auto` are not.

    spec: as in named_certifiers. "auto" chooses among the built-in certifiers by what they can
    prove and what they cost: each that supports the model's operations, semidefinite bounds only
    where it is small enough for them, and `complete` only where relaxing it is cheap. A model whose
    Lipschitz bound is not vacuous (no logit difference has more than LARGEST_NONVACUOUS_BOUND) gets
    the certificates of that bound, which cost a pass, and the others only where relaxing it is
    cheap (effort.CHEAP). What a certifier raises is the reason why it is not applicable. Certifiers
    that are given beside "auto" are run as well, and in place of its own of the same name; those
    of plugins are run only so. patience: the time that preparations are at the expense of; by
    default it is not limited, and never in the process of a plugin.
    Raises InputError for an unknown name or one that does not support the norm, CertificateError
    where a certifier that was given cannot treat model.
    """
    from robustbench_dyn.certification.bounds.intermediate import shared_states  # noqa: PLC0415
    from robustbench_dyn.certification.patience import OutOfTime, Patience  # noqa: PLC0415
    from robustbench_dyn.models.isolated import IsolatedModel  # noqa: PLC0415

    patience = patience or Patience()
    named = named_certifiers(spec)
    if isinstance(model, IsolatedModel):
        return _select_in_process(named, model, input_shape, norm, strict_rounding)
    given, too_slow = dict[str, PreparedCertifier](), dict[str, str]()
    # The certifiers that relax a network trace it once.
    with shared_states():
        for certifier in named.certifiers:
            try:
                with patience.spending():
                    given[certifier.name] = _prepare(
                        certifier, model, input_shape, norm, strict_rounding
                    )
            except OutOfTime:
                too_slow[certifier.name] = patience.said
        if not named.auto:
            return Selection(list(given.values()), too_slow, [])
        return _choose(model, input_shape, norm, given, too_slow, strict_rounding, patience)


def _select_in_process(
    named: NamedCertifiers,
    model: IsolatedModel,
    input_shape: tuple[int, ...],
    norm: Norm,
    strict_rounding: bool,
) -> Selection:
    """Select for a model in another process; raise CertificateError for an object of this one."""
    for certifier in named.certifiers:
        name = certifier.name
        if name not in CERTIFIERS or type(certifier) is not CERTIFIERS.get(name):
            raise CertificateError(
                f"certifier {name!r} is an object of this process, and the model runs in another "
                "one; give a certifier by name, or trust the model's plugin"
            )
    told = isolated.prepare_in_process(
        model,
        named.certifiers,
        input_shape,
        norm,
        auto=named.auto,
        strict_rounding=strict_rounding,
    )
    ready = list[PreparedCertifier]()
    for name, settings in told.ready:
        wanted = next((c for c in named.certifiers if c.name == name), None)
        if wanted is None and name not in _BUILT_IN:
            raise CertificateError(f"the model's process prepared {name!r} unasked")
        certifier = wanted or CERTIFIERS.create(name)
        if certifier.settings() != settings:
            raise CertificateError(f"the model's process prepared {name!r} with other settings")
        ready.append(isolated.PreparedInProcess(certifier, told.there))
    return Selection(ready, told.not_applicable, told.crashed)


def check_norms(certifiers: Iterable[AnyCertifier], norm: Norm) -> None:
    """Raise InputError for a certifier that does not support the norm."""
    for certifier in certifiers:
        if norm not in certifier.norms:
            supported = ", ".join(sorted(certifier.norms))
            raise InputError(
                f"certifier {certifier.name!r} supports {supported}, not {norm}; choose another one"
            )


def _prepare(
    certifier: AnyCertifier,
    model: nn.Module,
    input_shape: tuple[int, ...],
    norm: Norm,
    strict_rounding: bool,
) -> PreparedCertifier:
    """Prepare a certifier that was given, or raise the reason why it cannot be run."""
    check_norms([certifier], norm)
    try:
        return certifier.prepared(model, input_shape, strict_rounding=strict_rounding)
    except CertificateError:
        raise
    # A certifier reads any model that a user may have written, and may fail at anything.
    except Exception as error:
        if is_machine_error(error):
            raise
        raise CertificateError(
            f"certifier {certifier.name!r} cannot be prepared for this model: "
            f"{type(error).__name__}: {error}; choose another one, or auto"
        ) from error


def _choose(
    model: nn.Module,
    input_shape: tuple[int, ...],
    norm: Norm,
    given: dict[str, PreparedCertifier],
    too_slow: dict[str, str],
    strict_rounding: bool,
    patience: Patience,
) -> Selection:
    """Return what `auto` chooses beside the certifiers that were given, or were too slow."""
    from robustbench_dyn.certification.patience import OutOfTime  # noqa: PLC0415
    from robustbench_dyn.certification.proofs.lipschitz import is_nonvacuous  # noqa: PLC0415

    chosen, crashed = dict[str, PreparedCertifier](), list[str]()
    not_applicable = dict(too_slow)
    effort = cache(partial(_effort, model, input_shape))
    for name in _tried(model, given):
        certifier = CERTIFIERS.create(name)
        if norm not in certifier.norms or name in too_slow:
            continue
        if name == "complete" and name not in given:
            # A search bounds a model many times.
            known, _ = effort()
            if known is not None and known.why_dear:
                not_applicable[name] = known.why_dear
                continue
        try:
            with patience.spending():
                chosen[name] = given.get(name) or certifier.prepared(
                    model, input_shape, strict_rounding=strict_rounding
                )
        except OutOfTime:
            not_applicable[name] = patience.said
            continue
        except CertificateError as error:
            not_applicable[name] = str(error)
            continue
        # A certifier reads any model that a user may have written, and may fail at anything.
        except Exception as error:
            if is_machine_error(error):
                raise
            not_applicable[name] = f"{type(error).__name__}: {error}"
            crashed.append(name)
            continue
        reason = ""
        if name == "max_affine_exact":
            reason = "max_affine_exact decides each ball"
        elif name == "lipschitz" and is_nonvacuous(chosen[name].state.bounds):
            in_box = CERTIFIERS.create("lipschitz_in_box")
            if norm in in_box.norms:
                # The bounds may take seconds: both certificates share them.
                chosen[in_box.name] = PreparedCertifier(in_box, chosen[name].state)
            reason = _why_alone(*effort(), norm)
        if reason:
            not_applicable |= dict.fromkeys(_others(norm, {*chosen, *given}), reason)
            break
    ready = {p.certifier.name: p for p in (*chosen.values(), *given.values())}
    order = _in_order(prepared.certifier for prepared in ready.values())
    return Selection([ready[c.name] for c in order], not_applicable, crashed)


def _tried(model: nn.Module, given: Collection[str]) -> list[str]:
    """Return the names that `auto` tries, in this order: first what decides by itself."""
    from robustbench_dyn.lipschitz.max_affine import ends_with_pieces  # noqa: PLC0415

    names = [name for name in _BUILT_IN if name not in (*_OF_PIECES, "lipschitz_in_box")]
    if ends_with_pieces(model):
        return [*_OF_PIECES, *names]
    return [*(name for name in _OF_PIECES if name in given), *names]


def _others(norm: Norm, chosen: Collection[str]) -> list[str]:
    """Return the names of the built-in certifiers of a norm that are not among those chosen."""
    others = [name for name in _BUILT_IN if name not in (*chosen, *_OF_PIECES)]
    return [name for name in others if norm in CERTIFIERS.get(name).norms]


def _why_alone(effort: Effort | None, problem: str, norm: Norm) -> str:
    """Return why `auto` leaves a model to its useful Lipschitz bound; empty if it does not."""
    if effort is None:
        return problem
    if effort.affine and norm == "L2":
        return "the network is affine, so that its Lipschitz bound is exact"
    return f"the Lipschitz bound is useful, and {effort.why_dear}" if effort.why_dear else ""


def _effort(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[Effort | None, str]:
    """Return what relaxing a model takes, or None and why that cannot be told."""
    from robustbench_dyn.certification.effort import effort_of  # noqa: PLC0415

    try:
        return effort_of(model, input_shape), ""
    except CertificateError as error:
        return None, str(error)
    # A network that cannot be traced has a reason for each certifier.
    except Exception as error:
        if is_machine_error(error):
            raise
        return None, f"{type(error).__name__}: {error}"
