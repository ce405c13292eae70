"""Downloads: https alone, bounded, checked before they are stored; a failed one leaves nothing."""

import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from oracles.published_sets import NAMES, shrink, use_mirrors

from robustbench_dyn.datasets import download as downloads
from robustbench_dyn.datasets import fashion_mnist, load_dataset, published
from robustbench_dyn.datasets.download import download
from robustbench_dyn.datasets.verified_files import read_verified
from robustbench_dyn.errors import DataUnavailableError, IntegrityError, OutputError

CONTENT = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's dictionary of pages says."""

    def do_GET(self):
        self.server.asked.append(self.path)
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
        elif isinstance(page, bytes):
            send(self, page)
        else:
            page(self)

    def log_message(self, *_):
        pass


def send(handler, content, *, promised=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if promised is None else promised))
    handler.end_headers()
    handler.wfile.write(content)


def redirect(target):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", target(handler.server) if callable(target) else target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def cut(handler):
    send(handler, CONTENT[:1000], promised=len(CONTENT))


def cut_between_chunks(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"5\r\nhello\r\nff")


def without_end(handler):
    handler.send_response(200)
    handler.end_headers()
    with handler.server.quiet():
        while True:
            handler.wfile.write(CONTENT)


def stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"a")
    handler.wfile.flush()
    time.sleep(1.5)


def trickle(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    with handler.server.quiet():
        for _ in range(100):
            handler.wfile.write(b"a")
            handler.wfile.flush()
            time.sleep(0.02)


def no_http(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")


class Server(ThreadingHTTPServer):
    """A server on this machine; base: its address."""

    daemon_threads = True

    def __init__(self, context=None):
        super().__init__(("localhost", 0), Handler)
        self.pages, self.asked = {}, []
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.base = f"http{'s' if context else ''}://localhost:{self.server_port}"

    def quiet(self):
        return suppressed

    def handle_error(self, *_):
        pass  # clients that hang up are what is tested


class _Suppressed:
    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        return kind is not None and issubclass(kind, OSError)


suppressed = _Suppressed()


def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Make a certificate for localhost, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", *options.split(), *names, "-keyout", path, "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def server(certificate, monkeypatch):
    """Run an https server that this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{certificate}.crt", certificate)
    yield from running(Server(context))


@pytest.fixture
def plain_server():
    yield from running(Server())


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "DYNBENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian-package")


def fetched(url, most_bytes=10_240):
    with download(url, most_bytes=most_bytes) as stream:
        stream.seek(0)
        return stream.read()


def test_a_file_is_downloaded(server):
    server.pages["/a"] = CONTENT
    assert fetched(f"{server.base}/a") == CONTENT


def test_redirects_to_https_are_followed(server):
    server.pages |= {"/a": redirect("/b"), "/b": CONTENT}
    assert fetched(f"{server.base}/a") == CONTENT


FAULTS = {
    "is missing": (None, "404"),
    "ends early": (cut, "ended 9240 bytes early"),
    "ends between chunks": (cut_between_chunks, "IncompleteRead"),
    "stalls": (stall, "timed out"),
    "speaks no http": (no_http, "BadStatusLine"),
    "redirects to itself": (redirect("/a"), "infinite loop"),
    "redirects to a file": (redirect("file:///etc/passwd"), "is not allowed"),
    "redirects to ftp": (redirect("ftp://localhost/x"), "not https"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_with_a_fault_is_unavailable(server, monkeypatch, fault):
    monkeypatch.setattr(downloads, "STALLED_AFTER_SECONDS", 0.5)
    answer, reason = FAULTS[fault]
    server.pages = {"/a": answer} if answer else {}
    with pytest.raises(DataUnavailableError, match=reason) as caught:
        fetched(f"{server.base}/a")
    assert f"{server.base}/a" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_redirect_to_http_is_refused(server, plain_server):
    plain_server.pages["/a"] = CONTENT
    server.pages["/a"] = redirect(f"{plain_server.base}/a")
    with pytest.raises(DataUnavailableError, match="which is not https"):
        fetched(f"{server.base}/a")
    assert plain_server.asked == []


def test_http_is_not_even_asked(plain_server):
    plain_server.pages["/a"] = CONTENT
    with pytest.raises(DataUnavailableError, match="only https is read"):
        fetched(f"{plain_server.base}/a")
    assert plain_server.asked == []


def test_a_certificate_of_a_stranger_is_refused(server, monkeypatch):
    server.pages["/a"] = CONTENT
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DataUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        fetched(f"{server.base}/a")
    assert server.asked == []


def test_a_trickle_is_given_up(server, monkeypatch):
    server.pages["/a"] = trickle
    monkeypatch.setattr(downloads, "STALLED_AFTER_SECONDS", 0.3)
    with pytest.raises(DataUnavailableError, match="slower than 10000 bytes a second"):
        fetched(f"{server.base}/a", most_bytes=100)


def test_a_file_without_end_is_cut_off(server):
    server.pages["/a"] = without_end
    with pytest.raises(IntegrityError, match="has more than 10240 bytes"):
        fetched(f"{server.base}/a")


def test_nothing_that_listens_is_unavailable():
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        with pytest.raises(DataUnavailableError, match="refused"):
            fetched(f"https://localhost:{unused.getsockname()[1]}/a")


def test_a_full_temporary_folder_is_named(server, monkeypatch):
    server.pages["/a"] = CONTENT

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match="No space left"):
        fetched(f"{server.base}/a")


# --- the data sets ---------------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def tiny(request, monkeypatch):
    return shrink(monkeypatch, request.param)


def load(tiny, data_dir=None):
    return load_dataset(tiny.name, split=tiny.split, data_dir=data_dir)


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("named", [True, False])
def test_a_set_is_downloaded_once(server, monkeypatch, tmp_path, tiny, named):
    server.pages = tiny.served()
    use_mirrors(monkeypatch, tiny, f"{server.base}/")
    folder = tmp_path / ("named" if named else "cache/robustbench_dyn")
    data_dir = folder if named else None
    before = load(tiny, data_dir)
    asked = len(server.asked)
    assert load(tiny, data_dir).sha256 == before.sha256
    assert len(server.asked) == asked == len(tiny.served())
    suffix = ".gz" if tiny.is_idx else ""
    assert files_below(tmp_path) == sorted(f"{name}{suffix}" for name in tiny.contents)
    assert (folder / tiny.published.folder).is_dir()


@pytest.mark.parametrize("fault", ["missing", "wrong", "cut"])
def test_the_next_mirror_stands_in(server, monkeypatch, tiny, fault):
    answer = {"wrong": CONTENT[:1000], "cut": cut, "missing": None}[fault]
    server.pages = tiny.served() | {f"/first{path}": answer for path in tiny.served()}
    use_mirrors(monkeypatch, tiny, f"{server.base}/first/", f"{server.base}/")
    assert len(load(tiny)) > 0
    assert any(path.startswith("/first") for path in server.asked)


def test_a_wrong_download_leaves_nothing(server, monkeypatch, tmp_path, tiny):
    right = tiny.served()
    last = list(right)[-1]
    server.pages = right | {last: right[last][:-1] + b"?"}
    use_mirrors(monkeypatch, tiny, f"{server.base}/")
    with pytest.raises(IntegrityError, match=last) as caught:
        load(tiny, tmp_path / "data")
    assert "try again later" in str(caught.value)
    # What was right before stays, and nothing else.
    assert files_below(tmp_path) == [path[1:] for path in right if path != last]


def test_an_interrupted_download_leaves_nothing(server, monkeypatch, tmp_path, tiny):
    server.pages = dict.fromkeys(tiny.served(), cut)
    use_mirrors(monkeypatch, tiny, f"{server.base}/")
    with pytest.raises(DataUnavailableError, match=r"its download failed .*--data-dir"):
        load(tiny, tmp_path / "data")
    assert files_below(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(server, monkeypatch, tmp_path, tiny):
    server.pages = tiny.served()
    use_mirrors(monkeypatch, tiny, f"{server.base}/")
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        load(tiny, tmp_path / "data")
    tmp_path.chmod(0o700)


def test_a_data_dir_below_a_file_is_named(server, monkeypatch, tmp_path, tiny):
    server.pages = tiny.served()
    use_mirrors(monkeypatch, tiny, f"{server.base}/")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        load(tiny, tmp_path / "file" / "data")


def test_every_address_is_https():
    sets = (published.FASHION_MNIST, published.MNIST)
    mirrors = [mirror for each in sets for mirror in each.mirrors]
    for mirror in (*mirrors, *published.CIFAR10_ARCHIVE_MIRRORS):
        assert mirror.startswith("https://")
        assert mirror.endswith("/")
    assert len(mirrors) == 4


def test_every_published_file_has_its_own_sha256():
    sets = (published.FASHION_MNIST, published.MNIST, published.CIFAR10)
    files = [file for each in sets for split in each.files.values() for file in split]
    digests = {file.sha256 for file in (*files, published.CIFAR10_ARCHIVE)}
    assert len(digests) == len(files) + 1 == 15
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)


def test_a_file_of_unknown_length_is_known_by_its_checksum(tmp_path):
    path = tmp_path / "test"
    path.write_bytes(CONTENT)
    at_most = published.PublishedFile(
        "test", 2 * len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), is_exact=False
    )
    assert read_verified(path, at_most) == CONTENT
    with pytest.raises(IntegrityError, match="bytes, expected"):
        read_verified(path, replace(at_most, is_exact=True))
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(IntegrityError, match="SHA-256"):
        read_verified(path, at_most)
    path.write_bytes(3 * CONTENT)
    with pytest.raises(IntegrityError, match=r"test"):
        read_verified(path, at_most)
