"""The contract of data sets: what a DatasetInfo promises, each rule with a negative control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path

import numpy as np

from robustbench_dyn.datasets.dataset import DatasetInfo, RawSplit, Rows, Split
from robustbench_dyn.datasets.identity import fingerprint
from robustbench_dyn.datasets.toys import MOONS
from robustbench_dyn.errors import DataUnavailableError
from robustbench_dyn.plugins.contract import Finding, Outcome, Rule, check_contract

# Real data sets hold a few examples twice.
_MOST_SHARED = 0.01
# Images whose brightest value is below this were scaled to [0, 1] twice.
_LEAST_MAXIMUM = 1 / 16
# Examples that are read once more as a part.
_N_IN_PART = 3

Damage = Callable[[RawSplit], RawSplit]


@dataclass(frozen=True)
class Subject:
    """A data set, read once.

    data_dir: the folder to look in first.
    """

    info: DatasetInfo
    data_dir: Path | None = None

    @cached_property
    def splits(self) -> dict[Split, RawSplit]:
        """The splits that are here; raises DataUnavailableError where the test split is not."""
        found = dict[Split, RawSplit]()
        for split in self.info.sizes:
            try:
                found[split] = self.info.load_raw(split, self.data_dir)
            except DataUnavailableError:
                if split == "test":
                    raise
        return found


def check_dataset(info: DatasetInfo, *, data_dir: Path | None = None) -> Iterator[Finding]:
    """Yield a Finding for each rule of the contract, about the splits that are on this machine.

    Raises DataUnavailableError where the test split is not, and cannot be downloaded.
    """
    yield from check_contract(Subject(info, data_dir), rules())


def rules() -> list[Rule[Subject]]:
    """Return the rules; the broken counterparts are the moons, damaged."""

    def broken(**damages: Damage) -> list[tuple[str, Subject]]:
        return [
            (fault.replace("_", " "), Subject(_damaged(damage)))
            for fault, damage in damages.items()
        ]

    return [
        Rule(
            "each split has the promised shape and size",
            _has_shape,
            broken(
                lacks_an_example=lambda raw: raw._replace(x=raw.x[1:], y=raw.y[1:]),
                has_channels_last=lambda raw: raw._replace(x=np.moveaxis(raw.x, 1, -1)),
            ),
        ),
        Rule(
            "x is uint8 or float32, and finite",
            _has_type,
            broken(
                gives_float64=lambda raw: raw._replace(x=raw.x.astype(np.float64)),
                gives_NaN=lambda raw: raw._replace(x=raw.x * np.float32(np.nan)),
            ),
        ),
        Rule(
            "x / white lies in [0, 1] and is not scaled twice",
            _has_range,
            broken(
                has_values_to_255=lambda raw: raw._replace(x=raw.x * np.float32(255)),
                is_centred_at_0=lambda raw: raw._replace(x=raw.x - np.float32(0.5)),
                is_scaled_twice=lambda raw: raw._replace(x=raw.x / np.float32(255)),
            ),
        ),
        Rule(
            "labels are whole numbers from 0, and every class occurs",
            _has_labels,
            broken(
                counts_classes_from_1=lambda raw: raw._replace(y=raw.y + 1),
                lacks_a_class=lambda raw: raw._replace(y=raw.y * 0),
                gives_floats=lambda raw: raw._replace(y=raw.y * 1.0),  # type: ignore[arg-type]
            ),
        ),
        Rule(
            "a split is the same at each load",
            _repeats,
            broken(shuffles=partial(_shuffle, count())),
        ),
        Rule(
            "examples read in part are those of the whole",
            _reads_in_part,
            [
                ("reads the rows before", Subject(_in_part(lambda rows: _shifted(rows, -1)))),
                ("has a hash for each part", Subject(_in_part(lambda rows: rows, hashed=True))),
            ],
        ),
        Rule(
            "the test split is not in the training split",
            _is_disjoint,
            [("trains on the test split", Subject(_same_examples()))],
        ),
    ]


def _damaged(damage: Damage) -> DatasetInfo:
    return replace(MOONS, load_raw=lambda split, folder: damage(MOONS.load_raw(split, folder)))


def _same_examples() -> DatasetInfo:
    return replace(MOONS, load_raw=lambda _split, folder: MOONS.load_raw("test", folder))


def _in_part(shift: Callable[[range], range], *, hashed: bool = False) -> DatasetInfo:
    """Return the moons with a function that reads other rows, or hashes what it reads."""

    def load_rows(split: Split, rows: range, folder: Path | None) -> Rows:
        x, y, white = MOONS.load_raw(split, folder)
        kept = slice(shift(rows).start, shift(rows).stop)
        sha256 = fingerprint(x[kept], y[kept]) if hashed else fingerprint(x, y)
        return Rows(x[kept], y[kept], white, sha256)

    return replace(MOONS, load_rows=load_rows)


def _shifted(rows: range, by: int) -> range:
    return range(rows.start + by, rows.stop + by)


def _shuffle(seeds: Iterator[int], raw: RawSplit) -> RawSplit:
    order = np.random.default_rng(next(seeds)).permutation(len(raw.y))
    return raw._replace(x=raw.x[order], y=raw.y[order])


def _each(subject: Subject, problem: Callable[[RawSplit, Split], str]) -> Outcome:
    """Return whether no split has a problem, with what was found or which splits were read."""
    found = [
        f"{split}: {text}" for split, raw in subject.splits.items() if (text := problem(raw, split))
    ]
    return Outcome(not found, "; ".join(found) or f"read: {', '.join(subject.splits)}")


def _has_shape(subject: Subject) -> Outcome:
    def problem(raw: RawSplit, split: Split) -> str:
        n = subject.info.sizes[split]
        expected = (n, *subject.info.input_shape), (n,)
        found = raw.x.shape, raw.y.shape
        return "" if found == expected else f"x and y are {found}, not {expected}"

    return _each(subject, problem)


def _has_type(subject: Subject) -> Outcome:
    def problem(raw: RawSplit, _split: Split) -> str:
        if raw.x.dtype not in (np.uint8, np.float32):
            return f"x is {raw.x.dtype}"
        return "" if np.isfinite(raw.x).all() else "x is not finite"

    return _each(subject, problem)


def _has_range(subject: Subject) -> Outcome:
    def problem(raw: RawSplit, _split: Split) -> str:
        low, high = float(raw.x.min()) / raw.white, float(raw.x.max()) / raw.white
        # Written so that NaN fails it.
        if not (low >= 0 and high <= 1):
            return f"x / white goes from {low:g} to {high:g}"
        return "" if high >= _LEAST_MAXIMUM else f"the largest x / white is {high:g}"

    return _each(subject, problem)


def _has_labels(subject: Subject) -> Outcome:
    expected = list(range(subject.info.n_classes))

    def problem(raw: RawSplit, _split: Split) -> str:
        if not np.issubdtype(raw.y.dtype, np.integer):
            return f"labels are {raw.y.dtype}"
        found = np.unique(raw.y).tolist()
        return (
            "" if found == expected else f"the labels are {_short(found)}, not {_short(expected)}"
        )

    return _each(subject, problem)


def _short(labels: list[int]) -> str:
    return f"{labels[0]}, ..., {labels[-1]} ({len(labels)} of them)"


def _repeats(subject: Subject) -> Outcome:
    def problem(raw: RawSplit, split: Split) -> str:
        again = subject.info.load_raw(split, subject.data_dir)
        return (
            "" if fingerprint(raw.x, raw.y) == fingerprint(again.x, again.y) else "two loads differ"
        )

    return _each(subject, problem)


def _reads_in_part(subject: Subject) -> Outcome:
    load_rows = subject.info.load_rows
    if load_rows is None:
        return Outcome(None, "splits are read as a whole")

    def problem(raw: RawSplit, split: Split) -> str:
        n = len(raw.y)
        middle, first = range(n // 2, min(n, n // 2 + _N_IN_PART)), range(1)
        part, other = (load_rows(split, rows, subject.data_dir) for rows in (middle, first))
        kept = slice(middle.start, middle.stop)
        same = np.array_equal(part.x, raw.x[kept]) and np.array_equal(part.y, raw.y[kept])
        if not (same and part.white == raw.white):
            return f"examples {middle.start} to {middle.stop - 1} are others"
        return "" if part.sha256 == other.sha256 else "two parts have two hashes of the split"

    return _each(subject, problem)


def _is_disjoint(subject: Subject) -> Outcome:
    if "train" not in subject.splits:
        return Outcome(None, "there is no training split here")
    train, test = (
        [row.tobytes() for row in np.ascontiguousarray(subject.splits[split].x)]
        for split in ("train", "test")
    )
    known = set(train)
    shared = sum(row in known for row in test)
    return Outcome(shared <= _MOST_SHARED * len(test), f"{shared} of {len(test)} are in both")
