"""A plugin of a linear classifier of digits, with foreign code at a place of choice.

Without that code its robustness is known in closed form: the distance to the nearest boundary.
"""

import hashlib
import textwrap
from pathlib import Path

import torch
from safetensors.torch import save

from robustbench_dyn import load_dataset

# What the code in `act` can use.
SOURCE = """
import os, random, resource, signal, socket, sys, threading, time
from pathlib import Path
import numpy as np
import torch
from torch import nn


def act():
{act}


{at_import}


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        {at_forward}
        if x.requires_grad:
            x.register_hook(self.on_gradient)
        return self.layer(x.flatten(1))

    def on_gradient(self, gradient):
        {at_backward}

    def lipschitz_bound(self):
        {at_bound}
        return float(torch.linalg.matrix_norm(self.layer.weight.double(), 2)) * (1 + 1e-6)


def build(input_shape, n_classes):
    {at_build}
    return Linear()
"""
PLACES = ("import", "build", "forward", "backward", "bound")


def weights():
    """Return the weight and bias of the nearest class mean, as a linear classifier."""
    train = load_dataset("digits", split="train")
    means = torch.stack([train.x[train.y == k].mean(dim=0).flatten() for k in range(10)])
    return 2 * means, -means.square().sum(dim=1)


def write_plugin(folder: Path, act: str = "pass", place: str = "build") -> Path:
    """Write the plugin `digits_mean`, which runs `act` at a place; return its folder."""
    folder = folder / "digits_mean"
    (folder / "weights").mkdir(parents=True)
    weight, bias = weights()
    content = save({"layer.weight": weight.contiguous(), "layer.bias": bias})
    (folder / "weights" / "w.safetensors").write_bytes(content)
    calls = {f"at_{name}": "act()" if name == place else "pass" for name in PLACES}
    (folder / "__init__.py").write_text(
        SOURCE.format(act=textwrap.indent(textwrap.dedent(act).strip(), "    "), **calls)
    )
    (folder / "card.yaml").write_text(
        "name: digits_mean\nsummary: A linear classifier.\nversion: '1'\nfamily: Linear\n"
        "weights:\n- file: weights/w.safetensors\n  dataset: digits\n  recipe: none\n"
        f"  sha256: {hashlib.sha256(content).hexdigest()}\n"
    )
    return folder


def true_statuses(x, y, eps):
    """Return of each example whether it is misclassified, and whether it is robust within eps.

    In L2, in the whole space: an example that is robust there is so in the unit box, too.
    """
    weight, bias = (part.double() for part in weights())
    logits = x.flatten(1).double() @ weight.T + bias
    rows = torch.arange(len(y))
    margins = logits[rows, y][:, None] - logits
    norms = (weight[y][:, None] - weight[None]).norm(dim=2)
    distances = (margins / norms).masked_fill(torch.eye(10, dtype=torch.bool)[y], torch.inf)
    return logits.argmax(dim=1) != y, distances.amin(dim=1) > eps
