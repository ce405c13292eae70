"""Leaderboards: sorted, one file per threat model, the largest run of each evaluation."""

import pandas as pd
import pytest
from oracles.records import record

from robustbench_dyn.errors import InputError
from robustbench_dyn.models.architectures import split_name
from robustbench_dyn.models.loading import discover
from robustbench_dyn.reporting.leaderboard import (
    format_eps,
    leaderboard,
    merge_leaderboards,
    published,
    read_leaderboards,
    to_markdown,
    write_leaderboards,
)
from robustbench_dyn.resources import shipped
from robustbench_dyn.results.store import Run, Store, Violation
from robustbench_dyn.results.summary import SUMMARY_COLUMNS

DEFAULTS = dict.fromkeys(SUMMARY_COLUMNS) | {
    "dataset": "digits",
    "clean_accuracy": 0.9,
    "ci_low": 0.4,
    "ci_high": 0.7,
    "certifiers": "lipschitz",
    "attacks": "pgd",
    "forward_passes": 0,
    "backward_passes": 0,
    "seconds": 12.3,
}


def run(
    model,
    *,
    eps=0.5,
    norm="L2",
    n_examples=100,
    certified=0.5,
    empirical=0.6,
    key=None,
    **columns,
):
    row = DEFAULTS | {
        "model": model,
        "norm": norm,
        "eps": eps,
        "n_examples": n_examples,
        "certified_accuracy": certified,
        "empirical_accuracy": empirical,
        "gap": empirical - certified,
        **columns,
    }
    return Run(key or f"{model}-{norm}", eps, 0, n_examples, row)


def store_of(*runs):
    store = Store()
    for entry in runs:
        store.add_evaluation(entry.key, record())
        store.add_run(entry)
    return store


def test_rows_are_sorted_by_certified_then_empirical_accuracy():
    runs = (
        run("a", certified=0.1),
        run("b", certified=0.5, empirical=0.7),
        run("d", certified=0.5, empirical=0.6),
        run("c", certified=0.5, empirical=0.6),
    )
    table = leaderboard(store_of(*runs))
    assert table["model"].tolist() == ["b", "c", "d", "a"]
    assert list(table.columns) == list(SUMMARY_COLUMNS)


def test_the_largest_run_of_an_evaluation_counts():
    table = leaderboard(store_of(run("a", n_examples=100), run("a", n_examples=24)))
    assert table["n_examples"].tolist() == [100]


def test_a_refuted_evaluation_has_no_row():
    store = store_of(run("sound"), run("unsound"))
    assert len(leaderboard(store)) == 2
    store.add_violation("unsound-L2", 0.5, Violation(0, 0.7, 0.4, "pgd", "", b""))
    assert leaderboard(store)["model"].tolist() == ["sound"]


def test_each_threat_model_has_a_csv_and_all_share_a_page(tmp_path):
    runs = [run("a"), run("a", eps=1.0), run("b"), run("a", norm="Linf", eps=8 / 255)]
    written = write_leaderboards(leaderboard(store_of(*runs)), tmp_path)
    assert [path.name for path in written] == [
        "digits-L2-0.5.csv",
        "digits-L2-1.csv",
        "digits-Linf-8_255.csv",
        "README.md",
    ]
    assert pd.read_csv(written[0])["model"].tolist() == ["a", "b"]
    page = written[-1].read_text()
    assert "## digits, Linf, eps 8/255" in page
    assert (
        "| a | 100 | 90.0 | 50.0 | 60.0 | 10.0 | 40.0 | 70.0 | lipschitz | pgd | 0 | 0 | 0.123 |"
        in page
    )


def test_the_same_store_gives_the_same_bytes(tmp_path):
    table = leaderboard(store_of(run("a"), run("b")))
    other = leaderboard(store_of(run("b"), run("a")))
    first = write_leaderboards(table, tmp_path / "1")
    second = write_leaderboards(other, tmp_path / "2")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_row_without_attacks_shows_a_dash():
    table = leaderboard(store_of(run("a", empirical=float("nan"))))
    assert "| 50.0 | – | – |" in to_markdown(table)


def test_an_empty_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        write_leaderboards(leaderboard(Store()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_mean_costs_per_example():
    table = leaderboard(store_of(run("a", n_examples=4, forward_passes=8_000, seconds=6.0)))
    heading, _, only = to_markdown(table).splitlines()[-3:]
    cells = dict(zip(heading.split("|"), only.split("|"), strict=True))
    assert (cells[" forward_passes "], cells[" seconds "]) == (" 2,000 ", " 1.5 ")


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (2 / 255, "2/255"), (0.5, "0.5"), (1.0, "1"), (0.3, "0.3")],
)
def test_eps_is_written_in_the_usual_form(eps, text):
    assert format_eps(eps) == text


def test_published_rows_belong_to_the_shipped_weights():
    table = published()
    registry = discover()
    for row in table.to_dict("records"):
        # NAME, NAME/VARIANT or NAME/VARIANT~SIGMA
        name, _ = split_name(row["model"].split("~")[0])
        hashes = {weights.sha256 for weights in registry.get(name).card.weights}
        assert row["weights_sha256"] in hashes, row["model"]
    page = (shipped("leaderboards") / "README.md").read_text()
    assert page == to_markdown(table)


def test_tables_survive_a_round_trip(tmp_path):
    table = leaderboard(store_of(run("a", certified=1 / 3), run("b", norm="Linf", eps=8 / 255)))
    written = {path: path.read_bytes() for path in write_leaderboards(table, tmp_path)}
    write_leaderboards(read_leaderboards(tmp_path), tmp_path)
    assert {path: path.read_bytes() for path in written} == written
    assert read_leaderboards(tmp_path / "nowhere").empty


def test_new_rows_replace_those_of_the_same_evaluation():
    runs = run("a", certified=0.1, key="1"), run("a", eps=0.1, certified=0.4, key="1"), run("b")
    before, new = leaderboard(store_of(*runs)), store_of(run("a", certified=0.2), run("c"))
    after = merge_leaderboards(leaderboard(new), into=before)
    rows = after[["model", "eps", "certified_accuracy"]].itertuples(index=False, name=None)
    assert sorted(rows) == [("a", 0.1, 0.4), ("a", 0.5, 0.2), ("b", 0.5, 0.5), ("c", 0.5, 0.5)]


def test_other_csv_files_are_refused(tmp_path):
    (tmp_path / "notes.csv").write_text("model,colour\na,red\n")
    with pytest.raises(InputError, match=r"notes.csv is no leaderboard, it lacks the column"):
        read_leaderboards(tmp_path)
