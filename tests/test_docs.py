"""README.md and docs/: links, the glossary, and examples that run."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from robustbench_dyn.sweeps.sweep import Sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def broken_links(text, folder):
    """Return the relative links of a page to files that do not exist."""
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    return [target for target in targets if not (folder / target).exists()]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def terms(text):
    return re.findall(r"^\*\*(.+?)\*\*: ", text, re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


def test_a_broken_link_is_found():
    text = "[a](README.md) [b](docs/nowhere.md) [c](https://example.org/x) [d](README.md#start)"
    assert broken_links(text, ROOT) == ["docs/nowhere.md"]


def test_the_glossary_is_sorted_and_defines_each_term_once():
    found = terms((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    assert len(found) >= 40
    assert found == sorted(set(found), key=str.lower)


def test_the_python_example_of_the_readme_runs():
    (source,) = blocks((ROOT / "README.md").read_text(encoding="utf-8"), "python")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    names = {"module": module, "x": torch.rand(3, 1, 2, 2), "y": torch.tensor([0, 1, 2])}
    exec(source, names)
    assert len(names["evaluation"].examples) == 3


def test_the_sweep_in_the_docs_is_valid():
    (source,) = blocks((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "yaml")
    config = Sweep.model_validate(yaml.safe_load(source))
    assert config.examples_per_shard == 250


def test_the_recipe_in_the_docs_is_that_of_the_plugin():
    (source,) = blocks((ROOT / "docs" / "training.md").read_text(encoding="utf-8"), "yaml")
    path, recipe = source.removeprefix("# ").split("\n", 1)
    assert yaml.safe_load(recipe) == yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
