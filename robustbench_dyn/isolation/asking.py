"""Questions of foreign code to the process that has called it, as an attack asks for logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from robustbench_dyn.isolation.channel import ASKS, FAILED, Channel, Message, as_exception


class Asking:
    """The other process, while it waits for the answer to its call."""

    who = "the process that asks for work"

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def call(
        self,
        name: str,
        content: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        times: int = 1,
    ) -> Message:
        """Ask for something and return the answer; raises what the other process raised.

        times: of no account here, since the other process measures the time.
        """
        del times
        self._channel.send(Message(ASKS, {"what": name, **content}, tensors))
        answer = self._channel.receive()
        if answer.name == FAILED:
            raise as_exception(answer)
        return answer
