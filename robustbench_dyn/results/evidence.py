"""Evidence: all that a row of a leaderboard is computed from, so that every reader can recount it.

A row is a function of the verdicts, of the record of the evaluation, and of what runs found out
about the model. Evidence holds these, and the row names it by hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple

from robustbench_dyn.errors import InputError
from robustbench_dyn.results.rows import trail_text
from robustbench_dyn.results.spec import Record
from robustbench_dyn.results.summary import summary_row
from robustbench_dyn.results.verdicts import Sign, Status, Verdict

# Adversarial examples that are kept of each row.
N_ADVERSARIAL = 10


class Correction(NamedTuple):
    """A verdict that was changed after publication: by whose example, and when (UTC)."""

    example_id: int
    source: str
    at: str

    def __str__(self) -> str:
        return f"example {self.example_id} by {self.source} ({self.at[:10]})"


@dataclass(frozen=True)
class Evidence:
    """The verdicts behind a row, with all else that its numbers are computed from.

    record: of the evaluation. verdicts: final ones, at one eps, by example_id. flags, signs: what
    runs found out about the model. evaluated_at: when the run ended, UTC. corrections: verdicts
    that were changed by adversarial examples handed in later. n_adversarial: of so many examples
    the adversarial example is kept; see `sampled`. Raises InputError for verdicts that are none of
    one finished evaluation.
    """

    record: Record
    eps: float
    verdicts: tuple[Verdict, ...]
    flags: tuple[str, ...]
    signs: tuple[Sign, ...]
    evaluated_at: str
    corrections: tuple[Correction, ...] = ()
    n_adversarial: int = N_ADVERSARIAL

    def __post_init__(self) -> None:
        ids = [verdict.example_id for verdict in self.verdicts]
        if not ids:
            raise InputError("evidence without a verdict carries no row")
        if any(a >= b for a, b in pairwise(ids)):
            raise InputError("the verdicts of evidence must stand in the order of their examples")
        if any(verdict.eps != self.eps for verdict in self.verdicts):
            raise InputError(f"the verdicts of evidence must all be at its eps {self.eps}")
        if any(verdict.next_stage for verdict in self.verdicts):
            raise InputError("evidence holds final verdicts alone, and one waits for a stage")

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 over all of it, whatever the file that it is read from."""
        content = hashlib.sha256(self.header().encode())
        for text in _in_json(self.verdicts):
            content.update(text.encode())
        return content.hexdigest()

    def header(self) -> str:
        """Return all but the verdicts as JSON, without the fields that have their default values.

        So it stays the same where a later version adds a field.
        """
        return json.dumps(
            {
                "record": _sparse(self.record),
                # A whole number, such as a count, is read back as a float.
                "eps": float(self.eps),
                "flags": sorted(self.flags),
                "signs": [[sign.name, float(sign.value)] for sign in self.signs],
                "evaluated_at": self.evaluated_at,
                "corrections": [list(correction) for correction in self.corrections],
                "n_adversarial": self.n_adversarial,
            },
            sort_keys=True,
        )

    def row(self) -> dict[str, Any]:
        """Return the row that the evidence comes to, with the evidence's hash in it."""
        row = summary_row(
            self.verdicts,
            self.record,
            eps=self.eps,
            evaluated_at=self.evaluated_at,
            flags=self.flags,
            signs=self.signs,
        )
        corrections = "; ".join(map(str, self.corrections))
        return row | {"corrections": corrections, "evidence_sha256": self.sha256}

    def sampled(self) -> list[int]:
        """Return the broken examples whose adversarial examples are kept.

        Those with the least SHA-256 of the evaluation, eps and example, so that the publisher
        does not choose them; and those that a correction names.
        """
        key = hashlib.sha256(json.dumps(_sparse(self.record.spec), sort_keys=True).encode())
        broken = [v.example_id for v in self.verdicts if v.status is Status.BROKEN]
        ranked = sorted(
            broken,
            key=lambda i: hashlib.sha256(
                f"evidence {key.hexdigest()} {self.eps!r} {i}".encode()
            ).digest(),
        )
        corrected = {correction.example_id for correction in self.corrections}
        return sorted({*ranked[: self.n_adversarial], *corrected.intersection(broken)})

    def with_sample(self) -> Evidence:
        """Return the evidence with the adversarial examples of its sample alone."""
        kept = set(self.sampled())
        return replace(
            self,
            verdicts=tuple(
                verdict
                if verdict.x_adv is None or verdict.example_id in kept
                else replace(verdict, x_adv=None)
                for verdict in self.verdicts
            ),
        )


def _sparse(thing: Any) -> Any:
    """Return a dataclass, with those in it, as JSON takes it, without fields at their defaults."""
    if is_dataclass(thing):
        values = {part.name: (getattr(thing, part.name), _default(part)) for part in fields(thing)}
        return {
            name: _sparse(value) for name, (value, default) in values.items() if value != default
        }
    if isinstance(thing, Mapping):
        return {name: _sparse(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_sparse(value) for value in thing]
    return thing


def _default(part: Field[Any]) -> Any:
    return part.default if part.default_factory is MISSING else part.default_factory()


# What the hash covers of a verdict, in its order, before the trail and the hash of x_adv.
_VERDICT = [part for part in fields(Verdict) if part.name not in ("trail", "x_adv")]


def _in_json(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield what the hash covers of each verdict, without the fields at their defaults, as JSON.

    It writes one field of all verdicts at a time: faster than one verdict at a time.
    """
    columns = [(part, list(map(attrgetter(part.name), verdicts))) for part in _VERDICT]
    texts = [
        _field_in_json(part, values)
        for part, values in columns
        if any(value != _default(part) for value in values)
    ]
    # Many verdicts have one trail, and its text is most of theirs.
    trails = {id(verdict.trail): verdict.trail for verdict in verdicts}
    trail_of = {
        key: f', "trail": {trail_text(trail)}' if trail else "" for key, trail in trails.items()
    }
    for verdict, *values in zip(verdicts, *texts, strict=True):
        text = "".join(values).removeprefix(", ") + trail_of[id(verdict.trail)]
        if verdict.x_adv is not None:
            text += f', "x_adv": "{hashlib.sha256(verdict.x_adv).hexdigest()}"'
        yield f"{{{text}}}"


def _field_in_json(part: Field[Any], values: Sequence[Any]) -> list[str]:
    """Return one field of each verdict as JSON: NaN as NaN, and floats with all digits."""
    name, default = part.name, _default(part)
    if part.type in ("float", "int"):
        # One call for all: no number has a comma in it. Equal ones, as 1 and 1.0, differ as texts.
        numbers = zip(values, json.dumps(values)[1:-1].split(", "), strict=True)
        return [f', "{name}": {text}' if value != default else "" for value, text in numbers]
    text_of = {value: f', "{name}": {json.dumps(value)}' for value in set(values)}
    if default in text_of:
        text_of[default] = ""
    return [text_of[value] for value in values]


def read_header(text: str) -> dict[str, Any]:
    """Return the fields of Evidence but the verdicts, of what header() wrote.

    Raises KeyError, TypeError or ValueError where the text is no header.
    """
    content = json.loads(text)
    return {
        "record": Record.from_json(json.dumps(content["record"])),
        "eps": float(content["eps"]),
        "flags": tuple(map(str, content["flags"])),
        "signs": tuple(Sign(str(name), float(value)) for name, value in content["signs"]),
        "evaluated_at": str(content["evaluated_at"]),
        "corrections": tuple(
            Correction(int(example), str(source), str(at))
            for example, source, at in content["corrections"]
        ),
        "n_adversarial": int(content["n_adversarial"]),
    }
