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
