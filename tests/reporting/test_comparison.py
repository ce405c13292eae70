"""Two models on the same examples: counts, exact tests, Holm's correction, and what is refused."""

import pytest
from oracles.entries import entry

from robustbench_dyn.errors import InputError
from robustbench_dyn.reporting.comparison import compare
from robustbench_dyn.reporting.comparison_output import document, told
from robustbench_dyn.reporting.statistics import holm, mcnemar
from robustbench_dyn.results.verdicts import Status

A = "cccccccuubbm" * 10
B = "cccbbbbuubum" * 10


def text(*arguments, **options):
    return "\n".join(part for part in told(*arguments, **options) if isinstance(part, str))


def differences(*entries, **chosen):
    (comparison,) = compare(entries, "a", "b", **chosen)
    return {difference.column: difference for difference in comparison.differences}


def test_counts_and_examples_are_those_of_each_example():
    (comparison,) = compare([entry("a", A), entry("b", B)], "a", "b")
    assert comparison.n == comparison.n_first == comparison.n_second == 120
    assert sum(comparison.counts.values()) == 120
    assert comparison.counts[Status.CERTIFIED, Status.BROKEN] == 40
    assert comparison.counts[Status.BROKEN, Status.UNDECIDED] == 10
    found = {difference.column: difference for difference in comparison.differences}
    certified = found["certified_accuracy"]
    assert certified.only_first == tuple(i for i in range(120) if A[i] == "c" != B[i])
    assert certified.only_second == ()
    assert certified.first.fraction == pytest.approx(70 / 120)
    assert certified.p_value == mcnemar(40, 0)
    empirical = found["empirical_accuracy"]
    assert (len(empirical.only_first), len(empirical.only_second)) == (40, 10)
    assert found["clean_accuracy"].p_value == 1
    assert certified.separated
    assert not found["clean_accuracy"].separated


def test_shares_and_intervals_are_those_of_the_row():
    one = entry("a", A)
    certified = differences(one, entry("b", B))["certified_accuracy"]
    assert certified.first.fraction == one.row["certified_accuracy"]
    assert certified.first.low == one.row["ci_low"]


def test_only_shared_images_are_compared():
    entries = [entry("a", A), entry("b", B[20:60] + "c" * 300, first=20)]
    (comparison,) = compare(entries, "a", "b")
    assert (comparison.n, comparison.n_first, comparison.n_second) == (100, 120, 340)
    ids = {i for d in comparison.differences for i in (*d.only_first, *d.only_second)}
    assert min(ids) >= 20
    assert max(ids) < 120
    assert "100 images that both have" in text("a", "b", [comparison])


def test_ranges_of_one_model_are_taken_together():
    parts = [entry("a", A[:70]), entry("a", A[70:], first=70)]
    (whole,) = compare([entry("a", A), entry("b", B)], "a", "b")
    assert compare([*parts, entry("b", B)], "a", "b") == [whole]


def test_holm_covers_all_comparisons_together():
    entries = [entry(name, s, eps=eps) for eps in (0.5, 1.0) for name, s in (("a", A), ("b", B))]
    found = [d for comparison in compare(entries, "a", "b") for d in comparison.differences]
    assert len(found) == 6
    assert [d.adjusted for d in found] == holm([d.p_value for d in found])
    # Negative control: 6 of 6 differences alone would be enough, p = 0.031.
    few = [entry("a", "c" * 100), entry("b", "b" * 6 + "c" * 94)]
    (certified, empirical) = (
        differences(*few)[f"{kind}_accuracy"] for kind in ("certified", "empirical")
    )
    assert certified.p_value < 0.05 < certified.adjusted
    assert not certified.separated
    assert not empirical.separated


def test_an_example_is_certified_where_all_seeds_certify_it():
    seeds = [entry("a", "ccub", seed=0), entry("a", "cucb", seed=1)]
    found = differences(*seeds, entry("b", "bbbb"))
    assert found["certified_accuracy"].only_first == (0,)
    assert found["empirical_accuracy"].only_first == (0, 1, 2)


def test_certificates_of_what_is_no_function_do_not_count():
    found = differences(entry("a", A, flags=["random_outputs"]), entry("b", B))
    assert found["certified_accuracy"].first.fraction == 0
    assert found["certified_accuracy"].only_second


def test_a_model_without_attacks_has_no_empirical_comparison():
    found = differences(entry("a", "ccuu", attacks=()), entry("b", "cbbb"))
    assert set(found) == {"clean_accuracy", "certified_accuracy"}


@pytest.mark.parametrize(
    ("chosen", "eps"),
    [({}, [0.5, 8 / 255]), ({"eps": 0.5}, [0.5]), ({"norm": "Linf"}, [8 / 255])],
)
def test_threat_models_can_be_chosen(chosen, eps):
    entries = [
        entry(name, "cb", eps=eps, norm=norm)
        for name in "ab"
        for norm, eps in (("L2", 0.5), ("Linf", 8 / 255))
    ]
    entries.append(entry("a", "cb", eps=2.0))
    assert [comparison.eps for comparison in compare(entries, "a", "b", **chosen)] == eps


OTHER_WEIGHTS = "3" * 64


def test_a_model_has_other_weights_on_other_data_sets():
    entries = [
        entry(name, "cb", dataset=dataset, weights_sha256=weights)
        for dataset, weights in (("colour", OTHER_WEIGHTS), ("grey", "1" * 64))
        for name in ("a", "b")
    ]
    entries[-1] = entry("b", "cb", dataset="grey", weights_sha256="4" * 64)
    assert [one.dataset for one in compare(entries, "a", "b")] == ["colour", "grey"]
    # Two weights of the colour images are no obstacle on the others.
    entries.append(entry("a", "cb", dataset="colour", weights_sha256="5" * 64))
    assert [one.dataset for one in compare(entries, "a", "b", dataset="grey")] == ["grey"]
    with pytest.raises(InputError, match="2 weights on colour"):
        compare(entries, "a", "b")


@pytest.mark.parametrize(
    ("first", "second", "chosen", "message"),
    [
        ("lipflw", "b", {}, "no model is called 'lipflw'; did you mean 'lipflow'"),
        ("lipflow", "lipflow", {}, "one model"),
        ("lipflow", "lipflow@1111", {}, "one model"),
        ("two", "b", {}, "2 weights on digits; give one of them: two@11111111 or two@33333333"),
        ("lipflow", "b", {"eps": 0.7}, "no threat model in common"),
        ("lipflow", "elsewhere", {}, "no threat model in common"),
        ("lipflow", "other_data", {}, "of different data"),
        ("lipflow", "unproved", {}, "no evidence of unproved"),
        ("lipflow", "later", {}, "share no example"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, chosen, message):
    entries = [
        entry("lipflow", "cb"),
        entry("b", "cb"),
        entry("two", "cb"),
        entry("two", "cb", weights_sha256=OTHER_WEIGHTS),
        entry("elsewhere", "cb", norm="Linf", eps=0.5),
        entry("other_data", "cb", data_sha256="4" * 64),
        entry("unproved", "cb")._replace(evidence=None),
        entry("later", "cb", first=2),
    ]
    assert compare(entries, "lipflow", "b")
    assert compare(entries, "two@3", "b")
    with pytest.raises(InputError, match=message):
        compare(entries, first, second, **chosen)


def test_the_text_fits_80_columns_and_names_the_examples():
    statuses = ["c" * 10_000, "".join("b" if k % 3 else "c" for k in range(10_000))]
    name = "n" * 99
    found = compare([entry(name, statuses[0]), entry("b", statuses[1])], name, "b")
    few, all_of_them = (text(name, "b", found, all_examples=every) for every in (False, True))
    assert "Only A certifies 6666 examples: 1, 2, 4, 5, 7, 8, 10, 11, 13, 14 and 6656 more" in few
    assert "9998" in all_of_them
    assert "9998" not in few


def test_the_text_says_how_sure_one_can_be():
    sure = text("a", "b", compare([entry("a", A), entry("b", B)], "a", "b"))
    assert "certified %: A is better" in sure
    assert "clean %: these 120 images do not tell A and B apart" in sure
    turned = text("b", "a", compare([entry("a", A), entry("b", B)], "b", "a"))
    assert "certified %: B is better" in turned


def test_the_tables_count_the_verdicts_and_the_differences():
    found = compare([entry("a", A), entry("b", B)], "a", "b")
    verdicts, accuracies = (part for part in told("a", "b", found) if not isinstance(part, str))
    assert sum(int(cell) for row in verdicts.rows for cell in row[1:]) == 120
    assert {"B error", "B misclassified"} == set(verdicts.dispensable)
    assert [row[4] for row in accuracies.rows] == [
        str(len(d.only_first)) for d in found[0].differences
    ]


def test_the_document_has_all_examples():
    found = compare([entry("a", A), entry("b", B)], "a", "b")
    (one,) = document("a", "b", found)["comparisons"]
    assert one["verdicts"]["certified"]["broken"] == 40
    assert one["differences"][1]["only_first"] == list(found[0].differences[1].only_first)
    assert one["differences"][1]["column"] == "certified_accuracy"
