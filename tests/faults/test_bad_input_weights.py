"""Safetensors files with a right checksum and a wrong content are refused in one sentence."""

import hashlib
import json
import struct
from functools import partial

import pytest
import torch
from oracles.digits_plugin import HONEST, write_plugin
from safetensors.torch import save

from robustbench_dyn.errors import IntegrityError, RegistryError
from robustbench_dyn.models.loading import discover, load_model, load_weights
from robustbench_dyn.models.weights import fill
from robustbench_dyn.plugins import load_plugins

NAN, INF = float("nan"), float("inf")
WEIGHT, BIAS = torch.full((10, 64), 0.25), torch.zeros(10)


def of(weight=WEIGHT, bias=BIAS, **more):
    """Return a file with these tensors; None leaves one out."""
    tensors = {"head.weight": weight, "head.bias": bias} | more
    return save({name: tensor for name, tensor in tensors.items() if tensor is not None})


GOOD = of()
LENGTH = struct.unpack("<Q", GOOD[:8])[0]
HEADER, DATA = json.loads(GOOD[8 : 8 + LENGTH]), GOOD[8 + LENGTH :]


def with_length(length):
    return struct.pack("<Q", length) + GOOD[8:]


def with_header(header, data=DATA):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_entry(**changes):
    return with_header(HEADER | {"head.bias": HEADER["head.bias"] | changes})


def one_entry(value):
    tensor = WEIGHT.clone()
    tensor[3, 5] = value
    return tensor


BROKEN = {
    "empty": b"",
    "one byte": b"\x08",
    "eight zero bytes": bytes(8),
    "zero bytes alone": bytes(len(GOOD)),
    "text": b"not a tensor, but a text of some length",
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "a zip": b"PK\x03\x04" + bytes(60),
    "truncated header": GOOD[: 8 + LENGTH // 2],
    "truncated data": GOOD[:-4],
    "data missing": GOOD[: 8 + LENGTH],
    "more data than promised": GOOD + bytes(16),
    "header length 2^63": with_length(2**63),
    "header length 2^64 - 1": with_length(2**64 - 1),
    "header length of 100 GB": with_length(10**11),
    "header length too short": with_length(LENGTH - 1),
    "header is no JSON": with_header(b"{head.bias"),
    "header is a list": with_header(b"[]"),
    "header of invalid UTF-8": with_header(b'{"\xff\xfe": 1}'),
    "header nested 10,000 deep": with_header(b"[" * 10_000),
    "header without entries": with_header({}, b""),
    "overlapping offsets": with_entry(data_offsets=[4, 44]),
    "offsets beyond the end": with_entry(data_offsets=[2560, 26_000]),
    "offsets in reverse": with_entry(data_offsets=[2600, 2560]),
    "negative offsets": with_entry(data_offsets=[-40, 0]),
    "offsets beyond 64 bits": with_entry(data_offsets=[0, 10**30]),
    "shape against offsets": with_entry(shape=[11]),
    "shape that overflows": with_entry(shape=[2**62, 2**62]),
    "negative shape": with_entry(shape=[-10]),
    "unknown type": with_entry(dtype="F31"),
    "missing tensor": of(bias=None),
    "additional tensor": of(**{"head.scale": BIAS + 1}),
    "renamed tensor": of(bias=None, **{"head.Bias": BIAS}),
    "transposed weight": of(weight=torch.ones(64, 10)),
    "flat weight": of(weight=WEIGHT.flatten()),
    "scalar bias": of(bias=torch.tensor(0.0)),
    "empty bias": of(bias=torch.empty(0)),
    "bfloat16": of(weight=WEIGHT.bfloat16()),
    "float16": of(weight=WEIGHT.half()),
    "float64": of(weight=WEIGHT.double()),
    "int64": of(weight=WEIGHT.long()),
    "bool": of(weight=WEIGHT.bool()),
    "complex": of(weight=WEIGHT.to(torch.complex64)),
    "float8": of(weight=WEIGHT.to(torch.float8_e4m3fn)),
    "one NaN": of(weight=one_entry(NAN)),
    "one infinity": of(weight=one_entry(INF)),
    "a bias of minus infinity": of(bias=torch.full((10,), -INF)),
}


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A function that loads the linear model from a file that its card names, checksum and all."""
    folder = write_plugin(tmp_path_factory.mktemp("plugins") / "linear")
    return partial(load_from, folder)


def load_from(folder, content):
    load_plugins(folder)
    architecture = discover().get("linear")
    (folder / "w.safetensors").write_bytes(content)
    weights = architecture.card.weights[0].model_copy(
        update={"sha256": hashlib.sha256(content).hexdigest()}
    )
    return load_weights(architecture, weights)


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_weights_file_is_refused_in_one_sentence(content, linear):
    with pytest.raises(IntegrityError, match=r"w\.safetensors does not fit model 'linear': ") as e:
        linear(content)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 700


def test_the_same_file_without_a_fault_is_loaded(linear):
    for content in (GOOD, with_header(HEADER), with_entry()):
        model = linear(content)
        assert torch.equal(model.state_dict()["head.weight"], WEIGHT)


def test_a_refused_file_leaves_the_network_as_it_was():
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(IntegrityError):
        fill(model, save({"weight": torch.ones(2, 2), "bias": torch.full((2,), NAN)}))
    assert torch.equal(model.weight, before)


BUILDS = {
    "None": ("return None", "build\\(\\) returned NoneType"),
    "a class": ("return nn.Linear", "build\\(\\) returned type"),
    "a function": ("return lambda x: x", "build\\(\\) returned function"),
    "sys.exit": ("raise SystemExit(0)", "SystemExit: 0"),
    "an error": ("raise KeyError('[/b]')", "KeyError"),
    "recursion": ("return build(input_shape, n_classes)", "RecursionError"),
}


@pytest.mark.parametrize(("body", "message"), BUILDS.values(), ids=BUILDS.keys())
def test_what_build_does_wrong_is_told_in_one_sentence(body, message, tmp_path):
    code = "from torch import nn\ndef build(input_shape, n_classes):\n    " + body
    load_plugins(write_plugin(tmp_path / "odd", code))
    with pytest.raises(RegistryError, match=f"model 'odd' .*{message}"):
        load_model("odd", dataset="digits")


def test_the_honest_build_is_accepted(tmp_path):
    load_plugins(write_plugin(tmp_path / "honest", HONEST))
    assert isinstance(load_model("honest", dataset="digits"), torch.nn.Module)
