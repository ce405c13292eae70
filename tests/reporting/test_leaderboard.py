"""Leaderboards: sorted, one file per threat model, the largest run of each evaluation."""

import pandas as pd
import pytest
from oracles.entries import entry
from oracles.evidence import add_to, evidence

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.architectures import split_name
from robustbench_dyn.models.loading import discover
from robustbench_dyn.reporting.leaderboard import (
    leaderboard,
    placed,
    published,
    read_leaderboards,
)
from robustbench_dyn.reporting.markdown import to_markdown
from robustbench_dyn.reporting.properties import Findings, Measured
from robustbench_dyn.reporting.published import (
    entries_of,
    no_row,
    read_folder,
    shipped_entries,
)
from robustbench_dyn.reporting.publishing import publish
from robustbench_dyn.reporting.reported import read_reported
from robustbench_dyn.reporting.rows import PUBLISHED_COLUMNS
from robustbench_dyn.resources import shipped
from robustbench_dyn.results.store import Store, Violation


def of(model, statuses="c" * 50 + "u" * 10 + "b" * 30 + "m" * 10, **facts):
    return evidence(model, statuses, **facts)


def store_of(*all_evidence):
    return add_to(Store(), *all_evidence)


def write(store, folder):
    return publish(entries_of(store), folder).paths


def test_rows_are_sorted_by_certified_then_empirical_accuracy():
    runs = (
        of("a", "cuub"),
        of("b", "ccub"),
        of("d", "ccbb"),
        of("c", "ccbb"),
    )
    table = leaderboard(store_of(*runs))
    assert table["model"].tolist() == ["b", "c", "d", "a"]
    assert list(table.columns) == list(PUBLISHED_COLUMNS)


def test_rows_of_more_images_come_first_and_open_flags_last():
    runs = (of("few", "cc"), of("many", "ccubb"), of("open", "ccccc", training_record=""))
    table = leaderboard(store_of(*runs))
    assert table["model"].tolist() == ["many", "few", "open"]
    assert table["open_flags"].tolist() == ["", "", "no_training_record"]


def test_ranks_are_those_of_rows_without_open_flags():
    statuses = {"good": "c" * 90 + "b" * 10, "poor": "c" * 10 + "b" * 90}
    entries = [entry(model, of_one) for model, of_one in statuses.items()]
    entries.append(entry("open", "c" * 100, training_record=""))
    claims = [("open", "1" * 64), ("elsewhere", "9" * 64)]
    findings = Findings([measured(model, weights) for model, weights in claims])
    ranks = {one.row["model"]: one.row["certified_rank"] for one in placed(entries)}
    assert ranks == {"good": 1, "poor": 2, "open": None}
    # Weights of a hash that failed keep each of their rows apart.
    assert {one.row["certified_rank"] for one in placed(entries, findings)} == {None}
    assert placed(entries, Findings([measured("elsewhere", "9" * 64)])) == placed(entries)


def measured(model, weights_sha256):
    return Measured(model, "digits", "c", "", "data", 1.0, 0.5, False, "", weights_sha256, 1)


def test_the_largest_run_of_an_evaluation_counts():
    large = of("a", "ccub" * 25)
    part = of("a", "ccub" * 6)
    table = leaderboard(store_of(large, part))
    assert table["n_examples"].tolist() == [100]


def test_a_refuted_evaluation_has_no_row():
    sound, unsound = of("sound"), of("unsound")
    store = store_of(sound, unsound)
    assert len(leaderboard(store)) == 2
    key = unsound.record.spec.key()
    store.add_violation(key, 0.5, Violation(0, 0.7, 0.4, "pgd", "", b""))
    assert leaderboard(store)["model"].tolist() == ["sound"]


def test_each_threat_model_has_a_csv_and_all_share_a_page(tmp_path):
    runs = [of("a"), of("a", eps=1.0), of("b"), of("a", norm="Linf", eps=8 / 255)]
    written = write(store_of(*runs), tmp_path)
    assert [path.name for path in written] == [
        "digits-L2-0.5.csv",
        "digits-L2-0.5.parquet",
        "digits-L2-1.csv",
        "digits-L2-1.parquet",
        "digits-Linf-8_255.csv",
        "digits-Linf-8_255.parquet",
        "README.md",
    ]
    assert pd.read_csv(written[0])["model"].tolist() == ["a", "b"]
    page = written[-1].read_text()
    assert "## digits, Linf, eps 8/255" in page
    heading, _, row = page[page.index("8/255") :].splitlines()[2:5]
    cells = dict(zip(heading.split("|"), row.split("|"), strict=True))
    cells = {name.strip(): cell.strip() for name, cell in cells.items()}
    numbers = ("certified %", "empirical %", "clean %", "gap")
    assert [cells[name] for name in numbers] == ["50.0", "60.0", "90.0", "10.0"]
    assert cells["seconds / example"] == "0.125"


def test_the_same_store_gives_the_same_bytes(tmp_path):
    first = write(store_of(of("a"), of("b")), tmp_path / "1")
    second = write(store_of(of("b"), of("a")), tmp_path / "2")
    assert len(first) == 3
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_row_without_attacks_shows_a_dash():
    (only,) = placed(entries_of(store_of(of("a", "cu" * 10, attacks=(), suite="none"))))
    assert only.row["empirical_accuracy"] is None
    assert "| 50.0 | – | 100.0 | – |" in to_markdown([only])


def test_an_empty_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        write(Store(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_published_rows_belong_to_the_shipped_weights():
    entries = shipped_entries(with_evidence=no_row)
    registry = discover()
    for row in published().to_dict("records"):
        # NAME, NAME/VARIANT or NAME/VARIANT~SIGMA
        name, _ = split_name(row["model"].split("~")[0])
        hashes = {weights.sha256 for weights in registry.get(name).card.weights}
        assert row["weights_sha256"] in hashes, row["model"]
    page = (shipped("leaderboards") / "README.md").read_text()
    assert page == to_markdown(entries, read_reported(shipped("leaderboards")))


def test_tables_survive_a_round_trip(tmp_path):
    store = store_of(of("a", "cbu"), of("b", norm="Linf", eps=8 / 255))
    written = {path: path.read_bytes() for path in write(store, tmp_path)}
    publish(read_folder(tmp_path), tmp_path)
    assert {path: path.read_bytes() for path in written} == written
    assert read_leaderboards(tmp_path)["certified_accuracy"].tolist() == [1 / 3, 0.5]
    assert read_leaderboards(tmp_path / "nowhere").empty


def test_other_csv_files_are_refused(tmp_path):
    (tmp_path / "notes.csv").write_text("model,colour\na,red\n")
    with pytest.raises(InputError, match=r"notes.csv is no leaderboard, it lacks the column"):
        read_leaderboards(tmp_path)
