"""dynbench compare: from stores and folders of tables, as text and as JSON."""

import json

import pytest
from oracles.evidence import add_to, evidence

from robustbench_dyn import cli
from robustbench_dyn.reporting.published import entries_of
from robustbench_dyn.reporting.publishing import publish
from robustbench_dyn.results.store import Store

A, B = evidence("lipflow", "cccccccu" * 8), evidence("flow~0.25", "cbbccbum" * 8)


@pytest.fixture
def stores(tmp_path):
    paths = [tmp_path / "1.sqlite", tmp_path / "2.sqlite"]
    for path, one in zip(paths, (A, B), strict=True):
        add_to(Store(path), one)
    return paths


def compare(capsys, *arguments):
    code = cli.run(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_models_of_several_stores_are_compared(stores, capsys):
    options = [part for path in stores for part in ("--store", path)]
    code, out, err = compare(capsys, "lipflow", "flow~0.25", *options)
    assert (code, err) == (0, "")
    assert "Both have the same 64 images." in out
    assert out.isascii()


def test_a_folder_of_tables_gives_the_same_as_the_stores(stores, capsys, tmp_path):
    options = [part for path in stores for part in ("--store", path)]
    _, expected, _ = compare(capsys, "lipflow", "flow~0.25", *options)
    entries = [entry for path in stores for entry in entries_of(Store(path))]
    publish(entries, tmp_path / "tables")
    found = compare(capsys, "lipflow", "flow~0.25", "--tables", tmp_path / "tables")
    assert found == (0, expected, "")
    mixed = ("lipflow", "flow~0.25", "--tables", tmp_path / "tables", *options)
    assert compare(capsys, *mixed) == (0, expected, "")


def test_examples_are_named_when_asked_for(stores, capsys):
    options = [part for path in stores for part in ("--store", path)]
    _, few, _ = compare(capsys, "lipflow", "flow~0.25", *options)
    _, every, _ = compare(capsys, "lipflow", "flow~0.25", *options, "--examples")
    assert " and 22 more" in few
    assert " more" not in every.replace("\n", " ")


def test_json_is_one_document(stores, capsys):
    options = [part for path in stores for part in ("--store", path)]
    code, out, _ = compare(capsys, "lipflow", "flow~0.25", *options, "--json")
    (one,) = json.loads(out)["comparisons"]
    assert code == 0
    assert one["differences"][1]["only_first"] == [k for k in range(64) if k % 8 in (1, 2, 5, 6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lipflow", "other"], "no model is called 'other'"),
        (["lipflow", "lipflow"], "one model"),
        (["lipflow", "flow~0.25", "--eps", "8/255"], "no threat model in common"),
        (["lipflow", "flow~0.25", "--tables", "none"], "there is no folder none"),
    ],
)
def test_a_refusal_is_one_line(arguments, message, stores, capsys):
    options = [part for path in stores for part in ("--store", path)]
    code, out, err = compare(capsys, *arguments, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
