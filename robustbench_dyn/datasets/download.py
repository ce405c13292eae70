"""Downloads over https, bounded in length and time."""

from __future__ import annotations

import http.client
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, TypeVar

from robustbench_dyn.datasets.verified_files import LATER
from robustbench_dyn.errors import DataUnavailableError, IntegrityError
from robustbench_dyn.files import explained
from robustbench_dyn.version import __version__

STALLED_AFTER_SECONDS = 30.0
# A server that trickles must not hold a run for ever.
LEAST_BYTES_PER_SECOND = 10_000
_CHUNK = 2**16

T = TypeVar("T")


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https alone."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            fp.close()
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def from_first_mirror(urls: Iterable[str], use: Callable[[str], T]) -> T:
    """Return use(url) for the first address for which it succeeds.

    Raises DataUnavailableError with each address's reason where none answers, and IntegrityError
    where at least one serves another file than the published one and no other does better.
    """
    reasons, wrong = list[str](), None
    for url in urls:
        try:
            return use(url)
        except IntegrityError as error:
            wrong = error
        except DataUnavailableError as error:
            reasons.append(str(error))
    if wrong is not None:
        raise wrong
    raise DataUnavailableError("; ".join(reasons))


def download(url: str, *, most_bytes: int) -> IO[bytes]:
    """Return what is at an https address as an open file without a name, for the caller to close.

    A killed download leaves nothing, as the file has no name.
    Raises DataUnavailableError where the address cannot be read to its end in time or redirects to
    another protocol, IntegrityError where there are more than most_bytes, and OutputError where
    the folder for temporary files is full.
    """
    if not url.startswith("https://"):
        raise DataUnavailableError(f"{url}: only https is read")
    with _explained_temporary():
        stream = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        _copy(url, stream, most_bytes=most_bytes)
    except BaseException:
        stream.close()
        raise
    return stream


def _copy(url: str, stream: IO[bytes], *, most_bytes: int) -> None:
    opener = urllib.request.build_opener(
        _OnlyHttps(), urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    request = urllib.request.Request(url, headers={"User-Agent": f"robustbench-dyn/{__version__}"})
    deadline = time.monotonic() + STALLED_AFTER_SECONDS + most_bytes / LEAST_BYTES_PER_SECOND
    n_bytes = 0
    try:
        with opener.open(request, timeout=STALLED_AFTER_SECONDS) as response:
            while chunk := response.read1(_CHUNK):
                n_bytes += len(chunk)
                if n_bytes > most_bytes:
                    raise IntegrityError(
                        f"{url} has more than {most_bytes} bytes, expected at most that; it is "
                        f"another file: {LATER}"
                    )
                if time.monotonic() > deadline:
                    raise TimeoutError(f"slower than {LEAST_BYTES_PER_SECOND} bytes a second")
                with _explained_temporary():
                    stream.write(chunk)
            if response.length:
                raise ConnectionError(f"the connection ended {response.length} bytes early")
    except urllib.error.HTTPError as error:
        with error:
            raise DataUnavailableError(f"{url}: {' '.join(str(error).split())}") from error
    # Sockets, TLS and the protocol; what they mean to the caller is the same.
    except (OSError, http.client.HTTPException) as error:
        raise DataUnavailableError(f"{url}: {_one_line(error)}") from error


def _explained_temporary() -> AbstractContextManager[None]:
    return explained(Path(tempfile.gettempdir()))


def _one_line(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(f"{type(error).__name__}: {reason}".split())
