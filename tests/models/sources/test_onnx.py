"""onnx:FILE, on files that the test writes."""

import numpy as np
import pytest
import torch
from oracles.checkpoints import library, needs

from robustbench_dyn import InputError, ThreatModel, evaluate, load_model
from robustbench_dyn.errors import RegistryError
from robustbench_dyn.models.identity import measured_identity, registered_identity

pytestmark = [needs("onnx", "onnx2torch"), pytest.mark.usefixtures("nowhere")]


def write(path, *, batch="n", n_inputs=1):
    """Write a linear network from (3, 16, 16) to three logits; return weight and bias."""
    onnx = library("onnx")
    make = onnx.helper
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, 768)), random.normal(size=3)
    held = [
        onnx.numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in (("w", weight), ("b", bias))
    ]
    nodes = [
        make.make_node("Flatten", ["x"], ["flat"], axis=1),
        make.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
    ]
    float_ = onnx.TensorProto.FLOAT
    inputs = [
        make.make_tensor_value_info(name, float_, [batch, 3, 16, 16])
        for name in ["x", "z"][:n_inputs]
    ]
    outputs = [make.make_tensor_value_info("logits", float_, [batch, 3])]
    graph = make.make_graph(nodes, "linear", inputs, outputs, initializer=held)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)]), path)
    return weight, bias


def test_a_file_gives_its_network(images, of_three_classes):
    weight, bias = write("net.onnx")
    model = load_model("onnx:net.onnx", dataset=of_three_classes)
    x = images[0]
    expected = x.flatten(1).double() @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    assert torch.allclose(model(x).double(), expected, atol=1e-4)
    summary = evaluate(model, images, ThreatModel("L2", 0.1), attacks="pgd").summary
    assert summary["model"] == "onnx/net"
    identity = registered_identity(model) or measured_identity(model)
    assert identity.plugin_version.startswith("onnx2torch")


def test_classes_are_held_to_the_data_set():
    write("net.onnx")
    with pytest.raises(InputError, match="has 3 classes, and cifar10 has 10"):
        load_model("onnx:net.onnx", dataset="cifar10")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch": 1}, "takes batches of 1 alone"), ({"n_inputs": 2}, "has 2 inputs and 1 outputs")],
)
def test_a_file_of_another_form_is_refused(options, message):
    write("net.onnx", **options)
    with pytest.raises(InputError, match=message):
        load_model("onnx:net.onnx")


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_a_damaged_file_is_told_of(content, nowhere):
    (nowhere / "net.onnx").write_bytes(content)
    with pytest.raises((RegistryError, InputError), match=r"onnx:net\.onnx"):
        load_model("onnx:net.onnx")
