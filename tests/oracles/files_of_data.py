"""A data set of three images in an .npz file, and a model plugin with weights for it."""

import hashlib

import numpy as np
import torch
from safetensors.torch import save_file

from robustbench_dyn.datasets import dataset_name

X = torch.arange(48).reshape(3, 1, 4, 4) / 48
CODE = """
from math import prod
from torch import nn

def build(input_shape, n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), n_classes))
"""


def write_data(path) -> str:
    """Write the file; return the name by which commands take it."""
    np.savez(path, x=X.numpy(), y=np.arange(3))
    return f"npz:{path}"


def write_nearest(folder, data: str):
    """Write a plugin called as its folder that tells the images apart, with a card for the data."""
    folder.mkdir()
    (folder / "__init__.py").write_text(CODE)
    flat = X.flatten(1)
    state = {"1.weight": flat, "1.bias": -flat.square().sum(dim=1) / 2}
    save_file(state, folder / "w.safetensors")
    digest = hashlib.sha256((folder / "w.safetensors").read_bytes()).hexdigest()
    (folder / "card.yaml").write_text(
        f'name: {folder.name}\nfamily: linear\nsummary: Nearest image.\nversion: "1"\n'
        f"weights: [{{file: w.safetensors, sha256: {digest}, dataset: {dataset_name(data)}, "
        "recipe: none}]\n"
    )
    return folder
