"""A small plugin for the digits: the nearest centroid."""

import hashlib

import torch
from safetensors.torch import save_file

from oracles.digits import all_digits

HONEST = """
from torch import nn
from robustbench_dyn.flows import Classifier

def build(input_shape, n_classes):
    return Classifier(nn.Flatten(), nn.Linear(64, n_classes))
"""

# Claims 1, is 3, and passes itself off as a class of the package, whose bounds are not tested.
UNSOUND = (
    HONEST
    + """
from robustbench_dyn import flows

class Louder(nn.Module):
    def forward(self, x):
        return 3 * x
    def lipschitz_bound(self):
        return 1.0

Louder.__module__ = flows.__name__
flows.Louder = Louder

def build(input_shape, n_classes):
    return Classifier(nn.Sequential(Louder(), nn.Flatten()), nn.Linear(64, n_classes))
"""
)


def write_plugin(folder, code=HONEST, *, factor=1.0):
    """Write a plugin called as its folder, with weights for digits; its build function is `code`.

    The network is to compute, of `factor` times its input, the nearest centroid of the digits.
    """
    images, labels = all_digits()
    x = images.flatten(1)
    centroids = torch.stack([x[labels == k].mean(dim=0) for k in range(10)])
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(code)
    weights = folder / "w.safetensors"
    bias = -centroids.square().sum(dim=1) / 2
    save_file({"head.weight": centroids / factor, "head.bias": bias}, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "card.yaml").write_text(
        f'name: {folder.name}\nfamily: linear\nsummary: Nearest centroid.\nversion: "1"\n'
        f"weights: [{{file: w.safetensors, sha256: {digest}, dataset: digits, recipe: none}}]\n"
    )
    return folder
