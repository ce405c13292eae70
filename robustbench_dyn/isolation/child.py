"""The process for foreign code: it gives up its rights, then does what it is asked for.

Run as `python -m robustbench_dyn.isolation.child SETTINGS CONNECTION READS WRITES`: a JSON object,
and three descriptors. Rights are given up before torch is imported: what a library's threads may do
is settled when they start.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_dyn.isolation.confinement import confine, end_with_parent, limit_resources
from robustbench_dyn.isolation.system_calls import filter_system_calls

if TYPE_CHECKING:
    from robustbench_dyn.isolation.channel import Message

_PACKAGE = "robustbench_dyn"

# What a function that is called gets: what earlier calls have left here, and the message.
State = dict[str, Any]
Service = Callable[[State, "Message"], "Message"]


def main(settings: Mapping[str, Any], connection: int, reads: int, writes: int) -> None:
    """Answer calls until the other process closes the connection."""
    confined = _give_up_rights(settings)
    import socket  # noqa: PLC0415

    import torch  # noqa: PLC0415

    from robustbench_dyn.isolation.asking import Asking  # noqa: PLC0415
    from robustbench_dyn.isolation.channel import (  # noqa: PLC0415
        Channel,
        ChannelClosedError,
        Message,
    )

    torch.set_num_threads(settings["threads"])
    limit_resources(
        memory=settings["memory"],
        open_files=settings["open_files"],
        files_of=settings["memory"],
        address_space=settings["limit_mapped"],
    )
    channel = Channel(
        socket.socket(fileno=connection), reads=reads, writes=writes, most_bytes=2**62
    )
    state: State = {"asking": Asking(channel)}
    channel.receive()
    channel.send(Message("started", {"confined": confined}))
    while True:
        try:
            channel.send(_answer(state, channel.receive()))
        except ChannelClosedError:
            return


def _answer(state: State, message: Message) -> Message:
    from robustbench_dyn.isolation.channel import as_message  # noqa: PLC0415

    try:
        module, _, function = message.name.partition(":")
        service: Service = getattr(import_module(f"{_PACKAGE}.{module}"), function)
        return service(state, message)
    # Foreign code may raise anything; SystemExit and KeyboardInterrupt end this process.
    except Exception as error:
        return as_message(error)


def _give_up_rights(settings: Mapping[str, Any]) -> bool:
    """Keep to a few folders and system calls; return whether this system allows for both."""
    if settings["end_with_parent"]:
        end_with_parent()
    # The working folder is not on this path.
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    landlock = confine(
        reads=map(Path, [*python, *settings["reads"]]), writes=map(Path, settings["writes"])
    )
    # The driver of a GPU needs calls that no list of ours knows.
    filtered = settings["limit_mapped"] and filter_system_calls()
    watch_parent(settings["parent"])
    return bool(landlock) and filtered


def watch_parent(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a call."""

    def watch(get_parent: Callable[[], int], wait: Callable[[float], None]) -> None:
        while get_parent() == parent:
            wait(1)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid, time.sleep), daemon=True).start()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), *map(int, sys.argv[2:]))
