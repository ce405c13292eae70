"""Exported tables are complete, typed and written atomically."""

import pandas as pd
import pytest
from oracles.records import record

from robustbench_dyn.errors import InputError, OutputError
from robustbench_dyn.reporting import export as exporting
from robustbench_dyn.reporting.export import export_store
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import EXAMPLE_COLUMNS, Status, Verdict


@pytest.fixture
def store():
    """A store with two evaluations; one has no certificate and no adversarial example."""
    store = Store()
    for key in ("a", "b"):
        store.add_evaluation(key, record(key.upper(), attacks=("pgd", "fab-t")))
    certified = {"status": Status.CERTIFIED, "certified_radius": 0.7, "certifier": "lipschitz"}
    undecided = {"status": Status.UNDECIDED, "reason": "survived"}
    for key, evidence in (("a", undecided), ("b", certified)):
        common = {"label": 1, "prediction": 1, "eps": 0.5} | evidence
        store.add_verdicts(key, [Verdict(example_id=i, **common) for i in range(5)])
    return store


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("rows_at_a_time", [3, 50_000])
def test_a_table_holds_every_verdict(suffix, rows_at_a_time, store, tmp_path, monkeypatch):
    monkeypatch.setattr("robustbench_dyn.results.store._ROWS_AT_A_TIME", rows_at_a_time)
    path = tmp_path / f"t.{suffix}"
    assert export_store(store, path) == 10
    table = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
    assert set(EXAMPLE_COLUMNS) < set(table.columns)
    assert table["model"].tolist() == ["A"] * 5 + ["B"] * 5
    assert table["example_id"].tolist() == [0, 1, 2, 3, 4] * 2
    assert table["certified_radius"].isna().tolist() == [True] * 5 + [False] * 5
    assert table["certified_radius"].dtype == float
    assert set(table["attacks"]) == {"pgd+fab-t"}
    assert set(table["certifiers"]) == {"none"}


def test_pending_examples_are_exported_only_on_request(store, tmp_path):
    pending = Verdict(
        example_id=5,
        label=1,
        prediction=1,
        eps=0.5,
        status=Status.UNDECIDED,
        reason="next: pgd",
        next_stage="pgd",
    )
    store.add_verdicts("a", [pending])
    assert export_store(store, tmp_path / "t.csv") == 10
    assert export_store(store, tmp_path / "t.csv", pending=True) == 11
    assert "next: pgd" in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_failed_export_leaves_the_old_table(suffix, store, tmp_path):
    path = tmp_path / f"t.{suffix}"
    path.write_text("old")

    def tables():
        yield pd.DataFrame({"a": [1]})
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        exporting.write_tables(tables(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "words"), [("t.xlsx", "must end in"), ("no/t.csv", "does not")])
def test_bad_paths_are_refused(name, words, store, tmp_path):
    with pytest.raises(InputError, match=words):
        export_store(store, tmp_path / name)
