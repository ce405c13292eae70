"""A model that answers wrongly or raises anything: refused in one line, or flagged in its row."""

import json

import pytest
import yaml
from oracles.command import dynbench, dynbench_here, refused
from oracles.digits_plugin import write_plugin

NETWORK = """
import torch
from torch import nn

class Mute(Exception):
    def __str__(self):
        raise ValueError

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def logits(self, x):
        return self.head(x.flatten(1))

    def forward(self, x):
        {forward}

    {method}

def build(input_shape, n_classes):
    return Network()
"""


def network(forward="return self.logits(x)", method=""):
    return NETWORK.format(forward=forward, method=method)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A function that runs the command on a plugin of this code, in this process."""

    def call(code):
        folder = write_plugin(tmp_path / "odd", code)
        options = ["run", "--model", "odd", "--plugins", folder, "--dataset", "digits", "--json"]
        options += ["--n-examples", "4", "--attacks", "pgd", "--eps", "0.5"]
        return dynbench_here(options, tmp_path, monkeypatch, capsys)

    return call


REFUSED = {
    "None": ("return None", "it returned NoneType"),
    "a list": ("return [self.logits(x)]", "it returned list"),
    "a tuple": ("return (self.logits(x),)", "it returned tuple"),
    "integers": ("return self.logits(x).long()", "of a float type, not torch.int64"),
    "booleans": ("return self.logits(x) > 0", "of a float type, not torch.bool"),
    "complex numbers": (
        "return self.logits(x).to(torch.complex64)",
        "of a float type, not torch.complex64",
    ),
    "three dimensions": ("return self.logits(x)[:, :, None]", "it returned (4, 10, 1)"),
    "one dimension": ("return self.logits(x)[:, 0]", "it returned (4,)"),
    "no rows": ("return self.logits(x)[:0]", "it returned (0, 10)"),
    "one class": ("return self.logits(x)[:, :1]", "the model has 1 outputs"),
    "an error of markup": (
        "raise RuntimeError('[/b] \\x1b[31m\\n' * 9000)",
        "RuntimeError: [/b] \\x1b[31m [/b]",
    ),
    "an error without a message": ("raise Mute", "dynbench: "),
    "sys.exit(0)": ("raise SystemExit(0)", "exit"),
    "typer.Exit(0)": ("import typer; raise typer.Exit(0)", "Exit: 0"),
    "GeneratorExit": ("raise GeneratorExit", "GeneratorExit"),
    "StopIteration": ("raise StopIteration", "StopIteration"),
    "endless recursion": ("return self.forward(x)", "RecursionError"),
    "no memory": ("raise MemoryError", "dynbench: "),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_without_logits_is_refused_in_one_line(forward, message, run):
    result = run(network(forward))
    refused(result, message)
    assert result.stdout == ""
    assert "\x1b" not in result.stderr
    assert len(result.stderr) < 3000


SURROGATES = {
    "raises": ("raise RuntimeError('[/b]')", "RuntimeError: [/b]"),
    "exits": ("raise SystemExit(0)", "exit"),
    "None": ("return None", "must return a dict of names to modules"),
    "a list": ("return [self]", "must return a dict of names to modules"),
    "numbers": ("return {'a': 1}", "must return a dict of names to modules"),
}


@pytest.mark.parametrize(("body", "message"), SURROGATES.values(), ids=SURROGATES.keys())
def test_surrogates_that_are_none_are_refused_in_one_line(body, message, run):
    refused(run(network(method=f"def surrogates(self): {body}")), message)


BOUNDS = {
    "raises": ("raise RuntimeError('[/b]')", "RuntimeError: [/b]"),
    "None": ("return None", "TypeError"),
    "a text": ("return 'x'", "ValueError"),
    "a vector": ("return torch.ones(3)", "ValueError"),
    "a complex number": ("return 1j", "TypeError"),
    "an integer of 400 digits": ("return 10**400", "OverflowError"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("body", "reason"), BOUNDS.values(), ids=BOUNDS.keys())
def test_a_bound_that_fails_is_flagged_with_its_reason(body, reason, run):
    result = run(network(method=f"def lipschitz_bound(self): {body}"))
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["rows"][0]["flags"] == "certifier_failed:lipschitz"
    assert reason in document["run"]["not_applicable"]["lipschitz"]


def no_constant(text):
    raise ValueError(text)


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["float('nan')", "float('inf')", "1.0"])
def test_json_of_a_run_has_no_nan_and_no_infinity(bound, run):
    result = run(network(method=f"def lipschitz_bound(self): return {bound}"))
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout, parse_constant=no_constant)["rows"]


@pytest.mark.parametrize("factor", ["float('nan')", "float('inf')"])
def test_logits_that_are_not_finite_are_errors_and_no_robustness(factor, run):
    result = run(network(f"return self.logits(x) * {factor}"))
    row = json.loads(result.stdout)["rows"][0]
    assert "errors:4" in row["flags"].split()
    assert (row["certified_accuracy"], row["empirical_accuracy"]) == (0, 0)


def test_the_same_network_without_a_fault_is_evaluated(run):
    result = run(network())
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["rows"][0]["clean_accuracy"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise SystemExit(0)"])
def test_a_model_that_fails_does_not_end_a_sweep(fault, tmp_path):
    write_plugin(tmp_path / "plugins" / "odd", network(fault))
    write_plugin(tmp_path / "plugins" / "sound", network())
    sweep = {
        "models": ["odd", "sound"],
        "datasets": ["digits"],
        "threat_models": [{"norm": "L2", "eps": [0.5]}],
        "n_examples": 4,
        "seeds": [0],
        "attacks": "none",
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    options = ("sweep.yaml", "--plugins", "plugins", "--workers", "1")
    result = dynbench("sweep", *options, "--json", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    document = json.loads(result.stdout)
    assert [row["model"] for row in document["rows"]] == ["sound"]
    assert [*document["run"]["failed"]] == ["odd digits L2 seed 0 examples 0-3"]
    assert "\x1b" not in result.stderr
    shown = dynbench("sweep", *options, cwd=tmp_path)
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr
    assert "sound" in shown.stdout
    assert "\x1b" not in shown.stderr
