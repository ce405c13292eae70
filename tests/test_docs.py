"""README.md and docs/: links, the glossary, and examples that run."""

import re

import pytest
import torch
import yaml
from oracles.pages import DOCS, PAGES, ROOT, blocks, name_of
from torch import nn

from robustbench_dyn.sweeps.sweep_file import Sweep

# Their examples have tests of their own: test_example_plugin, test_statistics_page, test_walks.
TESTED_ELSEWHERE = {"extending.md", "statistics.md", "publish.md"}
WITH_EXAMPLES = [
    path
    for path in PAGES
    if path.name not in TESTED_ELSEWHERE and blocks(path.read_text(encoding="utf-8"), "python")
]


def broken_links(text, folder):
    """Return the relative links of a page to files that do not exist."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    # The build of the site writes these.
    made = re.compile(r"(\.\./)*(results|reference|project|zoo)/[\w/-]+\.md")
    return [t for t in targets if not (made.fullmatch(t) or (folder / t).exists())]


def run_examples(text):
    """Run the programs of a page one after the other; returns their names."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    names = {"module": module, "x": torch.rand(3, 1, 2, 2), "y": torch.tensor([0, 1, 2])}
    for source in blocks(text, "python"):
        exec(source, names)
    return names


def terms(text):
    return re.findall(r"^\*\*(.+?)\*\*: ", text, re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_to_files(path):
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


def test_a_broken_link_is_found():
    text = "[a](README.md) [b](docs/nowhere.md) [c](https://example.org/x) [d](README.md#start)"
    assert broken_links(text, ROOT) == ["docs/nowhere.md"]


def test_the_glossary_is_sorted_and_defines_each_term_once():
    found = terms((DOCS / "glossary.md").read_text(encoding="utf-8"))
    assert len(found) >= 40
    assert found == sorted(set(found), key=str.lower)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name_of)
def test_the_python_examples_of_a_page_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(path.read_text(encoding="utf-8"))


def test_the_example_of_the_readme_evaluates():
    names = run_examples((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(names["evaluation"].examples) == 3


def test_an_example_that_fails_is_found():
    with pytest.raises(AssertionError):
        run_examples("```python\nz = 1\n```\ntext\n```python\nassert z == 2\n```\n")


@pytest.mark.parametrize(("page", "shard"), [("cli.md", 250), ("how-to/sweep-on-ray.md", 10)])
def test_the_sweep_of_a_page_is_valid(page, shard):
    (source,) = blocks((DOCS / page).read_text(encoding="utf-8"), "yaml")
    assert Sweep.model_validate(yaml.safe_load(source)).examples_per_shard == shard


def test_the_recipes_in_the_docs_are_those_of_the_plugins():
    part, whole = blocks((DOCS / "training.md").read_text(encoding="utf-8"), "yaml")
    shown, recipe = _recipe(part, "# From ")
    assert shown.items() <= recipe.items()
    shown, recipe = _recipe(whole, "# ")
    assert shown == recipe


def _recipe(block, prefix):
    """Return the recipe that a block shows, and that of the file which its first line names."""
    path, shown = block.removeprefix(prefix).split("\n", 1)
    return yaml.safe_load(shown), yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
