"""All images of digits, those of both splits, in the order of their file."""

import torch

from robustbench_dyn.datasets.digits import read_all


def all_digits():
    """Return x, (1797, 1, 8, 8) in [0, 1], and y, (1797,)."""
    raw = read_all()
    return torch.tensor(raw.x / raw.white).float(), torch.tensor(raw.y).long()
