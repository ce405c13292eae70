"""Kill, interrupt and starve dynbench at random moments; what it ends with must not change.

    python benchmarks/faults.py [--kills 200] [--signals 24] [--full-disks 15] [--command NAME]

Each command is resumed until it ends, and its verdicts, weights or tables are compared with those
of an undisturbed run. Half of the faults come at any moment after the start, the other half after
the first result is written, since a start that imports torch takes long. Ends with exit code 1
where something was lost. Results: benchmarks/results/faults.csv.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measuring
from fault_jobs import Found, Job, jobs
from fault_runs import Run, kill_worker, outlive, send

_MOST_TRIES_IN_VAIN = 10


@dataclass
class Row:
    """Counts of one fault on one command.

    at_work: faults after the first result. lost: results that were on the disk and are there no
    more. unequal: rounds whose end differs from the undisturbed one. corrupt: files that cannot be
    read. half_written: files with neither the old nor the new content. leftovers: temporary files
    at the end of a round. hung: processes that did not end.
    """

    fault: str
    command: str
    tried: int = 0
    at_work: int = 0
    survived: int = 0
    lost: int = 0
    unequal: int = 0
    corrupt: int = 0
    half_written: int = 0
    leftovers: int = 0
    orphans: int = 0
    tracebacks: int = 0
    hung: int = 0
    rounds: int = 0
    seconds: float = 0.0

    @property
    def harm(self) -> int:
        return (
            self.lost + self.unequal + self.corrupt + self.half_written + self.orphans + self.hung
        )


@dataclass
class Undisturbed:
    """The end of an undisturbed run, its seconds, and the seconds to its first result."""

    entries: dict[Hashable, Hashable]
    seconds: float
    start_seconds: float
    file_bytes: int


class Experiment:
    """Faults on one job, counted in a row."""

    def __init__(self, job: Job, row: Row, rng: random.Random, scratch: Path) -> None:
        self.job, self.row, self.rng = job, row, rng
        self.folder = scratch / "job"
        self.reference: Undisturbed
        self.old: dict[Hashable, Hashable] = {}
        self.before: Hashable = None

    def fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.job.prepare(self.folder)
        self.old = self.job.find(self.folder).entries
        self.before = self.job.progress(self.folder)

    def measure(self, reference: Undisturbed | None) -> Undisturbed:
        if reference is None:
            self.fresh()
            run = Run(self.job, self.folder, self.before)
            start_seconds = run.wait_for_progress()
            run.wait_until(lambda: False)
            seconds = time.perf_counter() - run.started
            self.finish(run)
            entries = self.job.find(self.folder).entries
            if run.process.returncode or not entries:
                sys.exit(f"{self.job.name} fails undisturbed: {run.errors}")
            size = (self.folder / self.job.output).stat().st_size
            reference = Undisturbed(entries, seconds, start_seconds, size)
        self.reference = reference
        return reference

    def repeat(self, tries: int, strike: Callable[[Run], bool], *, limited: bool = False) -> None:
        """Strike `tries` times, in as many rounds as that takes.

        strike(run): does harm, and returns whether it did. limited: the harm is a limit of the
        length of files, under which the run starts.
        """
        in_vain = 0
        while self.row.tried < tries and in_vain < _MOST_TRIES_IN_VAIN:
            tried = self.row.tried
            self.round(tries, strike, limited=limited)
            in_vain = in_vain + 1 if self.row.tried == tried else 0

    def round(self, tries: int, strike: Callable[[Run], bool], *, limited: bool) -> None:
        """Strike, resume and strike again until the command comes to its end; compare the end."""
        self.fresh()
        self.row.rounds += 1
        seen, ended = Found(), False
        while self.row.tried < tries and not ended:
            limit = self.rng.uniform(0.05, 1.0) * self.reference.file_bytes if limited else None
            run = Run(self.job, self.folder, self.before, None if limit is None else int(limit))
            struck = 0
            while self.row.tried + struck < tries:
                if not limited:
                    self.wait(run)
                at_work = run.at_work
                if run.ended or not strike(run):
                    break
                struck += 1
                self.row.at_work += at_work or (limited and run.at_work)
            harm = self.row.harm
            self.finish(run)
            ended = run.process.returncode == 0
            if "Traceback" in "".join(run.errors) and (limited or run.at_work):
                self.row.tracebacks += 1
            seen = self.look(seen)
            self.row.tried += struck
            self.row.survived += struck if self.row.harm == harm else 0
        harm = self.row.harm
        self.complete(seen, ended=ended)
        if self.row.harm > harm:  # the last fault is to blame as far as one can tell
            self.row.survived = max(self.row.survived - 1, 0)

    def wait(self, run: Run) -> None:
        """Wait for a random moment: any, or one after the first result."""
        if self.rng.random() < 0.5:
            run.wait_for(self.rng.uniform(0, self.reference.seconds))
        else:
            run.wait_for_progress()
            left = self.reference.seconds - self.reference.start_seconds
            run.wait_for(self.rng.uniform(0, max(left, 0.05)))

    def finish(self, run: Run) -> None:
        end = run.finish()
        self.row.hung += end.hung
        self.row.orphans += end.orphans

    def look(self, seen: Found) -> Found:
        """Compare a copy of what is on the disk with what was there before."""
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / "copy"
            shutil.copytree(self.folder, copy)
            found = self.job.find(copy)  # this also ends what a kill has left open
            self.before = self.job.progress(copy)
        self.row.corrupt += len(found.corrupt)
        there = found.waiting | set(found.entries)
        self.row.lost += sum(key not in there for key in (*seen.entries, *seen.waiting))
        if self.job.replaces:
            right = self.reference.entries
            self.row.half_written += sum(
                value not in (self.old.get(key), right.get(key))
                for key, value in found.entries.items()
            )
        for line in found.corrupt:
            print(line, file=sys.stderr)
        return found

    def complete(self, seen: Found, *, ended: bool) -> None:
        """Run the command to its end, if it has not come there, and compare with the reference."""
        errors: list[str] = []
        if not ended:
            run = Run(self.job, self.folder, self.before)
            self.finish(run)
            ended, errors = run.process.returncode == 0, run.errors
        end = self.look(seen)
        self.row.leftovers += end.leftovers
        if not ended or end.entries != self.reference.entries:
            self.row.unequal += 1
            print(f"{self.row.fault} {self.job.name}: {errors}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=24)
    parser.add_argument("--full-disks", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", help="try the faults of this command alone")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        available = jobs(scratch)
        references: dict[str, Undisturbed] = {}

        def trial(
            fault: str, name: str, tries: int, strike: Callable[[Run], bool], **how: Any
        ) -> None:
            if tries == 0 or options.command not in (None, name):
                return
            rng = random.Random(f"{options.seed} {fault} {name}")
            row, started = Row(fault, name), time.perf_counter()
            experiment = Experiment(available[name], row, rng, scratch)
            references[name] = experiment.measure(references.get(name))
            experiment.repeat(tries, strike, **how)
            row.seconds = time.perf_counter() - started
            rows.append(row)
            print({k: v for k, v in asdict(row).items() if v}, flush=True)

        names = list(available)
        kills = shares(options.kills, len(names) + 1)
        for name, tries in zip(names, kills, strict=False):
            trial("SIGKILL", name, tries, send(signal.SIGKILL))
        worker = kill_worker(random.Random(options.seed))
        trial("SIGKILL of a worker", "sweep", kills[-1], worker)
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        cases = [
            (number, name) for number in signals for name in ("run", "sweep", "smooth", "train")
        ]
        for (number, name), tries in zip(cases, shares(options.signals, len(cases)), strict=True):
            trial(number.name, name, tries, send(number))
        stored = ("run", "smooth", "train", "leaderboard", "export")
        for name, tries in zip(stored, shares(options.full_disks, len(stored)), strict=True):
            trial("full disk", name, tries, outlive, limited=True)
    # A fault that was not tried this time keeps its row.
    measuring.write("faults", [asdict(row) for row in rows], key=("fault", "command"))
    if any(row.harm for row in rows):
        sys.exit(1)


def shares(total: int, n: int) -> list[int]:
    """Divide a number into n whole parts that differ by at most 1."""
    return [total // n + (i < total % n) for i in range(n)]


if __name__ == "__main__":
    main()
