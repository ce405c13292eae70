"""The limits of the process that foreign code runs in."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from robustbench_dyn.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of what foreign code may take.

    memory_gib: beyond what Python and torch take themselves. seconds_per_call: wall clock of one
    pass, or of a proof of one example. open_files: descriptors.
    Raises InputError for a limit that is no positive number.
    """

    memory_gib: float = 8.0
    seconds_per_call: float = 60.0
    open_files: int = 256

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value < 1e9 or (name == "open_files" and value < 32):
                raise InputError(
                    f"the limit {name}={value!r} makes no sense; give a positive number"
                    + (", at least 32" if name == "open_files" else "")
                )
