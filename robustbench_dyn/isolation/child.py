"""The process for foreign code: it gives up its rights, then does what it is asked for.

Run as `python -m robustbench_dyn.isolation.child CONNECTION READS WRITES`, three descriptors.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from robustbench_dyn.isolation.asking import Asking
from robustbench_dyn.isolation.channel import (
    Channel,
    ChannelClosedError,
    Message,
    as_message,
)
from robustbench_dyn.isolation.confinement import confine, end_with_parent, limit_resources

_PACKAGE = "robustbench_dyn"

# What a function that is called gets: what earlier calls have left here, and the message.
State = dict[str, Any]
Service = Callable[[State, Message], Message]


def main(connection: int, reads: int, writes: int) -> None:
    """Answer calls until the other process closes the connection."""
    channel = Channel(
        socket.socket(fileno=connection), reads=reads, writes=writes, most_bytes=2**62
    )
    state: State = {"asking": Asking(channel)}
    while True:
        try:
            channel.send(_answer(state, channel.receive()))
        except ChannelClosedError:
            return


def _answer(state: State, message: Message) -> Message:
    try:
        if message.name == "start":
            return _start(message.content)
        module, _, function = message.name.partition(":")
        service: Service = getattr(import_module(f"{_PACKAGE}.{module}"), function)
        return service(state, message)
    # Foreign code may raise anything; SystemExit and KeyboardInterrupt end this process.
    except Exception as error:
        return as_message(error)


def _start(settings: Mapping[str, Any]) -> Message:
    if settings["end_with_parent"]:
        end_with_parent()
    threading.Thread(target=_watch, args=(settings["parent"],), daemon=True).start()
    torch.set_num_threads(settings["threads"])
    limit_resources(
        memory=settings["memory"],
        open_files=settings["open_files"],
        files_of=settings["memory"],
        address_space=settings["limit_mapped"],
    )
    # The working folder is not on this path.
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    version = confine(
        reads=map(Path, [*python, *settings["reads"]]), writes=map(Path, settings["writes"])
    )
    return Message("started", {"landlock": version})


def _watch(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a call."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
