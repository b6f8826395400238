"""`https://` sources against a TLS server on loopback."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from controller.errors import AccessDenied, Cancelled, ChecksumMismatch, SourceError
from controller.registry.source_ref import HttpsSource
from controller.sources import Progress, SourceStore
from tests.hub_server import FileServer, Gate, fetch, make_certificate, make_store

BODY = os.urandom(700_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
PATH = "/models/tiny.gguf"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("NETRC", os.devnull)
    for name in ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    server = FileServer(certificate)
    server.files[PATH] = BODY
    yield server
    server.close()


@pytest.fixture
def ref(server: FileServer) -> HttpsSource:
    return HttpsSource(server.url + PATH)


def test_a_file_is_downloaded_under_its_own_name(tmp_path: Path, ref: HttpsSource) -> None:
    """The file is on disk under its name, readable for all, and the lookup finds it without the network."""
    store = make_store(tmp_path)
    source = fetch(store, ref, DIGEST)
    assert source.path.name == "tiny.gguf"
    assert source.path.read_bytes() == BODY
    assert source.path.stat().st_mode & 0o777 == 0o644
    assert (source.total_bytes, source.files) == (len(BODY), ("tiny.gguf",))
    assert make_store(tmp_path).lookup(ref, DIGEST) == source


def test_no_log_contains_a_query(tmp_path: Path, ref: HttpsSource, caplog: pytest.LogCaptureFixture) -> None:
    """The query of an address, which may be a signature, is in no line of the controller's log."""
    caplog.set_level(logging.INFO)
    fetch(make_store(tmp_path), HttpsSource(ref.url + "?signature=secret"), DIGEST)
    assert "secret" not in caplog.text


def test_progress_grows_to_all_bytes(tmp_path: Path, ref: HttpsSource) -> None:
    """Progress names the phase and only grows within it, up to all bytes."""
    reports: list[Progress] = []
    fetch(make_store(tmp_path), ref, DIGEST, on_progress=reports.append)
    downloads = [progress.done_bytes for progress in reports if progress.phase == "downloading"]
    assert downloads == sorted(downloads)
    assert Progress("downloading", len(BODY), len(BODY)) in reports
    assert reports[-1] == Progress("verifying", len(BODY), len(BODY))


def test_without_a_checksum_nothing_is_fetched(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """An https source without sha256 is an error before any request, which says what to write."""
    with pytest.raises(SourceError, match="Add `sha256:`"):
        fetch(make_store(tmp_path), ref)
    assert server.requests == []


def test_a_dropped_connection_is_resumed(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """After a drop only the missing bytes are requested, on the condition of the same ETag."""
    server.cuts[PATH] = [262_144, 131_072]
    assert fetch(make_store(tmp_path), ref, DIGEST).path.read_bytes() == BODY
    assert server.header("Range", PATH) == [None, "bytes=262144-", "bytes=393216-"]
    assert server.header("If-Range", PATH)[1] == server.respond(PATH)[1]["ETag"]
    assert server.sent_bytes[PATH] == len(BODY)


def test_a_file_that_has_changed_is_fetched_from_its_start(
    tmp_path: Path, ref: HttpsSource, server: FileServer
) -> None:
    """Bytes of two versions are never combined: because of the other ETag the server sends the whole file."""
    server.files[PATH] = os.urandom(len(BODY))
    server.cuts[PATH] = [300_000]

    def change(progress: Progress) -> None:
        server.files[PATH] = BODY

    assert fetch(make_store(tmp_path), ref, DIGEST, on_progress=change).path.read_bytes() == BODY


def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """The body of a 200 instead of a 206 replaces the bytes on the disk."""
    server.ranges = False
    server.cuts[PATH] = [300_000]
    assert fetch(make_store(tmp_path), ref, DIGEST).path.read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """A file with another sha256 is never complete, and the next fetch starts from nothing."""
    store = make_store(tmp_path)
    server.files[PATH] = b"x" * len(BODY)
    with pytest.raises(ChecksumMismatch, match=DIGEST):
        fetch(store, ref, DIGEST)
    assert store.lookup(ref) is None
    server.files[PATH] = BODY
    assert fetch(store, ref, DIGEST).path.read_bytes() == BODY


def test_a_new_checksum_replaces_the_old_file(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """With another sha256 in models.yaml the old file is not complete, and the new one replaces it."""
    store = make_store(tmp_path)
    fetch(store, ref, DIGEST)
    server.files[PATH] = b"new"
    digest = hashlib.sha256(b"new").hexdigest()
    assert store.lookup(ref, digest) is None
    assert fetch(store, ref, digest).path.read_bytes() == b"new"


def test_temporary_failures_are_retried_a_bounded_number_of_times(
    tmp_path: Path, ref: HttpsSource, server: FileServer
) -> None:
    """After a 503 or 429 the fetch waits by back-off and Retry-After; six failures in a row are an error."""
    sleeps: list[float] = []
    store = SourceStore(tmp_path, sleep=sleeps.append)
    server.statuses[PATH] = [503, 429]
    assert fetch(store, ref, DIGEST).path.read_bytes() == BODY
    assert sum(sleeps) == pytest.approx(2.0, abs=0.3)
    store.delete(ref)
    server.statuses[PATH] = [500] * 20
    with pytest.raises(SourceError, match="the server answers 500; given up after 6 tries"):
        fetch(store, ref, DIGEST)
    assert len(server.statuses[PATH]) == 14


@pytest.mark.parametrize(
    ("status", "error", "words"), [(404, SourceError, "does not exist"), (403, AccessDenied, "refuses access")]
)
def test_final_answers_are_not_retried(
    tmp_path: Path, ref: HttpsSource, server: FileServer, status: int, error: type[SourceError], words: str
) -> None:
    """A 404 or 403 is an error at once, without the query string in its message."""
    server.statuses[PATH] = [status]
    with pytest.raises(error, match=words) as error_info:
        fetch(make_store(tmp_path), HttpsSource(ref.url + "?signature=secret"), DIGEST)
    assert "secret" not in error_info.value.message
    assert len(server.requests) == 1


def test_redirects_stay_on_https(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """A redirect to https is followed, one to http never."""
    server.redirects["/moved"] = PATH
    assert fetch(make_store(tmp_path), HttpsSource(server.url + "/moved"), DIGEST).total_bytes == len(BODY)
    server.redirects["/down"] = "http://127.0.0.1:9/x?signature=secret"
    with pytest.raises(SourceError, match="not https") as error_info:
        fetch(make_store(tmp_path), HttpsSource(server.url + "/down"), DIGEST)
    assert "secret" not in error_info.value.message
    server.redirects["/loop"] = "/loop"
    with pytest.raises(SourceError, match="More than 5 redirects"):
        fetch(make_store(tmp_path), HttpsSource(server.url + "/loop"), DIGEST)


def test_an_unknown_certificate_is_an_error(
    tmp_path: Path, ref: HttpsSource, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of an unknown authority ends the download at once, with the setting that helps."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(SourceError, match="REQUESTS_CA_BUNDLE"):
        fetch(make_store(tmp_path), ref, DIGEST)
    assert server.requests == []


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_users_certificate_authority_is_trusted(
    tmp_path: Path, ref: HttpsSource, certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each of the usual variables may name it; one that names no such file is an error that names the variables."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(name, str(certificate))
    assert fetch(make_store(tmp_path), ref, DIGEST).total_bytes == len(BODY)
    monkeypatch.setenv(name, str(tmp_path / "absent.pem"))
    with pytest.raises(SourceError, match=f"certificate authorities.*No such file.*{name}"):
        fetch(make_store(tmp_path / "other"), ref, DIGEST)


def test_the_proxy_of_the_environment_is_used(
    tmp_path: Path, ref: HttpsSource, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request goes to the proxy of `https_proxy`, unless `no_proxy` names the host or its network."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="the connection failed"):
        fetch(make_store(tmp_path), ref, DIGEST)
    assert server.requests == []
    monkeypatch.setenv("no_proxy", "example.com, 127.0.0.0/8")
    assert fetch(make_store(tmp_path), ref, DIGEST).total_bytes == len(BODY)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9", "http://127.0.0.1:port"])
def test_an_unusable_proxy_is_an_error(
    tmp_path: Path, ref: HttpsSource, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """An unsupported kind of proxy, or an invalid address, is an error that names the variable."""
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(SourceError, match="https_proxy"):
        fetch(make_store(tmp_path), ref, DIGEST)


def test_a_login_comes_from_the_users_netrc(
    tmp_path: Path, ref: HttpsSource, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in the netrc file gets the user's name and password, any other server gets none."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(file))
    fetch(make_store(tmp_path / "one"), ref, DIGEST)
    file.write_text("machine example.com login user password secret\n")
    fetch(make_store(tmp_path / "two"), ref, DIGEST)
    file.write_text("not a netrc file\n")
    fetch(make_store(tmp_path / "three"), ref, DIGEST)
    assert server.header("Authorization", PATH) == ["Basic dXNlcjpzZWNyZXQ=", None, None]


def test_a_stalled_connection_is_noticed(
    tmp_path: Path, ref: HttpsSource, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server stops sending, a new request for the rest follows after the read timeout."""
    monkeypatch.setattr("controller.sources.transfer.TIMEOUT_READ_S", 0.2)
    gate = server.gates[PATH] = Gate(after_bytes=300_000)

    def open_for_the_second() -> bool:
        if len(server.requests) > 1:
            gate.open.set()
        return False

    assert fetch(make_store(tmp_path), ref, DIGEST, cancelled=open_for_the_second).path.read_bytes() == BODY
    assert server.header("Range", PATH)[:2] == [None, "bytes=300000-"]


def test_an_unreachable_host(tmp_path: Path, server: FileServer, ref: HttpsSource) -> None:
    """An unreachable host is an error after a bounded number of attempts."""
    server.close()
    with pytest.raises(SourceError, match=r"the connection failed.*given up after 6 tries"):
        fetch(make_store(tmp_path), ref, DIGEST)


def test_a_file_larger_than_the_disk_is_an_error_at_once(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """The announced length is compared with the free space before the first write; the error has folder and bytes."""
    server.lengths[PATH] = 1 << 60
    with pytest.raises(SourceError, match="disk is full") as error_info:
        fetch(make_store(tmp_path), ref, DIGEST)
    assert error_info.value.details["needed_bytes"] == 1 << 60
    assert str(tmp_path) in error_info.value.details["folder"]
    assert make_store(tmp_path).lookup(ref) is None


def test_pickles_are_an_error_by_their_name(tmp_path: Path, server: FileServer) -> None:
    """A format that may run code is not even requested."""
    with pytest.raises(SourceError, match="never loaded"):
        fetch(make_store(tmp_path), HttpsSource(server.url + "/model.bin"), DIGEST)
    assert server.requests == []


def test_cancelling_keeps_the_bytes(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """A cancel is noticed between two chunks; the next fetch requests only the rest."""
    store = make_store(tmp_path)
    server.gates[PATH] = Gate(after_bytes=500_000)

    def parts() -> list[int]:
        return [part.stat().st_size for part in tmp_path.rglob("download.part")]

    with pytest.raises(Cancelled):
        fetch(store, ref, DIGEST, cancelled=lambda: any(size >= 131_072 for size in parts()))
    assert store.lookup(ref) is None
    (size_bytes,) = parts()
    server.gates.pop(PATH).open.set()
    fetch(store, ref, DIGEST)
    assert server.header("Range", PATH) == [None, f"bytes={size_bytes}-"]


def test_a_body_longer_than_announced(tmp_path: Path, ref: HttpsSource, server: FileServer) -> None:
    """Bytes beyond the announced length are not part of the file."""
    server.lengths[PATH] = 100
    with pytest.raises(ChecksumMismatch):
        fetch(make_store(tmp_path), ref, DIGEST)


PARTS = {f"/models/big%20one-0000{number}-of-00003.gguf": os.urandom(1000 * number) for number in (1, 2, 3)}


def sum_by_the_command(folder: Path, command: str) -> str:
    return subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True, text=True).stdout[:64]


@pytest.mark.parametrize("number", [1, 3])
def test_the_other_parts_lie_beside_one(tmp_path: Path, server: FileServer, number: int) -> None:
    """All parts of a split model are fetched; the checksum of all is printed by the command in the error."""
    server.files.update(PARTS)
    ref = HttpsSource(f"{server.url}/models/big%20one-0000{number}-of-00003.gguf?key=1")
    store = make_store(tmp_path / "data")
    first = hashlib.sha256(next(iter(PARTS.values()))).hexdigest()
    with pytest.raises(SourceError, match=r"is that of big one-00001-of-00003\.gguf alone, one of 3 parts") as error:
        fetch(store, ref, first)
    assert [path for _, path, _ in server.requests] == [next(iter(PARTS))]
    folder = tmp_path / "by-hand"
    folder.mkdir()
    for path, body in PARTS.items():
        (folder / unquote(path).rpartition("/")[2]).write_bytes(body)
    command = error.value.message.partition("all parts: ")[2].replace("big one", "big?one")
    source = fetch(store, ref, sum_by_the_command(folder, command))
    assert [(source.path / name).read_bytes() for name in source.files] == list(PARTS.values())
    assert (source.path.name, source.is_selection) == ("files", False)
    assert server.sent_bytes.total() == sum(map(len, PARTS.values()))


def test_a_part_that_is_not_there(tmp_path: Path, server: FileServer) -> None:
    """The error has the address of the missing part."""
    server.files.update(PARTS)
    del server.files["/models/big%20one-00002-of-00003.gguf"]
    try:
        with pytest.raises(SourceError, match=r"big%20one-00002-of-00003\.gguf does not exist"):
            fetch(make_store(tmp_path), HttpsSource(server.url + next(iter(PARTS))), DIGEST)
    finally:
        server.files.update(PARTS)
