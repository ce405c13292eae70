"""The rules by which searches are given up: far from a proof, or after many in vain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

# A search is hopeless where a bound of the ball lacks so many times the margin, and there are many
# neurons: so many in the network before its search begins, or so many unstable ones in the ball.
_REACH, _LARGE, _MANY_UNSTABLE = 20.0, 2000, 60
# After so many searches in a row that decided nothing, later ones end after few subdomains; after
# twice as many, nothing is searched.
_PATIENCE, _FEW_SUBDOMAINS = 8, 64


def hopeless(lacking: Tensor, margins: Tensor, *, n_neurons: int = 0, n_unstable: int = 0) -> bool:
    """Say whether a search for some margins would prove nothing.

    lacking: (n,), by how much their bounds over the ball fall short of a proof; margins: (n,), at
    its centre. n_neurons: of the network that is yet to be searched; n_unstable: neurons without a
    sign over the ball, once its bounds are optimised.
    """
    many = n_neurons > _LARGE or n_unstable > _MANY_UNSTABLE
    # Written so that NaN is hopeless.
    return many and not bool((lacking <= _REACH * margins.clamp_min(0)).all())


@dataclass
class Spent:
    """What the searches over balls of one eps took so far.

    seconds: all together. in_vain: how many of the last ones in a row decided nothing.
    """

    seconds: float = 0.0
    in_vain: int = 0

    def most_subdomains(self, decided: Sequence[bool | None]) -> list[float]:
        """Return how many subdomains each of the next searches may bound, in their order.

        decided: whether each did so; None for those that go on, which count as if they did not.
        Thus none of several searches at a time goes further than it may after those before it.
        """
        in_vain, most = self.in_vain, list[float]()
        for answer in decided:
            few = _FEW_SUBDOMAINS if in_vain < 2 * _PATIENCE else 0
            most.append(math.inf if in_vain < _PATIENCE else few)
            in_vain = 0 if answer else in_vain + 1
        return most

    def is_over(self, seconds: float) -> bool:
        """Say whether nothing is searched any more; seconds: that all searches may take."""
        return self.seconds >= seconds or self.in_vain >= 2 * _PATIENCE

    def count(self, *, seconds: float, decided: bool) -> None:
        """Count a search."""
        self.seconds += seconds
        self.in_vain = 0 if decided else self.in_vain + 1
