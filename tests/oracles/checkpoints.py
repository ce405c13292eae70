"""Small checkpoints in the formats of the libraries, as these write them."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

from robustbench_dyn.models.sources.packages import require

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def needs(*packages):
    """Skip a test, with the reason, where packages are not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    reason = f"not installed: {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing), reason=reason)


def library(name):
    """Return a library as the sources import it: also beside a torch of another build."""
    return require(name, "a test", name)


def timm_network(**options):
    torch.manual_seed(0)
    return library("timm").create_model("test_resnet", num_classes=3, **options)


def timm_folder(folder, size=16):
    """Write a folder of timm: config.json and model.safetensors; return the network."""
    network = timm_network()
    cfg = {
        "input_size": [3, size, size],
        "interpolation": "bicubic",
        "mean": list(MEAN),
        "std": list(STD),
        "num_classes": 3,
        "first_conv": "conv1.0",
        "classifier": "fc",
    }
    config = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": cfg}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    return network.eval()


def hugging_face_folder(folder, *, size=16, processor=None):
    """Write a folder of transformers by its own save_pretrained; return network and processor."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3
    )
    network = transformers.ResNetForImageClassification(config).eval()
    options = {"size": {"height": size, "width": size}, "image_mean": MEAN, "image_std": STD}
    made = transformers.ViTImageProcessor(**(options | (processor or {})))
    network.save_pretrained(folder)
    made.save_pretrained(folder)
    return network, made


def module_file(folder, code=None):
    """Write a Python file with a function `build`; return the name of its model."""
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(code or BUILD)
    return f"module:{folder / 'net.py'}:build"


BUILD = """
from torch import nn

def build(input_shape, n_classes):
    size = input_shape[0] * input_shape[1] * input_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, n_classes))

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))

network = fixed()

def nothing():
    return "a network"

def fails():
    raise ValueError("no such luck")

def leaves():
    raise SystemExit(0)

class Double(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(768, 3).double())
"""
