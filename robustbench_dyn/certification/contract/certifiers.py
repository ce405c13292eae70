"""The contract of a certifier, on classifiers whose exact robustness is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.base import Certifier, PreparedCertifier, Proof, radii
from robustbench_dyn.certification.contract.exact_distance import exact_distances, tiny_network
from robustbench_dyn.certification.contract.findings import Findings
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.lipschitz.max_affine import MaxAffine
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.plugins.contract import Finding
from robustbench_dyn.threat_models import NORMS, Norm, ThreatModel, format_eps, widest_eps

_SHAPE = (1, 1, 3)
_EXAMPLES = 5
# Balls below and above the exact distance of the example in the middle.
_SHARES, _BATCH_SHARE = (0.01, 0.5, 0.9, 1.1, 1.6), 0.5
# The linear programs of the exact distances end within this of them.
_TOLERANCE = 1e-6

SETTINGS = "settings are fields of a frozen dataclass"
PREPARES = "a model that cannot be treated is refused with CertificateError"
SHAPES = "class_radii are (batch, classes), float64, and candidates have the shape of x"
NUMBERS = "class_radii are numbers of at least 0"
LABEL = "the label's own entry is inf"
SOUND = "no class is excluded beyond its exact distance"
NOTHING = "ties, mistakes and logits that are not finite are not certified"
BATCH = "an example's radii do not depend on the batch"
REPEATS = "the same call gives the same radii"
UNCHANGED = "model and inputs are left unchanged"
USEFUL = "something is proved of a small network"
_RULES = (
    SETTINGS,
    PREPARES,
    SHAPES,
    NUMBERS,
    LABEL,
    SOUND,
    NOTHING,
    BATCH,
    REPEATS,
    UNCHANGED,
    USEFUL,
)


class _Case(NamedTuple):
    """A network with inputs and labels; exact: distances for each norm, (batch, classes)."""

    name: str
    model: nn.Sequential
    x: Tensor
    y: Tensor
    exact: dict[Norm, Tensor]


def check_certifier(certifier: Certifier[Any], *, seed: int = 0) -> list[Finding]:
    """Return whether a certifier keeps each rule of its contract, in every norm that it supports.

    It is run on halfspaces and on tiny networks of ReLU, whose exact distances follow from an
    enumeration of their activation patterns, and on classifiers with ties, NaN and inf.
    """
    findings = Findings(*_RULES)
    _check_settings(certifier, findings)
    proved, norms = False, [norm for norm in NORMS if norm in certifier.norms]
    for case in _cases(seed, norms):
        for norm in norms:
            prepared = _prepare(certifier, case.model, findings)
            if prepared is not None:
                proved |= _check_case(prepared, case, norm, findings)
    for model, x, y in _undecidable():
        prepared = _prepare(certifier, model, findings)
        if prepared is not None:
            for norm in norms:
                _check_nothing_is_certified(prepared, model, x, y, norm, findings)
    findings.expect(USEFUL, proved, "no class of any example was excluded, nor any model accepted")
    return findings.list()


def _check_settings(certifier: Certifier[Any], findings: Findings) -> None:
    settings = certifier.settings()
    simple = all(isinstance(value, (bool, int, float, str)) for value in settings.values())
    findings.expect(SETTINGS, simple, f"{settings} are not numbers, words, true or false")
    try:
        same = type(certifier)(**settings) == certifier and hash(certifier) is not None
    except TypeError as error:
        findings.expect(SETTINGS, False, f"{type(certifier).__name__}: {error}")
    else:
        findings.expect(SETTINGS, same, "made anew of its settings, it is another one")


def _cases(seed: int, norms: list[Norm]) -> Iterator[_Case]:
    """Yield halfspaces, and networks that are enumerated."""
    for k, widths in enumerate(((), (3,), (2, 2))):
        model = tiny_network(seed + k, widths=widths).requires_grad_(False)
        generator = torch.Generator().manual_seed(seed + k)
        # Some coordinates at the border of the box, as pixels are.
        x = torch.rand(_EXAMPLES, *_SHAPE, generator=generator, dtype=torch.float64)
        x = (1.6 * x - 0.3).clamp(0, 1)
        y = model(x).argmax(dim=1)
        # The last label is wrong.
        y[-1] = (y[-1] + 1) % 3
        case = _case(f"widths {widths}, seed {seed + k}", model, x, y, norms)
        yield case
        if not widths:
            yield case._replace(name="halfspaces as affine pieces", model=_as_pieces(model))
    # Class 1 has the second largest logit, and class 2 is nearer.
    model = _halfspaces([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 10.0, 0.0]], [0.0, -0.5, -2.0])
    x = torch.tensor([[0.0, 0.1, 0.5], [0.1, 0.0, 0.0]]).double().view(2, *_SHAPE)
    yield _case("a class nearer than the runner-up", model, x, torch.tensor([0, 0]), norms)


def _case(name: str, model: nn.Sequential, x: Tensor, y: Tensor, norms: list[Norm]) -> _Case:
    return _Case(name, model, x, y, {norm: exact_distances(model, x, y, norm) for norm in norms})


def _as_pieces(model: nn.Sequential) -> nn.Sequential:
    """Return the same linear classifier, whose head has one affine piece a class."""
    linear = cast(nn.Linear, model[-1])
    head = MaxAffine(linear.in_features, linear.out_features, pieces=1).double()
    head.weight.data, head.bias.data = linear.weight.data[:, None], linear.bias.data[:, None]
    return nn.Sequential(*list(model)[:-1], head).eval().requires_grad_(False)


def _halfspaces(weight: list[list[float]], bias: list[float]) -> nn.Sequential:
    """Return the linear classifier of these weights and biases, in float64."""
    model = tiny_network(0, widths=()).requires_grad_(False)
    head = cast(nn.Linear, model[-1])
    head.weight.data = torch.tensor(weight, dtype=torch.float64)
    head.bias.data = torch.tensor(bias, dtype=torch.float64)
    return model


def _undecidable() -> Iterator[tuple[nn.Sequential, Tensor, Tensor]]:
    """Yield classifiers with inputs of which nothing may be certified."""
    # On the boundary of two halfspaces.
    model = _halfspaces([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0] * 3], [0.0, 0.0, -1.0])
    yield model, torch.tensor([0.5, 0.5, 0.2]).double().view(1, *_SHAPE), torch.tensor([0])
    x = torch.tensor([0.3, 0.6, 0.2]).double().view(1, *_SHAPE)
    for number in (math.nan, math.inf, -math.inf):
        model = tiny_network(0, widths=(2,)).requires_grad_(False)
        cast(nn.Linear, model[-1]).bias.data[1] = number
        yield model, x, model(x).nan_to_num(0.0).argmax(dim=1)


def _prepare(
    certifier: Certifier[Any], model: nn.Module, findings: Findings
) -> PreparedCertifier | None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        return certifier.prepared(model, _SHAPE)
    except CertificateError:
        return None
    # Anything else is a violation, which is named.
    except Exception as error:
        if is_machine_error(error):
            raise
        findings.expect(PREPARES, False, f"{type(error).__name__}: {error}")
        return None
    finally:
        _expect_unchanged(model, before, findings)


def _expect_unchanged(model: nn.Module, before: dict[str, Tensor], findings: Findings) -> None:
    same = all(
        torch.equal(tensor.nan_to_num(), before[name].nan_to_num())
        for name, tensor in model.state_dict().items()
    )
    findings.expect(UNCHANGED, same, "a parameter has another value than before")


def _check_case(prepared: PreparedCertifier, case: _Case, norm: Norm, findings: Findings) -> bool:
    """Check the proofs of one network and norm; say whether any class was excluded."""
    x, y, exact = case.x, case.y, case.exact[norm]
    nearest = exact.amin(dim=1)
    reachable = nearest[(nearest > 0) & nearest.isfinite()]
    typical = float(reachable.median()) if len(reachable) else 0.1
    proved = False
    for share in (1.0,) if prepared.certifier.radius_based else _SHARES:
        threat_model = ThreatModel(norm, min(share * typical, widest_eps(norm, _SHAPE)))
        where = f"{case.name}, {norm}, eps {format_eps(threat_model.eps, digits=4)}"
        proof = _prove(prepared, case.model, x, y, threat_model, findings)
        if proof is None or not _check_format(proof, x, case.model, findings, where):
            continue
        found, rows = proof.class_radii, torch.arange(len(x))
        correct = nearest > 0
        labels = found[rows, y].isposinf()
        findings.expect(LABEL, bool(labels[correct].all()), f"{found[rows, y].tolist()}: {where}")
        others = found.scatter(1, y[:, None], 0.0)
        excess = (others - exact).where(correct[:, None], 0.0)
        i, j = divmod(int(excess.argmax()), found.shape[1])
        findings.expect(
            SOUND,
            not (excess > _TOLERANCE).any(),
            f"class {j} is at {float(exact[i, j]):.6g} from x, and is excluded within "
            f"{float(others[i, j]):.6g}: {where}",
        )
        certified = radii(proof) > 0
        findings.expect(NOTHING, not certified[~correct].any(), f"a misclassified example: {where}")
        if share in (1.0, _BATCH_SHARE):
            _check_batch(prepared, case, proof, threat_model, findings, where)
        proved |= bool((others[correct] > 0).any())
    return proved


def _check_batch(
    prepared: PreparedCertifier,
    case: _Case,
    proof: Proof,
    threat_model: ThreatModel,
    findings: Findings,
    where: str,
) -> None:
    """Compare with the same call, and with each example alone."""
    again = _prove(prepared, case.model, case.x, case.y, threat_model, findings)
    same = again is not None and torch.equal(again.class_radii, proof.class_radii)
    findings.expect(REPEATS, same or not prepared.certifier.deterministic, where)
    for k in range(len(case.x)):
        one = slice(k, k + 1)
        alone = _prove(prepared, case.model, case.x[one], case.y[one], threat_model, findings)
        same = alone is not None and torch.allclose(
            alone.class_radii, proof.class_radii[one], rtol=1e-6, atol=0.0
        )
        findings.expect(BATCH, same, f"example {k} alone and among {len(case.x)}: {where}")


def _check_nothing_is_certified(
    prepared: PreparedCertifier,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    findings: Findings,
) -> None:
    proof = _prove(prepared, model, x, y, ThreatModel(norm, 0.01), findings)
    if proof is not None:
        logits = model(x)[0].tolist()
        findings.expect(NOTHING, not (radii(proof) > 0).any(), f"logits {logits}, {norm}")


def _check_format(
    proof: Proof, x: Tensor, model: nn.Sequential, findings: Findings, where: str
) -> bool:
    """Check shapes and numbers; say whether the proof can be read."""
    found, shape = proof.class_radii, tuple(model(x).shape)
    fits = tuple(found.shape) == shape and found.dtype is torch.float64
    findings.expect(SHAPES, fits, f"{tuple(found.shape)} of {found.dtype}: {where}")
    candidates = proof.candidates
    fits_x = candidates is None or candidates.shape == x.shape
    findings.expect(SHAPES, fits_x, f"candidates of another shape than x: {where}")
    numbers = bool((found >= 0).all())
    findings.expect(NUMBERS, numbers, f"{found.tolist()}: {where}")
    return fits and numbers


def _prove(
    prepared: PreparedCertifier,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    findings: Findings,
) -> Proof | None:
    """Return the proof, None where the certifier raises; note what it changes."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = x.clone()
    with frozen_eval(model):
        try:
            proof = prepared.prove(inputs, model(x), y.clone(), threat_model)
        # An error proves nothing, and is named.
        except Exception as error:
            if is_machine_error(error):
                raise
            findings.expect(PREPARES, False, f"prove: {type(error).__name__}: {error}")
            return None
    findings.expect(UNCHANGED, torch.equal(inputs, x), "x has other values than before")
    _expect_unchanged(model, weights, findings)
    return proof
