"""Models as networks that can be bounded: traced, lowered, and compared with the model itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import propagate
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.certification.network.lowering import Handlers, to_network
from robustbench_dyn.certification.network.trace import Trace
from robustbench_dyn.certification.network.tracer import differentiable_trace, trace
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.threat_models import ThreatModel

_PROBES = 4
# A ball that contains its centre alone.
_POINT = 1e-200


class TracedNetwork(NamedTuple):
    """One network in two dtypes, which compute with the model's own weights, exactly.

    exact: in float64, for proofs. fast: in the dtype in which slopes are optimised fastest.
    """

    exact: Network
    fast: Network


def traced_network(
    model: nn.Module, input_shape: tuple[int, ...], handlers: Handlers | None = None
) -> TracedNetwork:
    """Return model as a network.

    handlers: in place of those of OPERATIONS.

    The fast one is of float32 where the model is, and where float32 on this device is not rounded
    further. Raises CertificateError, naming the operation, where one has no handler, and where the
    trace does not compute what model does.
    """
    dtype = parameter_dtype(model)
    traced = trace(model, input_shape, dtype)
    exact = to_network(traced, torch.float64, handlers)
    _check_against(model, traced, exact)
    full_float32 = (
        dtype is torch.float32
        and traced.device.type == "cpu"
        and torch.get_float32_matmul_precision() == "highest"
    )
    fast = to_network(traced, torch.float32, handlers) if full_float32 else exact
    return TracedNetwork(exact, fast)


def trainable_network(model: nn.Module, input_shape: tuple[int, ...]) -> Callable[[], Network]:
    """Return a function that gives model, in its own dtype, with its current weights.

    The network's outputs can be differentiated in the model's parameters, for training.
    The model is taken as it is in eval mode. Raises CertificateError as `traced_network` does.
    """
    dtype = parameter_dtype(model)
    traced, handlers = differentiable_trace(model, input_shape, dtype), Handlers()

    def current() -> Network:
        return to_network(traced.materialise(), dtype, handlers)

    with torch.no_grad():
        _check_against(model, traced.trace, current())
    return current


def parameter_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of all parameters; raises CertificateError where there is not one."""
    dtypes = {parameter.dtype for parameter in model.parameters()} or {torch.float32}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise CertificateError(
            f"the network's parameters are {', '.join(sorted(map(str, dtypes)))}; "
            "relaxations support networks of float32 or of float64 only"
        )
    return dtypes.pop()


def _check_against(model: nn.Module, traced: Trace, network: Network) -> None:
    """Compare with the model on other inputs, in a batch and one by one: no more was traced."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(_PROBES, *network.input_shape, generator=generator, dtype=torch.float64)
    x = x.to(traced.device, traced.dtype)
    inputs = x.to(network.dtype)
    with frozen_eval(model), torch.inference_mode(False):
        expected = call_without_graph(model, x).double()
    try:
        together = network.outputs(inputs)[-1]
        alone = torch.cat([network.outputs(one)[-1] for one in torch.split(inputs, 1)])
    except RuntimeError as error:
        if is_machine_error(error):
            raise
        raise CertificateError(
            f"the network was traced for two inputs and fails for another number: {error}"
        ) from error
    scale = expected.abs().max().clamp_min(1.0)
    tolerance = scale * (1e-3 if traced.dtype is torch.float32 else 1e-9)
    if network.dtype is torch.float64:
        # A network that rounds much is not refused here: each example is compared anew when it is
        # certified, within what its proof allows.
        errors = propagate(network, Ball(x, ThreatModel("Linf", _POINT))).errors[-1]
        tolerance = torch.maximum(tolerance, errors)
    for found in (together, alone):
        # Written so that NaN fails it.
        if found.shape != expected.shape or not ((found - expected).abs() <= tolerance).all():
            raise CertificateError(
                "what was traced of the network does not compute what the network does: it "
                "draws random numbers, mixes the examples of a batch, or decides by its values"
            )
