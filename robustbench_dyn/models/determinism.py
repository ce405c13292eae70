"""Determinism and batch independence: is a model a function of its input, as verdicts assume?

A certificate is about a function. Random outputs, and outputs that depend on the other examples of
a batch, on whether gradients are recorded or on the time of the call, are no function of the input;
a proof about one pass does not hold for the next.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from robustbench_dyn.models.machine_errors import is_machine_error
from robustbench_dyn.results.flags import COUPLED, GRAD_MODE, RANDOM

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

MOST_EXAMPLES = 16
# Two passes on one example may differ by this many units in the last place of the largest logit of
# the batch, because another batch size selects kernels that sum in another order. Certificates
# allow for the same amount of rounding (certification.rounding), and thus hold for such a function.
# The networks of the zoo differ by at most 12.
_ULPS = 256
# Half a step of 16 grey levels, in which coarse images are given.
NEXT_TO_THE_GRID = 1 / 32


def find_defects(model: nn.Module, x: Tensor, *, seed: int, most: int) -> tuple[Tensor, list[str]]:
    """Return the logits of a frozen model at x, and flags for what else they depend on.

    x: (n, *input_shape), n at most MOST_EXAMPLES. most: the largest batch that the model may get;
    1 skips the test of batch independence.
    """
    import torch  # noqa: PLC0415  (the names of the flags are read without it)

    def logits(inputs: Tensor, stream: str) -> Tensor:
        with seeded(f"{seed} determinism {stream}"), torch.no_grad():
            return model(inputs.clone()).detach()

    first = logits(x, "first")
    # A second pass with another seed; the same seed would hide random outputs. Noise may be drawn,
    # and rounded off again, where inputs lie on a grid, as images do: so next to it, too.
    beside = perturbed(x, NEXT_TO_THE_GRID)
    there = logits(beside, "first")
    if differ(first, logits(x, "second")) or differ(there, logits(beside, "second")):
        return first, [RANDOM]
    found = list[str]()
    try:
        with seeded(f"{seed} determinism gradient"), torch.enable_grad():
            recorded = model(x.clone().requires_grad_()).detach()
        if differ(first, recorded):
            found.append(GRAD_MODE)
    # A model without gradients may still be a function; gradient attacks report their failure.
    except Exception as error:
        if is_machine_error(error):
            raise
        log.info("the model fails where gradients are recorded: %s", error)
    if any(differ(first[rows], logits(x[rows], "part")) for rows in _parts(len(x), most)):
        found.append(COUPLED)
    elif most > 1:
        # Batch the examples with noise, at other positions and in another order.
        n_mixed = max(1, min(2 * len(x), most) // 2)
        generator = torch.Generator().manual_seed(0)
        noise = (
            torch.rand(x[:n_mixed].shape, generator=generator, dtype=x.dtype).round().to(x.device)
        )
        mixed = logits(torch.cat([noise, x[:n_mixed].flip(0)]), "crowd")[len(noise) :].flip(0)
        if differ(first[:n_mixed], mixed):
            found.append(COUPLED)
    return first, found


def has_changed(model: nn.Module, x: Tensor, before: Tensor, *, seed: int) -> bool:
    """Return whether the logits of a frozen model at x differ from those of find_defects."""
    import torch  # noqa: PLC0415

    with seeded(f"{seed} determinism first"), torch.no_grad():
        return differ(before, model(x.clone()))


def differ(a: Tensor, b: Tensor) -> bool:
    """Return whether logits differ by more than rounding errors; a, b: (batch, classes).

    A non-finite entry agrees only with an equal one, and NaN with NaN.
    """
    import torch  # noqa: PLC0415

    finite = a[a.isfinite()].double().abs()
    scale = float(finite.max()) if len(finite) else 0.0
    tolerance = _ULPS * torch.finfo(a.dtype).eps * scale
    # Written so that NaN fails it.
    close = (a.double() - b.double()).abs() <= tolerance
    return not bool((close | (a == b) | (a.isnan() & b.isnan())).all())


def perturbed(x: Tensor, size: float) -> Tensor:
    """Return x with fixed uniform noise of at most `size` in each entry, within [0, 1]."""
    import torch  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5
    return (x + (2 * size * noise).to(x)).clamp(0, 1)


@contextmanager
def seeded(*purpose: object) -> Iterator[None]:
    """Seed the global generators of torch, numpy and python by a purpose; restore them after.

    A model that draws from them then returns the same in two identical runs.
    """
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    text = " ".join(map(str, purpose))
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  (a model may draw from this stream)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def stage_seed(seed: int, stage: str) -> int:
    """Return the seed of one stage of a run, 31 bits."""
    text = f"{seed} {stage}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def _parts(n: int, most: int) -> list[list[int]]:
    """Return the rows of each partial batch: one example, a pair, and the two halves."""
    if most == 1 or n == 1:
        return []
    half = n // 2
    return [[0], [n - 1, 0], list(range(n - 1, half - 1, -1)), list(range(half))]
