"""The contract of architectures: each rule catches a network that breaks it, with a remedy."""

import hashlib

import pytest
from safetensors.torch import save

from robustbench_dyn.errors import InputError
from robustbench_dyn.evaluation.contract import ModelFinding, Subject, check_model, subject_of
from robustbench_dyn.models.loading import discover
from robustbench_dyn.plugins import load_plugins

CODE = """
import torch
from torch import nn
from robustbench_dyn.flows import Classifier
from robustbench_dyn.properties import Nonexpansive

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        {init}

    def forward(self, x):
        {forward}

    def lipschitz_bound(self):
        {bound}

class Network(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        torch.manual_seed({seed})
        self.features = nn.Sequential(nn.Flatten(), Part(), nn.Linear(2, 16), nn.Tanh())
        self.head = nn.Linear(16, {n_out})

    def forward(self, x):
        {network}

def build(input_shape, n_classes):
    {build}

def properties(model):
    return {claims}
"""
PARTS = {
    "init": "self.scale = nn.Parameter(torch.ones(1))",
    "forward": "return self.scale * x",
    "bound": "return float(self.scale.detach().abs())",
    "seed": "torch.initial_seed()",
    "n_out": "n_classes",
    "network": "return self.head(self.features(x))",
    "build": "return Network(n_classes)",
    "claims": "()",
}
# The network as a Classifier, for whose parts Lipschitz bounds are known.
BOUNDED = {"build": "n = Network(n_classes); return Classifier(n.features, n.head)"}
CARD = """
name: {name}
summary: A test.
version: "1"
family: Test
properties: [{properties}]
"""


def write(folder, *, name="", properties="", weights="", **parts):
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(CODE.format(**PARTS | parts))
    text = CARD.format(name=name or folder.name, properties=properties)
    (folder / "card.yaml").write_text(text + weights)
    (folder / "recipes").mkdir()
    (folder / "recipes" / "moons.yaml").touch()
    return folder


def findings(tmp_path, *, until="", **parts):
    """Return the findings on a plugin with these parts, by rule; until: the last rule tested."""
    folder = write(tmp_path / "flow", **parts)
    load_plugins(folder)
    (name,) = (n for n, e in discover().entries().items() if e.origin == f"the folder {folder}")
    subject = subject_of(discover().get(name), n_examples=3)
    found = [subject] if isinstance(subject, ModelFinding) else check_model(subject)
    tested = dict[str, ModelFinding]()
    for finding in found:
        tested[finding.rule] = finding
        if finding.rule == until:
            break
    return tested


BROKEN = {
    "13 outputs": ({"n_out": "13"}, "classes", "13 outputs for 2 classes"),
    "one output": ({"n_out": "1"}, "classes", "1 outputs for 2 classes"),
    "a vector": ({"network": "return self.head(self.features(x))[:, 0]"}, "classes", "shape (3,)"),
    "a tuple": ({"network": "return (self.head(self.features(x)),)"}, "classes", "returns tuple"),
    "raises": ({"network": "raise RuntimeError('?')"}, "classes", "it raises RuntimeError: ?"),
    "double weights": (
        {"build": "return Network(n_classes).double()"},
        "types",
        "is torch.float64",
    ),
    "half logits": (
        {"network": "return self.head(self.features(x)).half()"},
        "types",
        "the logits are torch.float16",
    ),
    "a double buffer": (
        {"init": "self.register_buffer('k', torch.ones(2).double())", "bound": "return 1.0",
         "forward": "return x * self.k.float()"},
        "types",
        "features.1.k is torch.float64",
    ),
    "NaN": ({"forward": "return x / 0 * 0"}, "finite", "finite at 0 of"),
    "NaN at black": ({"forward": "return x / x.abs().sum(1, True)"}, "finite", "finite at "),
    "a coupled batch": ({"forward": "return x - x.mean(dim=0)"}, "batches", "relative difference"),
    "a fixed batch": (
        {"network": "return self.head(self.features(x.reshape(3, 2, 1, 1)))"},
        "batches",
        "it raises",
    ),
    "a softmax": (
        {"network": "return self.head(self.features(x)).softmax(1)"},
        "logits",
        "probabilities that sum to 1",
    ),
    "in place": (
        {"network": "x *= 0.9\n        return self.head(self.features(x))"},
        "input",
        "forward() writes into x",
    ),
    "rounding": (
        {"forward": "return (4 * x).round() / 4"},
        "gradients",
        "do not change with the input",
    ),
    "detached": ({"forward": "return x.detach()"}, "gradients", "is 0 where the logits change"),
    "no graph": (
        {"network": "return self.head(self.features(x)).detach()"},
        "gradients",
        "no gradient with respect to",
    ),
    "a false gradient": (
        {"forward": "return x + (0.5 * x).detach()"},
        "gradients",
        "slopes are wrong",
    ),
    "another function": (
        {"forward": "return x + 1.0 * torch.is_grad_enabled()"},
        "no_grad",
        "with and without a graph",
    ),
    "differentiates": (
        {"forward": "y = x if x.requires_grad else x.requires_grad_()\n"
         "        return torch.autograd.grad((y ** 2).sum(), y, create_graph=True)[0]"},
        "no_grad",
        "it raises",
    ),
    "leaves eval": ({"forward": "self.train(); return x"}, "modes", "changes the mode of"),
    "freezes": (
        {"forward": "self.scale.requires_grad_(False); return self.scale * x"},
        "modes",
        "requires_grad",
    ),
    "counts passes": (
        {"init": "self.register_buffer('n', torch.zeros(1))", "bound": "return 1.0",
         "forward": "self.n += 1; return x"},
        "modes",
        "forward() changes features.1.n in eval mode",
    ),
    "a stale cache": (
        {"forward": "w = self.scale if self.scale.requires_grad else 1.5 * self.scale\n"
         "        return w * x"},
        "frozen",
        "logits differ by",
    ),
    "stays in float32": (
        {"forward": "return (self.scale * x).float()"},
        "float64",
        "it raises RuntimeError",
    ),
    "another function in float64": (
        {"forward": "return self.scale * x * (2 if x.dtype is torch.float64 else 1)"},
        "float64",
        "from those in float32",
    ),
    "stays on the CPU": (
        {"init": "self.k = torch.ones(2)", "forward": "return self.k * x", "bound": "return 1.0"},
        "device",
        "features.1.k stays behind",
    ),
    "a list stays": (
        {"init": "self.k = [torch.ones(2)]", "forward": "return self.k[0] * x",
         "bound": "return 1.0"},
        "device",
        "features.1.k stays behind",
    ),
    "made on the CPU": ({"forward": "return x + torch.zeros(2)"}, "device", "cpu"),
    "random and not saved": (
        {"init": "self.k = float(torch.rand(1)) + 1", "forward": "return self.k * x",
         "bound": "return 10.0"},
        "saved weights",
        "after saving, building and loading",
    ),
    "a tensor twice": (
        {"init": "self.a = nn.Parameter(torch.ones(1)); self.register_buffer('b', self.a.data)",
         "forward": "return self.a * x", "bound": "return 10.0"},
        "saved weights",
        "it raises RuntimeError",
    ),
    "random": ({"forward": "return x + 0.1 * torch.randn_like(x)"}, "deterministic", "defect"),
    "a coupled batch in float64": (
        {"forward": "return x - x.mean(dim=0)"},
        "batch-independent",
        "defect",
    ),
    "a false property": (
        {"forward": "return 3 * x", "claims": "(Nonexpansive('features.1'),)",
         "properties": "nonexpansive"},
        "nonexpansive of features.1",
        "steepest 3",
    ),
    "a property of no part": (
        {"claims": "(Nonexpansive('nowhere'),)", "properties": "nonexpansive"},
        "properties",
        "'nowhere', which is no part of the model",
    ),
    "a false bound": (
        {"forward": "return 30 * x", "bound": "return 1.0", **BOUNDED},
        "certificates",
        "refute lipschitz_bound()",
    ),
    "a bound that fails": (
        {"bound": "return 1 / 0", **BOUNDED},
        "certificates",
        "division by zero",
    ),
    "a property that is not written": (
        {"claims": "(Nonexpansive('features.1'),)"},
        "card",
        "properties() claims nonexpansive",
    ),
    "a property that is not claimed": ({"properties": "symplectic"}, "card", "names symplectic"),
    "another name": ({"name": "stream"}, "card", "its name is 'stream', and its folder's 'flow'"),
}  # fmt: off


@pytest.mark.parametrize(("parts", "rule", "found"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_network_is_caught_with_a_remedy(parts, rule, found, tmp_path):
    finding = findings(tmp_path, until=rule, **parts)[rule]
    assert finding.holds is False, finding
    assert found in finding.found
    assert finding.expected
    assert finding.remedy


def test_a_sound_network_keeps_every_rule(tmp_path):
    found = findings(tmp_path, **BOUNDED)
    assert [rule for rule, finding in found.items() if finding.holds is not True] == []
    caught = {rule for _, rule, _ in BROKEN.values()} - {"properties", "nonexpansive of features.1"}
    assert caught == set(found) - {"lipschitz", "cost"}


def test_what_a_network_of_nan_breaks_is_finiteness(tmp_path):
    found = findings(tmp_path, forward="return x * float('nan')")
    assert [rule for rule, finding in found.items() if finding.holds is False] == ["finite"]
    assert "deterministic" not in found
    assert found["all others"].found == "they mean nothing before 'finite' holds"


def test_a_network_without_bounds_has_no_certificates_to_test(tmp_path):
    finding = findings(tmp_path, network="return self.head(self.features(x).sin())")["certificates"]
    assert finding.holds is None
    assert "no cheap certifier" in finding.found


@pytest.fixture
def trained(tmp_path):
    """A function that writes a plugin with weights for a data set, and returns its architecture."""

    def make(*, dataset="moons", spoil=None):
        folder = write(tmp_path / "flow")
        load_plugins(folder)
        model = subject_of(discover().get("flow"), n_examples=2).model
        content = save(model.state_dict())
        sha256 = hashlib.sha256(content).hexdigest()
        entry = f"{{file: w.safetensors, sha256: {sha256}, dataset: {dataset}, recipe: none}}"
        with (folder / "card.yaml").open("a") as card:
            card.write(f"weights: [{entry}]\n")
        (folder / "w.safetensors").write_bytes(spoil(content) if spoil else content)
        return discover().get("flow")

    return make


def test_the_test_says_which_weights_and_examples_it_uses(trained):
    subject = subject_of(trained(), n_examples=2)
    assert isinstance(subject, Subject)
    said = subject.described()
    sha256 = subject.weights.sha256[:12]
    assert f"with w.safetensors (sha256 {sha256})" in said
    assert "the first 2 test examples of moons, 2x1x1, 2 classes" in said
    assert next(check_model(subject)).rule == "weights"


@pytest.mark.parametrize(
    "spoil", [lambda content: content + b"0", lambda _: b"pickle"], ids=["longer", "another"]
)
def test_weights_that_are_not_those_of_the_card_are_a_finding(trained, spoil):
    finding = subject_of(trained(spoil=spoil))
    assert (finding.rule, finding.holds) == ("weights", False)
    assert "not the one that card.yaml names" in finding.found
    assert "--install" in finding.remedy


def test_weights_for_an_unknown_data_set_are_found(trained):
    with pytest.raises(InputError, match="did you mean 'digits'"):
        subject_of(trained(dataset="digitz"))
