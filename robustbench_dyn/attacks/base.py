"""What an attack is to the harness: a name, and a search for candidates that the harness judges."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from robustbench_dyn.errors import InputError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustbench_dyn.threat_models import ThreatModel


class Problem(NamedTuple):
    """What to attack: a wrapped model, x (n, C, H, W) float32, y (n,) int64.

    batch_size: how many inputs the model is given at once, at most. class_radii: (n, n_classes)
    float64, inf for the label; it is known that class j does not overtake it nearer than entry j.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    threat_model: ThreatModel
    seed: int
    n_classes: int
    batch_size: int
    class_radii: Tensor

    @property
    def rivals(self) -> Tensor:
        """The classes that may overtake the label within eps, (n, n_classes) bool."""
        return self.class_radii < self.threat_model.eps


@dataclass(frozen=True)
class Attack:
    """A search method; it never judges its own success.

    norms: the norms that it knows. library: whose code it runs. min_classes: the fewest classes
    for which its loss is defined. by_rival: it tries each rival class, and profits from knowing
    those that cannot win. on_surrogates: it does nothing to a model that names none.
    version: raised when its candidates change, so that no old verdict is taken for a new one.
    only_on_signs: a suite runs it only where there are signs of masked gradients.
    search(model, x, y, threat_model, *, seed, batch_size, n_classes,
    class_radii=None) returns candidates of x's shape, dtype and device, and any point, x for
    instance, where it found nothing.
    """

    name: str
    norms: frozenset[str]
    library: str
    description: str
    min_classes: int
    search: Callable[..., Tensor]
    by_rival: bool = False
    on_surrogates: bool = False
    version: int = 1
    only_on_signs: bool = False

    def settings(self) -> dict[str, bool]:
        return {}

    @property
    def per_class(self) -> bool:
        return self.by_rival

    @property
    def gradient_free(self) -> bool:
        from robustbench_dyn.attacks.catalogue import BLACK_BOX

        return self.name in BLACK_BOX


def searching(
    perturb: Callable[[Problem], Tensor], *, gathers: bool = False
) -> Callable[..., Tensor]:
    """Make an Attack's search of a function from one Problem to candidates of its x's shape.

    gathers: perturb splits its work itself, and is given all examples in one Problem.
    """
    return partial(_search, perturb, gathers)


def _search(
    perturb: Callable[[Problem], Tensor],
    gathers: bool,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    batch_size: int,
    n_classes: int,
    class_radii: Tensor | None = None,
) -> Tensor:
    """Return candidates for x, searched in chunks of batch_size, each with the same seed.

    x: (n, *input_shape) in [0, 1]; y: (n,). class_radii: see Problem; by default nothing is known.
    The same arguments give the same candidates. The model runs in eval mode; its modes,
    requires_grad flags and gradients, and the caller's random streams, are put back. What the
    model or the library raises is passed on.
    Raises ShapeError where x and y differ in length, InputError where batch_size is below 1.
    """
    import torch  # noqa: PLC0415  (listing the attacks must not import torch)

    if len(x) != len(y):
        raise ShapeError(f"x has {len(x)} examples and y has {len(y)} labels; give one label each")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} is below 1; give a positive number")
    found = [x[:0].clone()]
    with _undisturbed(model), torch.inference_mode(False):
        # A model that draws at random draws the same again.
        torch.manual_seed(seed)
        wrapped = wrap(model, x, n_classes) if len(x) else model
        chunk = len(x) if gathers else batch_size
        for start in range(0, len(x), max(1, chunk)):
            rows = slice(start, start + chunk)
            known = None if class_radii is None else class_radii[rows]
            problem = _pose(
                wrapped, x[rows], y[rows], threat_model, seed, n_classes, batch_size, known
            )
            candidates = perturb(problem).detach().to(x.device, x.dtype)
            found.append(candidates.reshape(x[rows].shape))
    return torch.cat(found)


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
) -> Iterator[Problem]:
    """Pose all of x, at least one example, as a Problem for as long as the context lasts.

    The model is used, and put back with the random streams, as in a search.
    """
    import torch  # noqa: PLC0415

    with _undisturbed(model), torch.inference_mode(False):
        torch.manual_seed(seed)
        wrapped = wrap(model, x, n_classes)
        yield _pose(wrapped, x, y, threat_model, seed, n_classes, batch_size, None)


def _pose(
    wrapped: nn.Module,
    x: Tensor,
    y: Tensor,
    threat_model: ThreatModel,
    seed: int,
    n_classes: int,
    batch_size: int,
    radii: Tensor | None,
) -> Problem:
    import torch  # noqa: PLC0415

    # A clone: the libraries write in place, and a caller's inference tensor has no graph.
    images = _as_images(x.clone()).float().contiguous()
    labels = y.clone().to(x.device).long()
    known = torch.zeros(len(labels), n_classes, dtype=torch.float64, device=x.device)
    if radii is not None:
        known = radii.to(known)
    known = known.scatter(1, labels[:, None], torch.inf)
    return Problem(wrapped, images, labels, threat_model, seed, n_classes, batch_size, known)


def _as_images(x: Tensor) -> Tensor:
    """View (n, *input_shape) as (n, C, H, W), which the libraries expect."""
    if x.dim() == 4:
        return x
    # One row of pixels: Square moves windows over pixels, and would move channels all together.
    return x.unsqueeze(1) if x.dim() == 3 else x.reshape(len(x), 1, 1, -1)


def wrap(model: nn.Module, x: Tensor, n_classes: int) -> nn.Module:
    """Return a module from float32 images to float32 logits, safe for both libraries.

    A network that differentiates inside its forward fails under no_grad, where the libraries run
    parts of their searches; one pass finds such a network out, and it gets a graph of its own.
    """
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from robustbench_dyn.models.counting import surrogates_of  # noqa: PLC0415

    def to_input(images: Tensor) -> Tensor:
        # Cloned, because a model may write into its input, which is the library's iterate.
        return images.clone().to(x.dtype).view(len(images), *x.shape[1:])

    try:
        # A surrogate comes here as it was built, perhaps in train mode.
        with _undisturbed(model), torch.no_grad():
            model(x[:1].clone())
        needs_graph = False
    except RuntimeError:  # a failure of another cause is raised again by the search's first pass
        needs_graph = True

    class Wrapped(nn.Module):
        """The model in the libraries' types; the anchor tells torchattacks the device."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.anchor = nn.Parameter(torch.zeros(1, device=x.device), requires_grad=False)

        def forward(self, images: Tensor) -> Tensor:
            if len(images) == 0:  # Square asks for none once no margin is positive
                return images.new_zeros(0, n_classes)
            if needs_graph and not (torch.is_grad_enabled() and images.requires_grad):
                with torch.enable_grad():
                    logits: Tensor = self.model(to_input(images.detach()).requires_grad_())
                return logits.detach().float().clone()
            inputs = to_input(images)
            if inputs.requires_grad:
                # The libraries .view() the gradient, which fails for models that permute axes.
                inputs.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]
            # Cloned, because Square writes -inf into the logits, which may be a view of something.
            logits = self.model(inputs)
            return logits.float().clone()

        def surrogates(self) -> dict[str, nn.Module]:
            """Return the model's surrogates, each in the same clothes."""
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
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from robustbench_dyn.models.freezing import frozen_eval  # noqa: PLC0415

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
