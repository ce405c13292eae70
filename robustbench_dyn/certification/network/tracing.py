"""Networks as they are certified: recorded, lowered, and checked against the model itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from robustbench_dyn.certification.bounds.ball import Ball
from robustbench_dyn.certification.bounds.intervals import propagate
from robustbench_dyn.certification.network.graph import Network
from robustbench_dyn.certification.network.lowering import lower
from robustbench_dyn.certification.network.recording import Recording, record, record_live
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.forward import call_without_graph
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import ThreatModel

_PROBES = 4
# A ball around each probe alone.
_POINT = 1e-200


def trace(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[Network, Network]:
    """Return model as a network in float64, and in the dtype in which searching is fastest.

    Both compute with the model's own weights, exactly. The second is of float32 where the model
    is, and where this device's float32 is what it says. Raises CertificateError, naming the
    operation, where model does anything that the rules do not know, and where what was recorded
    does not compute what model does.
    """
    dtype = dtype_of(model)
    recording = record(model, input_shape, dtype)
    exact = lower(recording, torch.float64)
    _check_against(model, recording, exact)
    honest = (
        dtype is torch.float32
        and recording.device.type == "cpu"
        and torch.get_float32_matmul_precision() == "highest"
    )
    return exact, lower(recording, torch.float32) if honest else exact


def trace_live(model: nn.Module, input_shape: tuple[int, ...]) -> Callable[[], Network]:
    """Return a function that gives model, in its own dtype, with the weights that it has then.

    What is computed with the network can be differentiated in the model's parameters, for training.
    The model is taken as it is in eval mode. Raises CertificateError as `trace` does.
    """
    dtype = dtype_of(model)
    live = record_live(model, input_shape, dtype)
    with torch.no_grad():
        _check_against(model, live.recording, lower(live.now(), dtype))
    return lambda: lower(live.now(), dtype)


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of all parameters; raises CertificateError where there is not one."""
    dtypes = {parameter.dtype for parameter in model.parameters()} or {torch.float32}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise CertificateError(
            f"the network's parameters are {', '.join(sorted(map(str, dtypes)))}; "
            "relaxations know networks of float32 or of float64 alone"
        )
    return dtypes.pop()


def _check_against(model: nn.Module, recording: Recording, network: Network) -> None:
    """Compare with the model on other inputs, together and alone: nothing else was recorded."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(_PROBES, *network.input_shape, generator=generator, dtype=torch.float64)
    x = x.to(recording.device, recording.dtype)
    inputs = x.to(network.dtype)
    with frozen_eval(model), torch.inference_mode(False):
        theirs = call_without_graph(model, x).double()
    try:
        together = network.values(inputs)[-1]
        alone = torch.cat([network.values(one)[-1] for one in torch.split(inputs, 1)])
    except RuntimeError as error:
        raise CertificateError(
            f"the network was recorded for two inputs and fails for another number: {error}"
        ) from error
    scale = theirs.abs().max().clamp_min(1.0)
    tolerance = scale * (1e-3 if recording.dtype is torch.float32 else 1e-9)
    if network.dtype is torch.float64:
        # What rounds a lot is not refused here: each example is compared anew when it is certified,
        # within what its proof allows.
        errors = propagate(network, Ball(x, ThreatModel("Linf", _POINT))).errors[-1]
        tolerance = torch.maximum(tolerance, errors)
    for ours in (together, alone):
        # Written so that NaN fails it.
        if ours.shape != theirs.shape or not ((ours - theirs).abs() <= tolerance).all():
            raise CertificateError(
                "what was recorded of the network does not compute what the network does: it "
                "draws random numbers, mixes the examples of a batch, or decides by its values"
            )
