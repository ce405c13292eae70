"""Random numbers that stay the same for ever: numpy promises PCG64's raw stream, and no more.

The methods of numpy.random.Generator may change from one numpy to the next (NEP 19), and a data
set's checksum must not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def permute(n: int, *, seed: int) -> NDArray[np.intp]:
    """Permute 0, ..., n - 1 by sorting n random keys."""
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def draw_uniform(n_rows: int, n_columns: int, *, seed: int) -> NDArray[np.float64]:
    """Draw an (n_rows, n_columns) array, uniform on [0, 1)."""
    raw = np.random.PCG64(seed).random_raw(n_rows * n_columns)
    # The upper 53 bits fill a double's significand.
    significands = (raw >> np.uint64(11)).astype(np.float64)
    return (significands * 2.0**-53).reshape(n_rows, n_columns)
