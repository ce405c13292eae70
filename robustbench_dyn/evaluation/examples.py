"""The examples of an evaluation: their data, and their verdicts, which the store keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from robustbench_dyn.datasets import Dataset
from robustbench_dyn.evaluation.known import KnownElsewhere
from robustbench_dyn.evaluation.transitions import Later, infer_from_other_eps, without_certificate
from robustbench_dyn.results.costs import StageCost
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.verdicts import Verdict


class Examples:
    """The examples of one evaluation, at the eps of the moment.

    wanted: the example_ids that are brought to a verdict. verdicts: those of the wanted examples,
    by example_id, as the store has them. others: the verdicts of all other examples. left: the
    examples that the machine left behind, with the stage that they wait for.
    """

    def __init__(self, dataset: Dataset, store: Store, key: str, device: torch.device) -> None:
        self._dataset, self._store, self._key, self._device = dataset, store, key, device
        self._index = {int(example): row for row, example in enumerate(dataset.ids)}
        self.wanted: Collection[int] = self._index
        self.verdicts = dict[int, Verdict]()
        self.others = list[Verdict]()
        self.left = dict[int, str]()
        # What is known at other eps; read from the store at the first need.
        self._elsewhere: KnownElsewhere | None = None

    def want(self, only: Collection[int] | None) -> None:
        """Begin with some examples, or with all."""
        self.wanted, self.left = self._index if only is None else only, {}

    def load(self, eps: float) -> None:
        """Read the verdicts at one eps from the store."""
        wanted, kept = set(self.wanted), self._store.verdicts(self._key, eps)
        self.verdicts, self.others = {}, []
        for verdict in kept:
            if verdict.example_id in wanted:
                self.verdicts[verdict.example_id] = verdict
            else:
                self.others.append(verdict)

    def keep(self, verdicts: Iterable[Verdict], cost: StageCost | None = None) -> None:
        """Keep new verdicts at this eps, with what they took."""
        new = {verdict.example_id: verdict for verdict in verdicts}
        if new:
            self._store.add_verdicts(self._key, new.values(), cost)
            self.verdicts |= new

    def finish(self) -> None:
        """Remember the verdicts of this eps for the others that are to come."""
        if self._elsewhere is not None:
            self._elsewhere.add(self.verdicts.values())

    def new(self) -> list[int]:
        """Return the wanted examples without a verdict."""
        return [i for i in self.wanted if i not in self.verdicts]

    def waiting(self, stage: str) -> list[int]:
        """Return the examples that wait for a stage."""
        return [i for i, v in sorted(self.verdicts.items()) if v.next_stage == stage]

    def known_from_other_eps(self, eps: float, later: Sequence[Later]) -> dict[int, Verdict]:
        """Return the verdicts of new examples that follow from those at other eps.

        later: all stages that may come after the clean pass.
        """
        new = self.new()
        if not new:
            return {}
        if self._elsewhere is None:
            kept = self._store.verdicts(self._key)
            self._elsewhere = KnownElsewhere(v for v in kept if v.example_id in self._index)
        known = {i: self._elsewhere.of(i) for i in new}
        return {i: infer_from_other_eps(v, eps, later) for i, v in known.items() if v}

    def need_passes(self, eps: float, later: Sequence[Later]) -> bool:
        """Say whether some example still needs a pass of the model at this eps."""
        if any(verdict.next_stage for verdict in self.verdicts.values()):
            return True
        known = self.known_from_other_eps(eps, later)
        return len(known) < len(self.new()) or any(v.next_stage for v in known.values())

    def withdraw(self, labels: Collection[str] | None, why: str, later: Sequence[Later]) -> bool:
        """Withdraw the certificates of some certifiers, or of all, at every eps in the store.

        The examples that they spared wait for their attacks. Tells whether there were any.
        """
        kept = self._store.verdicts(self._key)
        given = [v for v in kept if v.certifier and (labels is None or v.certifier in labels)]
        if given:
            self._store.add_verdicts(self._key, [without_certificate(v, why, later) for v in given])
            self._store.remove_runs(self._key)
            self._elsewhere = None
        return bool(given)

    def image(self, example_id: int) -> Tensor:
        """Return one example, (C, H, W)."""
        return self._dataset.x[self._index[example_id]]

    def label(self, example_id: int) -> int:
        """Return the class of one example."""
        return int(self._dataset.y[self._index[example_id]])

    def tensors(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images (n, C, H, W) and classes (n,) of some examples, on the device."""
        rows = torch.tensor([self._index[i] for i in ids], dtype=torch.int64)
        return self._dataset.x[rows].to(self._device), self._dataset.y[rows].to(self._device)
