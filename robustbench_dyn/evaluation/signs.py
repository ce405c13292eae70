"""The signs of masked gradients that one evaluation has found, at each eps."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from robustbench_dyn.evaluation.batching import Batching, Metered
from robustbench_dyn.evaluation.examples import Examples
from robustbench_dyn.evaluation.masking import (
    N_EXAMPLES,
    beyond_chance,
    failed_white_box,
    find_signs,
)
from robustbench_dyn.models.validation import ModelUnderTest
from robustbench_dyn.results.spec import StageSpec
from robustbench_dyn.results.store import Store
from robustbench_dyn.results.summary import attacks_that_failed, gradient_free_gains
from robustbench_dyn.results.verdicts import Sign, Verdict

log = logging.getLogger(__name__)


class Signs:
    """Signs of one model: those of its gradients, sought once, and those of attacks' outcomes.

    known: the signs at the eps of the moment.
    """

    def __init__(self, model: ModelUnderTest, store: Store, key: str) -> None:
        self._model, self._store, self._key = model, store, key
        self._of_gradients: list[Sign] | None = None
        self.known = list[Sign]()

    @property
    def looked(self) -> bool:
        """Whether the gradients have been examined."""
        return self._of_gradients is not None

    def load(self, eps: float) -> None:
        """Read the signs at one eps from the store."""
        self.known = self._store.signs(self._key, eps)

    def look(
        self, examples: Examples, batching: Batching, seed: int
    ) -> Metered[list[int], list[Sign]] | None:
        """Examine the gradients at correctly classified examples; see find_signs.

        Returns what it took, or None where the machine failed.
        """
        verdicts = examples.verdicts.items()
        correct = sorted(i for i, v in verdicts if v.prediction == v.label)[:N_EXAMPLES]

        def work(batches: Sequence[list[int]]) -> list[Sign]:
            x, y = examples.tensors(batches[0])
            return find_signs(
                self._model.network,
                x,
                y,
                n_classes=self._model.n_classes,
                batch_size=batching.size,
                seed=seed,
            )

        # One item: its batches are halved where memory runs out, but it is not split.
        for metered in batching.over(
            [correct], work, stage="signs", example_id=lambda ids: ids[0] if ids else 0
        ):
            self._of_gradients = metered.result
            return metered
        return None

    def find(
        self, eps: float, verdicts: Collection[Verdict], attacks: Sequence[StageSpec]
    ) -> list[Sign]:
        """Return and keep all signs at one eps, after the attacks that are run without any."""
        found = [
            *(self._of_gradients or ()),
            *beyond_chance(gradient_free_gains(verdicts, attacks), len(verdicts)),
            *failed_white_box(attacks, attacks_that_failed(verdicts)),
        ]
        known = {sign.name: sign for sign in self.known}
        self.known = list((known | {sign.name: sign for sign in found}).values())
        self._store.add_signs(self._key, eps, found)
        if new := [str(sign) for sign in found if sign.name not in known]:
            log.warning("signs of masked gradients: %s", ", ".join(new))
        return self.known
