"""Batches: how many examples a stage gets at once, metered, halved where the machine fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from robustbench_dyn.models.batch_size import choose_batch_size
from robustbench_dyn.models.determinism import seeded
from robustbench_dyn.models.machine_errors import describe, is_machine_error
from robustbench_dyn.models.validation import SMALLEST_SAMPLE, ModelUnderTest

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# After this many failures of the machine in a row, it is not asked for more of the same stage.
_PATIENCE = 10


class Metered(NamedTuple, Generic[_Item, _Result]):
    """A batch of items, what was made of them, and the passes and seconds that this took."""

    items: Sequence[_Item]
    result: _Result
    forward_passes: int
    backward_passes: int
    seconds: float


class Batching:
    """Split work into batches of one model, and meter each of them.

    size: how many inputs the model is given at once, now; 0 until it is measured. failure: the last
    error of the machine that left items undone, as text; empty where there was none.
    """

    def __init__(self, model: ModelUnderTest, size: int | Literal["auto"], seed: int) -> None:
        self._model, self._seed = model, seed
        self.size = 0 if size == "auto" else size
        self.failure = ""

    def over(
        self,
        items: Sequence[_Item],
        work: Callable[[Sequence[_Item]], _Result],
        *,
        stage: str,
        example_id: Callable[[_Item], int],
        copies: int = 1,
        at_most: int | None = None,
    ) -> Iterator[Metered[_Item, _Result]]:
        """Do the work batch by batch; where the machine fails, go on with half the inputs.

        An item on which it fails alone is left out, and after several in a row the rest as well.
        Each batch of a stage has random streams of its own, by its first example_id: identical runs
        agree, and so do the first passes of runs at other eps. copies: inputs that one item takes.
        at_most: the most items of a batch, besides.
        """
        network, start, in_a_row = self._model.network, 0, 0
        if items and not self.size:
            self._measure()
        self.size = int(min(self.size, self._model.largest_batch))
        while start < len(items) and in_a_row < _PATIENCE:
            length = max(1, self.size // copies)
            batch = items[start : start + min(length, at_most or length)]
            forwards, backwards = network.forward_passes, network.backward_passes
            started = time.perf_counter()
            try:
                with seeded(self._seed, stage, example_id(batch[0])):
                    result = work(batch)
            except Exception as error:
                if not is_machine_error(error):
                    raise
                if self.size > 1:
                    self.size //= 2
                    log.warning("%s; batches of %d from here on", describe(error), self.size)
                else:
                    self.failure = describe(error)
                    log.warning("%s; an example waits for another run", self.failure)
                    start, in_a_row = start + 1, in_a_row + 1
                continue
            in_a_row = 0
            seconds = time.perf_counter() - started
            yield Metered(
                batch,
                result,
                network.forward_passes - forwards,
                network.backward_passes - backwards,
                seconds,
            )
            start += len(batch)

    def _measure(self) -> None:
        with seeded(self._seed, "batch size"):
            sample = self._model.sample(SMALLEST_SAMPLE)
            self.size = choose_batch_size(self._model.network.model, sample)
        log.info("batches of %d", self.size)
