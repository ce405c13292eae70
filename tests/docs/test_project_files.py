"""The files that speak of the project: citation, forms for issues, and the address."""

import tomllib

import pytest
import yaml
from oracles.pages import ROOT

from robustbench_dyn import __version__

FORMS = [
    path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Of GitHub's syntax for issue forms.
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def problems(form):
    """Return what is wrong with an issue form."""
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    ids = [part.get("id") for part in fields]
    found = [f"unknown type {part['type']}" for part in form["body"] if part["type"] not in KINDS]
    found += [f"no label: {part}" for part in fields if not part["attributes"].get("label")]
    found += [f"no id of its own: {name}" for name in ids if not name or ids.count(name) > 1]
    return found + [key for key in ("name", "description") if not form.get(key)]


def test_the_citation_names_the_version_that_is_cited():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert [a["name"] for a in citation["authors"]] == [a["name"] for a in PROJECT["authors"]]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_valid(path):
    assert problems(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


def test_a_wrong_issue_form_is_found():
    field = {"type": "input", "id": "a", "attributes": {"label": "A"}}
    form = {"name": "N", "description": "", "body": [field, field, {**field, "type": "text"}]}
    assert len(problems(form)) == 1 + 3 + 1


def test_the_address_of_the_project_is_a_placeholder_in_one_place():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *(ROOT / ".github").rglob("*.*")]
    assert "github.com/OWNER/" in PROJECT["urls"]["Repository"]
    assert [path.name for path in pages if "OWNER" in path.read_text(encoding="utf-8")] == []
