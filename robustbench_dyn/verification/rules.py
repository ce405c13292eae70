"""Rules by which a replay assesses: tolerances, and tests of what varies from run to run.

A replay runs on another machine, with other seeds. What is exact there is assessed exactly; what
depends on rounding, within a tolerance; what depends on chance, by a test whose level is so small
that an honest row is hardly ever refused.
"""

from __future__ import annotations

from scipy.special import bdtr, bdtrc

from robustbench_dyn.reporting.statistics import fewest_holding

# Logits of one model on two devices differ by their rounding, relative to the largest logit of the
# input: by 256 units in the last place of float32, 3e-5, in the same process (models.determinism);
# by less than 1e-4 between a CPU and a GPU in full precision, as rows of both were replayed.
ROUNDING = 1e-4
# Distances are computed in float64; sums in another order differ in the last digits.
DISTANCE = 1e-9
# Radii of the same proof differ by the rounding of logits and of what the proof subtracts for it.
RADIUS = 1e-3
# A ball at the edge of what a certifier proves: proved within this factor, it is proved.
EDGE = 1e-4
# The share of undecided examples that fall, and of broken ones that stand, when a suite is run
# again with another seed. The suites of this package vary by 0 to 2 %; weak attacks by more.
VARIATION = 0.05
# The share of certificates that an exhaustive search, which ends by the clock, or a vote on noise
# near its threshold does not repeat.
UNREPEATED = 0.3
# An honest row is refused by one test with at most this probability.
LEVEL = 0.001
CONFIDENCE = 0.99


def p_value(failed: int, tried: int, *, rate: float) -> float:
    """Return P(X >= failed), X binomial of `tried` trials that each fail with probability rate."""
    return float(bdtrc(failed - 1, tried, rate)) if failed > 0 else 1.0


def is_chance(failed: int, tried: int, *, rate: float = VARIATION) -> bool:
    """Say whether so many failures may be the variation of runs: the exact test at LEVEL."""
    return p_value(failed, tried, rate=rate) >= LEVEL


def differs_one_sidedly(fell: int, stood: int) -> bool:
    """Say whether more undecided examples fell than broken ones stood, or fewer, beyond chance.

    Where an honest row was made with another seed, it and the replay are two draws of the same
    attack: an example that differs is as likely of one kind as of the other. The exact sign test,
    two-sided at LEVEL, whatever the attack's variation.
    """
    n = fell + stood
    return n > 0 and min(1.0, 2 * float(bdtr(min(fell, stood), n, 0.5))) < LEVEL


def how_many_hold(what: str, *, sample: int, held: int, population: int) -> str:
    """Say how many of a population hold for sure, given those of a random sample that do.

    what: the noun, in the plural. The bound is the exact hypergeometric one.
    """
    told = f"{sample} of {population} {what} checked, "
    told += "all hold" if held == sample else f"{held} hold"
    if sample == population:
        return told
    least = fewest_holding(sample, held, population, confidence=CONFIDENCE)
    return (
        f"{told}: with {100 * CONFIDENCE:g} % confidence at least {least} of {population} hold "
        "(hypergeometric)"
    )
