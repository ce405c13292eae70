"""Whether a model is one function of its input, as every verdict takes for granted, or is not.

A certificate speaks of a function. Outputs that are drawn at random, that depend on the other
examples of a batch or on whether gradients are recorded, or that change as time goes on are those
of no function; what is proved of one pass does not hold for the next.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from robustbench_dyn.results.flags import COUPLED, GRAD_MODE, RANDOM

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

MOST_EXAMPLES = 16
# Two passes on one example may differ by this many units in the last place of the batch's largest
# logit, since other batch sizes choose other kernels, which sum in another order. It is what
# certificates allow for rounding (certification.rounding): a function that moves no further is one
# of which they hold. The networks of the zoo differ by 12 at the most.
_ULPS = 256


def find_defects(model: nn.Module, x: Tensor, *, seed: int, most: int) -> tuple[Tensor, list[str]]:
    """Return the logits of a frozen model at x, and flags for what makes it no function of x.

    x: (n, *input_shape), n at most MOST_EXAMPLES. most: inputs that the model may be given at
    once; where that is 1, examples have no neighbours, and are not tested for them.
    """
    import torch  # noqa: PLC0415  (the names of the flags are read without it)

    def logits(inputs: Tensor, stream: str) -> Tensor:
        with seeded(f"{seed} determinism {stream}"), torch.no_grad():
            return model(inputs.clone()).detach()

    first = logits(x, "first")
    # Random numbers of another seed: the same seed would hide them.
    if differ(first, logits(x, "second")):
        return first, [RANDOM]
    found = list[str]()
    try:
        with seeded(f"{seed} determinism gradient"), torch.enable_grad():
            recorded = model(x.clone().requires_grad_()).detach()
        if differ(first, recorded):
            found.append(GRAD_MODE)
    # A model that cannot be differentiated is a function all the same; attacks say that they fail.
    except Exception as error:
        log.info("the model fails where gradients are recorded: %s", error)
    if any(differ(first[rows], logits(x[rows], "part")) for rows in _parts(len(x), most)):
        found.append(COUPLED)
    elif most > 1:
        # Among neighbours unlike any data, in another order and place.
        room = max(1, min(2 * len(x), most) // 2)
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(x[:room].shape, generator=generator, dtype=x.dtype).round().to(x.device)
        crowd = logits(torch.cat([noise, x[:room].flip(0)]), "crowd")[len(noise) :].flip(0)
        if differ(first[:room], crowd):
            found.append(COUPLED)
    return first, found


def has_changed(model: nn.Module, x: Tensor, before: Tensor, *, seed: int) -> bool:
    """Say whether a frozen model no longer gives at x the logits that find_defects returned."""
    import torch  # noqa: PLC0415

    with seeded(f"{seed} determinism first"), torch.no_grad():
        return differ(before, model(x.clone()))


def differ(a: Tensor, b: Tensor) -> bool:
    """Say whether logits differ by more than rounding, (batch, classes) each.

    Entries that are not finite agree with the same ones alone.
    """
    import torch  # noqa: PLC0415

    finite = a[a.isfinite()].double().abs()
    scale = float(finite.max()) if len(finite) else 0.0
    tolerance = _ULPS * torch.finfo(a.dtype).eps * scale
    # Written so that NaN fails it.
    close = (a.double() - b.double()).abs() <= tolerance
    return not bool((close | (a == b) | (a.isnan() & b.isnan())).all())


@contextmanager
def seeded(*purpose: object) -> Iterator[None]:
    """Seed the random streams of torch, numpy and python by a purpose; put them back afterwards.

    A model that draws from them gives the same in two identical runs.
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
    """Return the rows of each pass over parts of n examples: alone, in pairs, the other half."""
    if most == 1 or n == 1:
        return []
    half = n // 2
    return [[0], [n - 1, 0], list(range(n - 1, half - 1, -1)), list(range(half))]
