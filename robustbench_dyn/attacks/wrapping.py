"""A model as the attack libraries need it, and the caller's state put back after a search."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_dyn.attacks.problem import AttackProblem
from robustbench_dyn.models.counting import CountingModel, surrogates_of
from robustbench_dyn.models.freezing import frozen_eval
from robustbench_dyn.threat_models import ThreatModel


@contextmanager
def posed(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    n_classes: int,
    batch_size: int,
    class_radii: Tensor | None = None,
    tell: Callable[[float], None] | None = None,
) -> Iterator[AttackProblem]:
    """Make an AttackProblem of x (n, *input_shape) and y (n,), n >= 1, while the context lasts.

    The model runs in eval mode. Its modes, requires_grad flags and gradients, and the caller's
    random streams, are put back afterwards. class_radii, tell: see AttackProblem; by default 0 and
    no function.
    """
    with _undisturbed(model), torch.inference_mode(False):
        # A model that draws at random draws the same again.
        torch.manual_seed(seed)
        labels = y.clone().to(x.device).long()
        radii = torch.zeros(len(labels), n_classes, dtype=torch.float64, device=x.device)
        if class_radii is not None:
            radii = class_radii.to(radii)
        problem = AttackProblem(
            model=wrap(model, x, n_classes),
            # A clone: the libraries write in place, and a caller's inference tensor has no graph.
            x=_as_images(x.clone()).float().contiguous(),
            y=labels,
            threat_model=threat_model,
            seed=seed,
            n_classes=n_classes,
            batch_size=batch_size,
            class_radii=radii.scatter(1, labels[:, None], torch.inf),
        )
        yield problem if tell is None else problem._replace(tell=tell)


def _as_images(x: Tensor) -> Tensor:
    """Return (n, *input_shape) as (n, C, H, W), which the libraries expect."""
    if x.dim() == 4:
        return x
    # One row of pixels: Square moves windows over pixels, and would move channels all together.
    return x.unsqueeze(1) if x.dim() == 3 else x.reshape(len(x), 1, 1, -1)


def wrap(model: nn.Module, x: Tensor, n_classes: int) -> nn.Module:
    """Return a module from float32 images to float32 logits, safe for both libraries.

    x: at least one input, of the model's own shape and dtype.
    """
    # It copies what goes in and out, and gives a graph to networks that differentiate in their
    # forward, which fail under no_grad, where the libraries run parts of their searches.
    counting = model if isinstance(model, CountingModel) else CountingModel(model)
    # One pass shows it which kind of network this is, outside of the search's random stream. A
    # failure of another cause is raised again by the search's first pass.
    with suppress(RuntimeError), _undisturbed(model), torch.no_grad():
        counting(x[:1])

    class Wrapped(nn.Module):
        """The model in the libraries' types; the anchor tells torchattacks the device."""

        def __init__(self) -> None:
            super().__init__()
            self.model = counting
            self.anchor = nn.Parameter(torch.zeros(1, device=x.device), requires_grad=False)

        def forward(self, images: Tensor) -> Tensor:
            if len(images) == 0:  # Square passes none once no margin is positive
                return images.new_zeros(0, n_classes)
            inputs = images.to(x.dtype).reshape(len(images), *x.shape[1:])
            with torch.set_grad_enabled(torch.is_grad_enabled() and inputs.requires_grad):
                if torch.is_grad_enabled():
                    # The libraries .view() the gradient, which fails for models that permute axes.
                    inputs.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
                logits: Tensor = self.model(inputs)
                return logits.float()

        def surrogates(self) -> dict[str, nn.Module]:
            """Return the model's surrogates, wrapped the same way."""
            return {
                name: wrap(surrogate, x, n_classes)
                for name, surrogate in surrogates_of(self.model).items()
            }

    wrapped = Wrapped()
    # In eval mode itself, or torchattacks would "restore" train mode, model and all, after a call.
    wrapped.training = False
    return wrapped


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Run in eval mode, without parameter gradients or warnings, then put everything back."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  (a library may draw from this stream)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # FAB, CW and DeepFool call backward(), which would add to parameter.grad.
            with torch.random.fork_rng(), frozen_eval(model):
                yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
