"""Ranks: tied groups of models that the images cannot tell apart, and what a tie does not mean."""

import time
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.entries import entry

from robustbench_dyn.reporting.ranking import ranked, ranks, separated, tied
from robustbench_dyn.reporting.rows import images
from robustbench_dyn.reporting.statistics import holm, mcnemar


def letters(n_certified, n=1000, *, lowest=0, rest="b"):
    """Return statuses of n examples, n_certified of which are certified from `lowest` on."""
    return "".join("c" if lowest <= k < lowest + n_certified else rest for k in range(n))


def ranks_of(entries, column="certified_rank"):
    return [one.row[column] for one in ranked(entries)]


def test_models_far_apart_have_ranks_of_their_own():
    entries = [entry("a", letters(700)), entry("b", letters(900)), entry("c", letters(800))]
    assert ranks_of(entries) == [3, 1, 2]
    assert ranks_of(entries, "empirical_rank") == [3, 1, 2]


def test_models_that_cannot_be_told_apart_share_a_rank():
    near = [entry(name, letters(900 - k, lowest=k)) for k, name in enumerate("abc")]
    assert ranks_of([*near, entry("d", letters(500))]) == [1, 1, 1, 4]


def test_holm_decides_and_not_the_single_p_value():
    # 20 models that certify the same 900 examples, and one that lacks 6 of them: p = 0.031.
    alike = [entry(f"m{k}", letters(900)) for k in range(20)]
    lacking = entry("z", letters(894))
    assert mcnemar(6, 0) == pytest.approx(0.03125)
    assert ranks_of([*alike, lacking]) == [1] * 21
    # Alone with one other, no correction keeps them together.
    assert ranks_of([alike[0], lacking]) == [1, 2]


def test_inseparable_is_not_transitive():
    a = letters(800)
    b = letters(790, lowest=100)
    c = letters(780, lowest=100)
    apart = separated([np.array([s == "c" for s in one]) for one in (a, b, c)])
    assert apart.tolist() == [[False, False, False], [False, False, True], [False, True, False]]
    assert ranks_of([entry("a", a), entry("b", b), entry("c", c)]) == [1, 1, 3]


models = st.lists(st.lists(st.booleans(), min_size=40, max_size=40), min_size=1, max_size=7)


@given(models, st.randoms())
def test_no_two_models_of_a_group_are_separated(held, random):
    # Differences of so few examples are seldom enough: repeat them.
    held = [np.repeat(np.array(one), random.choice([1, 8])) for one in held]
    length = max(map(len, held))
    held = [np.resize(one, length) for one in held]
    found, apart = ranks(held), separated(held)
    counts = [one.sum() for one in held]
    pairs = list(combinations(range(len(held)), 2))
    p_values = [
        mcnemar(int((held[i] & ~held[j]).sum()), int((held[j] & ~held[i]).sum())) for i, j in pairs
    ]
    for (i, j), p in zip(pairs, holm(p_values), strict=True):
        assert apart[i, j] == (p <= 0.05)
        assert not (found[i] == found[j] and apart[i, j])
        assert found[i] == found[j] or (found[i] < found[j]) == (counts[i] > counts[j])
    for rank in found:
        above = [j for j in range(len(held)) if found[j] < rank]
        assert rank == 1 + len(above)
        if above:
            last = max(found[j] for j in above)
            group = [j for j in above if found[j] == last]
            members = [j for j in range(len(held)) if found[j] == rank]
            begins = [j for j in members if counts[j] == max(counts[k] for k in members)]
            assert any(apart[j, k] for j in begins for k in group)
    order = list(range(len(held)))
    random.shuffle(order)
    assert ranks([held[i] for i in order]) == [found[i] for i in order]


def test_ranks_depend_on_neither_order_nor_names():
    statuses = [letters(800), letters(790, lowest=100), letters(780, lowest=100), letters(790)]
    made = [entry(name, s) for name, s in zip("abcd", statuses, strict=True)]
    expected = ranks_of(made)
    for names in permutations("abcd"):
        entries = [
            one._replace(row=one.row | {"model": name})
            for name, one in zip(names, made, strict=True)
        ]
        assert ranks_of(entries) == expected
        assert ranks_of(entries[::-1]) == expected[::-1]


def test_a_model_with_several_seeds_counts_once():
    seeds = [entry("a", letters(900, lowest=k), seed=k) for k in (0, 50)]
    # In both seeds, 850 examples are certified.
    others = [entry("b", letters(870)), entry("c", letters(300))]
    assert ranks_of([*seeds, *others]) == [2, 2, 1, 3]
    assert ranks_of([seeds[0], *others]) == [1, 2, 3]


@pytest.mark.parametrize("left_out", ["flag", "evidence", "sibling"])
def test_what_cannot_be_believed_has_no_rank(left_out):
    believed = entry("b", letters(500))
    doubtful = entry("a", letters(900), columns={"open_flags": "random_outputs"})
    if left_out == "evidence":
        doubtful = entry("a", letters(900))._replace(evidence=None)
    if left_out == "sibling":
        doubtful = doubtful._replace(row=doubtful.row | {"seed": 1})
        assert ranks_of([entry("a", letters(900)), doubtful, believed]) == [None, None, 1]
    assert ranks_of([doubtful, believed]) == [None, 1]


def test_ranks_in_the_row_are_replaced():
    stale = entry("a", letters(900), columns={"certified_rank": 7, "open_flags": "random_outputs"})
    assert ranks_of([stale]) == [None]


def test_rows_on_other_images_are_ranked_apart():
    entries = [
        entry("a", letters(900)),
        entry("b", letters(800)),
        entry("b", letters(900), first=1000),
        entry("c", letters(900), eps=1.0),
        entry("c", letters(900), data_sha256="d" * 64),
    ]
    assert ranks_of(entries) == [1, 2, 1, 1, 1]


def test_models_on_more_images_count_by_the_images_of_the_list():
    few = [entry("few", letters(90, 100)), entry("least", letters(20, 100))]
    # On the first 100 images, the first certifies 30 and the second all, which totals do not say.
    first, second = entry("first", letters(900, lowest=70)), entry("second", letters(800))
    assert ranks_of([*few, first, second]) == [2, 3, 1, 2]
    assert ranks_of([*few, first]) == [1, 2, 1]
    assert ranks_of([*few, second]) == [2, 3, 1]
    for column in ("certified_rank", "empirical_rank"):
        assert ranks_of([second, *few[::-1]], column) == [1, 3, 2]


def test_only_what_can_be_ranked_on_all_images_of_a_list_counts_in_it():
    few = entry("few", letters(50, 100))
    doubtful = entry("a", letters(900), columns={"open_flags": "random_outputs"})
    assert ranks_of([few, doubtful]) == [1, None]
    assert ranks_of([few, entry("a", letters(900), first=50)]) == [1, 1]
    assert ranks_of([few, entry("a", letters(900), eps=1.0)]) == [1, 1]
    unattacked = entry("a", letters(900, rest="u"), attacks=())
    assert ranks_of([few, unattacked]) == [2, 1]
    assert ranks_of([few, unattacked], "empirical_rank") == [1, None]


def test_a_model_on_several_sets_of_images_counts_once_in_each():
    sizes = [entry("a", letters(n, n)) for n in (100, 500, 1000)]
    few = entry("few", letters(50, 100))
    assert ranks_of([*sizes, few]) == [1, 1, 1, 2]
    assert ranks_of([*sizes[1:], few]) == [1, 1, 2]


def test_a_model_without_attacks_has_no_empirical_rank():
    unattacked = entry("a", letters(900, rest="u"), attacks=())
    attacked = entry("b", letters(800))
    assert ranks_of([unattacked, attacked]) == [1, 2]
    assert ranks_of([unattacked, attacked], "empirical_rank") == [None, 1]


def test_certificates_of_what_is_no_function_do_not_count():
    random = entry("a", letters(900), flags=["random_outputs"])
    assert random.row["certified_accuracy"] == 0
    assert ranks_of([random, entry("b", letters(100))]) == [2, 1]


def test_tied_names_the_shared_ranks():
    entries = ranked(
        [
            entry("a", letters(900)),
            entry("b", letters(900)),
            entry("c", letters(500), seed=0),
            entry("c", letters(500), seed=1),
        ]
    )
    assert tied(entries, "certified_rank") == {(images(entries[0].row), 1)}


@pytest.mark.parametrize("seed", range(3))
def test_simulated_models_of_known_robustness_are_told_apart(seed):
    generator = np.random.default_rng(seed)
    truth = [0.85, 0.85, 0.75, 0.65, 0.65]
    # Examples differ in difficulty, so that models agree on most of them, as trained models do.
    difficulty = generator.random(10_000)
    noise = [generator.normal(scale=0.02, size=10_000) for _ in truth]
    held = [difficulty + shift < share for share, shift in zip(truth, noise, strict=True)]
    assert ranks(held) == [1, 1, 3, 4, 4]


def test_26_models_on_10000_examples_are_ranked_quickly():
    generator = np.random.default_rng(0)
    statuses = generator.choice(list("cubm"), size=10_000, p=[0.6, 0.2, 0.1, 0.1])
    one = entry("m", "".join(statuses))
    entries = [one._replace(row=one.row | {"model": f"m{k}"}) for k in range(26)]
    started = time.process_time()
    ranked(entries)
    # Eight tables in 4 s at most; the processor's seconds, so that a busy machine is no fault.
    assert time.process_time() - started < 0.5
