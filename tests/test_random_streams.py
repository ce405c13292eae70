"""Random streams: their distributions, and that a row's draws depend on the row alone."""

import numpy as np
import torch
from scipy import stats

from robustbench_dyn.random_streams import Streams


def test_draws_follow_their_distributions():
    streams = Streams(torch.arange(50))
    assert stats.kstest(streams.uniform(0, 400).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(streams.normal(1, 400).flatten().numpy(), "norm").pvalue > 1e-3
    signs = streams.signs(2, 400).flatten()
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert stats.binomtest(int((signs > 0).sum()), len(signs)).pvalue > 1e-3
    whole = torch.cat([streams.integers(k, 7) for k in range(400)])
    assert stats.chisquare(torch.bincount(whole, minlength=7).numpy()).pvalue > 1e-3


def test_the_test_of_distributions_can_fail():
    draws = Streams(torch.arange(50)).uniform(0, 400).flatten().numpy()
    assert stats.kstest(draws**1.1, "uniform").pvalue < 1e-3


def test_draws_of_other_rows_counters_and_ids_are_independent():
    streams = Streams(torch.arange(2))
    first = streams.uniform(0, 20_000)
    other_purpose = streams.substream(1).uniform(0, 20_000)
    for other in (first.flip(0), streams.uniform(1, 20_000), other_purpose):
        correlation = np.corrcoef(first.flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(correlation) < 4 / 40_000**0.5


def test_a_draw_depends_on_its_own_row_alone():
    x, y = torch.rand(4, 1, 3, 3), torch.arange(4)
    together = Streams.of(x, y, 7).normal(5, 2, 3)
    alone = torch.cat([Streams.of(x[k : k + 1], y[k : k + 1], 7).normal(5, 2, 3) for k in range(4)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, Streams.of(x, y, 8).normal(5, 2, 3))
    assert not torch.equal(together, Streams.of(x, y.flip(0), 7).normal(5, 2, 3))


def test_draws_are_those_of_splitmix64():
    """Published rows rest on these numbers: the formula again, in numpy's unsigned integers."""
    keys, counter, entries = [5, -7], 3, 4

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    start = np.array(keys, dtype=np.int64).astype(np.uint64)[:, None]
    index = np.uint64(counter * 2**32) + np.arange(entries, dtype=np.uint64)
    states = start + index * np.uint64(0x9E3779B97F4A7C15)
    expected = (mix(states) & np.uint64(2**24 - 1)) / 2**24
    drawn = Streams(torch.tensor(keys)).uniform(counter, entries)
    assert np.array_equal(drawn.numpy(), expected.astype(np.float32))


def test_draws_of_many_entries_are_those_of_each_row():
    streams, rows = Streams(torch.arange(300)), torch.arange(300)
    for draw in (Streams.uniform, Streams.signs, Streams.normal):
        together = draw(streams, rows, 3, 30, 30)
        alone = [draw(streams.select(rows[k : k + 1]), k, 3, 30, 30) for k in range(300)]
        assert torch.equal(together, torch.cat(alone))
