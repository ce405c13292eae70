"""Networks with random weights, and inputs for them."""

import numpy as np
import torch
from torch import nn

from robustbench_dyn.models.loading import build_model, discover


def neural_ode(shape=(1, 8, 8), **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(
            discover().get("neural_ode"),
            input_shape=shape,
            n_classes=4,
            options={"channels": 6, **options},
        )
    # As fast a field as training makes: a step is no longer nearly exact.
    block = model.features[-2]
    with torch.no_grad():
        block.field.inner.weight.mul_(4)
        block.field.outer.weight.mul_(4)
        block.field.push.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    return model


def inputs(n=5, shape=(1, 8, 8)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(2))


class Rows(nn.Module):
    """A two-layer network that sums row by row: its rounding is the same in every batch."""

    def __init__(self, n_classes=5, shape=(1, 6, 6)):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        d = int(np.prod(shape))
        self.first = torch.randn(16, d, generator=generator).double() / d**0.5
        self.last = torch.randn(n_classes, 16, generator=generator).double()

    def forward(self, x):
        hidden = ((x.flatten(1).double() - 0.5)[:, None, :] * self.first).sum(dim=2).relu()
        return (hidden[:, None, :] * self.last).sum(dim=2)


def examples(model, n=6, shape=(1, 6, 6)):
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return x, model(x).argmax(dim=1)
