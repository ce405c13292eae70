"""Tests of claimed properties in float64: on data, on random points and on searched points."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from robustbench_dyn.errors import CertificateError, InputError
from robustbench_dyn.lipschitz.bounds import lipschitz_bound
from robustbench_dyn.properties.base import Finding, Property
from robustbench_dyn.properties.determinism import BatchIndependent, Deterministic
from robustbench_dyn.properties.jacobians import Lipschitz, VolumePreserving

_SEARCH_STEPS = 20
# A step of the search moves a state by this share of its norm.
_SEARCH_STEP = 0.05
# A determinant costs a whole Jacobian.
_FEW = 2


def claims_for_all(model: nn.Module) -> list[Property]:
    """Return what every network must keep, and its Lipschitz bound where one is known."""
    claims: list[Property] = [Deterministic(), BatchIndependent()]
    try:
        lipschitz_bound(model)
    except CertificateError:
        return claims
    return [*claims, Lipschitz()]


def check_properties(
    model: nn.Module, claims: Iterable[Property], x: Tensor, *, search: bool = True
) -> Iterator[Finding]:
    """Yield a Finding for each claim and kind of points; the model itself is not changed.

    x: inputs from the data, (batch, *input_shape). Random points are noise at the part's input, of
    the mean and deviation that the data have there; searched ones come from gradient ascent on the
    claim's objective, which starts at the data. Raises InputError where a claim names a part that
    the model does not have, or where a part cannot be tested.
    """
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    parts, x = dict(model.named_modules()), x.double()
    claims = list(claims)
    unknown = [claim.part for claim in claims if claim.part not in parts]
    if unknown:
        raise InputError(f"a property is claimed of {unknown[0]!r}, which is no part of the model")
    states = _inputs_of(model, {claim.part for claim in claims}, x)
    for claim in claims:
        part = parts[claim.part]
        data = claim.project_to_domain(states[claim.part])
        if isinstance(claim, VolumePreserving):
            data = data[:_FEW]
        points = {"data": data, "random": claim.project_to_domain(_noise_like(data))}
        try:
            if search and claim.searchable(part):
                points["searched"] = _gradient_ascent(claim, part, data)
            for kind, inputs in points.items():
                yield _find(claim, part, kind, inputs)
        # A part is any code; its exception becomes a message about the claim.
        except Exception as error:
            raise InputError(
                f"{claim.name} of {claim.part or 'the network'!r} cannot be tested: "
                f"{type(error).__name__}: {error}"
            ) from error


def _find(claim: Property, part: nn.Module, kind: str, inputs: Tensor) -> Finding:
    defects = claim.defects(part, inputs).detach()
    # NaN is worse than any number.
    worst = int(defects.nan_to_num(nan=torch.inf).argmax())
    return Finding(
        claim=claim.name,
        part=claim.part,
        points=kind,
        defect=float(defects[worst]),
        tolerance=claim.tolerance(part),
        note=claim.note(part, inputs, defects),
        witness=inputs[worst : worst + 1].detach(),
    )


@torch.no_grad()
def _inputs_of(model: nn.Module, names: set[str], x: Tensor) -> dict[str, Tensor]:
    """Return the input of each named part when the model runs on x."""
    seen, hooks = dict[str, Tensor](), []
    for name, module in model.named_modules():
        if name in names:

            def keep(_module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                seen.setdefault(name, inputs[-1].detach().clone())

            hooks.append(module.register_forward_pre_hook(keep))
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    missing = names - seen.keys()
    if missing:
        raise InputError(f"a property is claimed of {min(missing)!r}, which the model never runs")
    return seen


def _noise_like(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x.mean() + (x.std() + 1e-3) * noise


def _gradient_ascent(claim: Property, part: nn.Module, x: Tensor) -> Tensor:
    """Return the state of the largest objective that ascent from each x reaches."""
    length = _SEARCH_STEP * x.flatten(1).norm(dim=1).clamp_min(1e-3)
    best, largest = x.clone(), claim.objective(part, x).detach()
    state = x
    for _ in range(_SEARCH_STEPS):
        state = state.detach().requires_grad_()
        objective = claim.objective(part, state)
        if not objective.requires_grad:
            break
        (gradient,) = torch.autograd.grad(objective.sum(), state, allow_unused=True)
        if gradient is None:
            break
        larger = objective.detach() > largest
        largest = torch.where(larger, objective.detach(), largest)
        best[larger] = state.detach()[larger]
        size = gradient.flatten(1).norm(dim=1)
        direction = gradient / size.clamp_min(1e-300).reshape(-1, *[1] * (x.dim() - 1))
        step = (length * (size > 0)).reshape(-1, *[1] * (x.dim() - 1))
        state = claim.project_to_domain(state.detach() + step * direction.nan_to_num())
    return best
