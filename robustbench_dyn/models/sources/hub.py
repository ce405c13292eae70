"""The Hugging Face hub: quick where there is no network, and quiet."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from robustbench_dyn.errors import DataUnavailableError
from robustbench_dyn.models.sources.packages import is_of_the_network, require

_PROXIES = ("https_proxy", "all_proxy")


@contextmanager
def hub(wanted_by: str) -> Iterator[None]:
    """Use the files that are here alone where the hub's address cannot be found.

    The hub's own client would ask five times for each file, which takes half a minute. wanted_by:
    for messages. Raises DataUnavailableError where the files are not here.
    """
    install = "'robustbench-dyn[zoo]'"
    constants: Any = require("huggingface_hub.constants", wanted_by, install)
    logger = logging.getLogger("huggingface_hub")
    before, level = constants.HF_HUB_OFFLINE, logger.level
    reachable = _can_be_found(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = before or not reachable
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        if before or reachable or not is_of_the_network(error):
            raise
        raise DataUnavailableError(
            f"{wanted_by} is not on this machine, and {constants.ENDPOINT} cannot be reached; try "
            "again with a network"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before
        logger.setLevel(level)


def _can_be_found(address: str) -> bool:
    """Say whether the host of an address has one; behind a proxy, the proxy knows."""
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return True
    parts = urlsplit(address)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or 443)
    except OSError:
        return False
    return True
