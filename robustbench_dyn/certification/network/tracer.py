"""Trace a network while it runs on two inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_dyn.certification.escapes import (
    RefuseEscapes,
)
from robustbench_dyn.certification.network.recorder import Recorder
from robustbench_dyn.certification.network.trace import (
    N_EXAMPLES,
    DifferentiableTrace,
    NodeRef,
    Trace,
    with_leaves,
)
from robustbench_dyn.errors import CertificateError
from robustbench_dyn.models.freezing import frozen_eval, trainable_eval
from robustbench_dyn.models.machine_errors import is_machine_error


def trace(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype) -> Trace:
    """Run model in eval mode on two inputs of `dtype` and return the operations on them.

    Values that depend on the parameters alone are computed by the model, and become constants.
    Raises CertificateError where the model cannot run so, or decides by its values.
    """
    with frozen_eval(model):
        found = _trace(model, input_shape, dtype, ()).trace
    # A parameter among the constants requires a gradient again, after frozen_eval.
    return with_leaves(found, lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf)


def differentiable_trace(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype
) -> DifferentiableTrace:
    """Trace model as `trace` does, and also how its weights are derived from its parameters.

    Raises CertificateError where `trace` does, and where a parameter's value is read as a number.
    """
    # While parameters are frozen, weights that are derived from them may be kept.
    with trainable_eval(model):
        return _trace(model, input_shape, dtype, tuple(model.parameters()))


def _trace(
    model: nn.Module,
    input_shape: tuple[int, ...],
    dtype: torch.dtype,
    parameters: tuple[nn.Parameter, ...],
) -> DifferentiableTrace:
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N_EXAMPLES, *input_shape, generator=generator, dtype=dtype).to(device)
    with torch.inference_mode(False), torch.no_grad():
        tracer = Recorder(x, parameters)
        try:
            with RefuseEscapes(tracer.depends), tracer:
                logits = model(x)
        except CertificateError:
            raise
        # A user's forward, which may need a graph or anything else that is not here.
        except Exception as error:
            if is_machine_error(error):
                raise
            raise CertificateError(
                f"the network cannot be traced: {type(error).__name__}: {error}"
            ) from error
    last = tracer.reference(logits)
    if not isinstance(last, NodeRef) or logits.dim() != 2 or len(logits) != N_EXAMPLES:
        raise CertificateError(
            "the network's logits (batch, classes) cannot be traced back to its input"
        )
    operations = tuple(tracer.operations[: last.index])
    found = Trace(input_shape, operations, dtype, device)
    return DifferentiableTrace(found, parameters, tuple(tracer.parameter_ops))
