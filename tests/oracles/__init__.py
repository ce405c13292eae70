"""Models whose robustness is known exactly, and what is known of them."""

import torch
from torch import nn

from robustbench_dyn.flows import Classifier


class Scale(nn.Module):
    """x -> factor * x, which claims to be `claim`-Lipschitz."""

    def __init__(self, factor, claim=None):
        super().__init__()
        self.factor = factor
        self.claim = factor if claim is None else claim

    def forward(self, x):
        return self.factor * x

    def lipschitz_bound(self):
        return self.claim


def halfspaces(*, factor=1.0, claim=None, n_classes=2):
    """Return the classifier of [0, 1]^16 whose class is the largest of the first coordinates.

    Between classes i and j lies the plane x_i = x_j, at L2 distance |x_i - x_j| / sqrt(2).
    """
    head = nn.Linear(16, n_classes, bias=False)
    head.weight.data = torch.eye(16)[:n_classes].clone()
    return Classifier(nn.Sequential(Scale(factor, claim), nn.Flatten()), head)


def points(distances, *, n_classes=2):
    """Return x (n, 1, 4, 4) and y, at the given L2 distances from the nearest of those planes."""
    x = torch.full((len(distances), 16), 0.3)
    y = torch.arange(len(distances)) % n_classes
    for row, distance in enumerate(distances):
        x[row, y[row]] += distance * 2**0.5
    return x.view(-1, 1, 4, 4), y
