"""The public names: complete, importable, typed, and light to list."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import robustbench_dyn
from robustbench_dyn import evaluate, evaluate_distances, evaluate_grid, evaluate_smoothed


def declared():
    """Return the names that type checkers see, by module."""
    tree = ast.parse(Path(robustbench_dyn.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        name.name: node.module.removeprefix("robustbench_dyn.")
        for node in block.body
        for name in node.names
    }


def test_dir_all_and_the_types_agree():
    assert set(dir(robustbench_dyn)) == set(robustbench_dyn.__all__)
    assert declared() == robustbench_dyn._HOMES
    assert set(robustbench_dyn.__all__) == {*declared(), "__version__"}
    assert (Path(robustbench_dyn.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("name", robustbench_dyn.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name):
    thing = getattr(robustbench_dyn, name)
    assert isinstance(thing, str) or inspect.getdoc(thing)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = robustbench_dyn.evaluat


def test_listing_the_names_imports_no_torch():
    script = "import sys, robustbench_dyn; dir(robustbench_dyn); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(("statement", "imported"), [("", 0), ("; import scipy.stats", 1)])
def test_evaluating_and_verifying_import_no_scipy_stats(statement, imported):
    script = (
        "import sys, robustbench_dyn.evaluation.api, robustbench_dyn.smoothing"
        f", robustbench_dyn.verification.smoothed{statement}\n"
        "sys.exit('scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == imported


@pytest.mark.parametrize(
    "function", [evaluate, evaluate_grid, evaluate_distances, evaluate_smoothed]
)
def test_options_are_spelt_out(function):
    parameters = inspect.signature(function).parameters.values()
    assert all(part.kind is not inspect.Parameter.VAR_KEYWORD for part in parameters)
    assert {"seed", "batch_size", "device", "store", "name", "progress"} <= {
        part.name for part in parameters
    }


def test_the_options_of_one_and_of_many_radii_are_the_same():
    one, many = (inspect.signature(f).parameters for f in (evaluate, evaluate_grid))
    options = [
        {name: part.default for name, part in parameters.items() if part.kind is part.KEYWORD_ONLY}
        for parameters in (one, many)
    ]
    assert options[0] == options[1]
