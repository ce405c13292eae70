"""Models that are no function of their input, and one that is."""

import random

import numpy as np
import torch
from torch import nn

from oracles import halfspaces


class Honest(nn.Module):
    """Half-spaces with a proved bound, before a subclass spoils the logits."""

    def __init__(self):
        super().__init__()
        self.inner = halfspaces()
        self.calls = 0

    def lipschitz_bound(self):
        return 1.0

    def __init_subclass__(cls):
        # Each of them claims a bound of its own.
        cls.lipschitz_bound = Honest.lipschitz_bound

    def forward(self, x):
        self.calls += 1
        return self.spoil(self.inner(x), x)

    def spoil(self, logits, _x):
        return logits


class Noisy(Honest):
    def spoil(self, logits, _x):
        return logits + 0.01 * torch.randn(logits.shape)


class NoisyByNumpy(Honest):
    def spoil(self, logits, _x):
        return logits + 0.01 * float(np.random.rand())  # noqa: NPY002


class NoisyByPython(Honest):
    def spoil(self, logits, _x):
        return logits * (1 + 0.1 * random.random())


class Dropping(Honest):
    def spoil(self, logits, _x):
        return nn.functional.dropout(logits, 0.3, training=True)


class BySize(Honest):
    def spoil(self, logits, x):
        return logits * (1 - len(x) / 1000)
