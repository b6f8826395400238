"""A file server on loopback that misbehaves on request, and a small model hub on top of it."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from controller.sources import Progress, SourceStore, StoredSource


@dataclass
class Gate:
    """Stops a body after `after_bytes` until `open` is set; sets `is_reached` there."""

    after_bytes: int
    is_reached: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)


@dataclass
class Repo:
    """A model repository; `lfs` files are served with their sha256, the others with their git id."""

    files: dict[str, bytes]
    lfs: set[str] = field(default_factory=set)
    commit: str = "c0ffee" + "0" * 34
    is_gated: bool = False
    allowed_token: str | None = None
    siblings: list[dict[str, Any]] | None = None
    card: dict[str, Any] = field(default_factory=dict)


class FileServer:
    """Serves `files` by path with ranges and ETags; the other attributes make single answers fail."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.statuses: dict[str, list[int]] = {}
        self.cuts: dict[str, list[int]] = {}
        self.gates: dict[str, Gate] = {}
        self.lengths: dict[str, int] = {}
        self.extra_headers: dict[str, dict[str, str]] = {}
        self.ranges = True
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent_bytes: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Open all gates and stop."""
        for gate in self.gates.values():
            gate.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def respond(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a path; a hub answers its own addresses here."""
        body = self.files.get(path)
        return (404, {}, b"") if body is None else (200, {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'}, body)

    def header(self, name: str, path: str) -> list[str | None]:
        """Return the values of one header of all requests for a path."""
        return [headers.get(name.lower()) for _, request_path, headers in self.requests if request_path == path]


class HubServer(FileServer):
    """Serves model info and file contents as the hub's own client expects them."""

    def __init__(self) -> None:
        super().__init__()
        self.repos: dict[str, Repo] = {}
        self.revisions: set[str] = {"main"}
        self.storage: FileServer | None = None
        self.token: str | None = None

    def respond(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.lstrip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._info("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), "/".join(parts[4:]), path)
        return super().respond(path)

    def _info(self, name: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        repo = self.repos.get(name)
        if repo is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if unquote(revision) not in self.revisions | {repo.commit}:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        siblings = repo.siblings or [_sibling(file, body, file in repo.lfs) for file, body in repo.files.items()]
        return (
            200,
            {},
            json.dumps({"id": name, "sha": repo.commit, "siblings": siblings, "cardData": repo.card}).encode(),
        )

    def _resolve(self, name: str, file: str, path: str) -> tuple[int, dict[str, str], bytes]:
        repo = self.repos[name]
        login = self.header("Authorization", path)[-1]
        if repo.is_gated and (login is None or login != f"Bearer {repo.allowed_token}"):
            return 401 if login is None else 403, {"X-Error-Code": "GatedRepo"}, b""
        body = repo.files[unquote(file)]
        if self.storage is not None and file in repo.lfs:
            self.storage.files[f"/{file}"] = body
            return 302, {"Location": f"{self.storage.url}/{file}"}, b""
        return 200, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": repo.commit}, body


def _sibling(name: str, body: bytes, lfs: bool) -> dict[str, Any]:
    git_id = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
    sibling: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": git_id}
    if lfs:
        sibling["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return sibling


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that leave early: many tests are about them."""


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        owner = self.owner
        owner.requests.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        if owner.statuses.get(path):
            status, headers, body = owner.statuses[path].pop(0), {"Retry-After": "1"}, b""
        elif path in owner.redirects:
            status, headers, body = 302, {"Location": owner.redirects[path]}, b""
        else:
            status, headers, body = owner.respond(path)
        if status == 200:
            status, body = self._ranged(headers, body)
        self.send_response(status)
        headers.setdefault("Content-Length", str(owner.lengths.get(path, len(body))))
        for name, value in {**headers, **owner.extra_headers.get(path, {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self._send(path, body)

    def _ranged(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        byte_range, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if byte_range is None or not self.owner.ranges or condition not in (None, headers.get("ETag")):
            return 200, body
        start = int(byte_range.removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            return 416, b""
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return 206, body[start:]

    def _send(self, path: str, body: bytes) -> None:
        owner = self.owner
        cuts = owner.cuts.get(path)
        end = cuts.pop(0) if cuts else len(body)
        gate = owner.gates.get(path)
        if gate is not None and gate.after_bytes < end:
            self._write(path, body[: gate.after_bytes])
            gate.is_reached.set()
            gate.open.wait()
            body, end = body[gate.after_bytes :], end - gate.after_bytes
        self._write(path, body[:end])

    def _write(self, path: str, body: bytes) -> None:
        self.wfile.write(body)
        self.wfile.flush()
        self.owner.sent_bytes[path] += len(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the tests read `requests`."""


def make_certificate(folder: Path) -> Path:
    """Return a certificate for 127.0.0.1, with its key in the same file."""
    path = folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", folder / "public.pem"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + (folder / "public.pem").read_text())
    return path


def make_store(root: Path, **options: Any) -> SourceStore:
    """Return a store that does not sleep between attempts."""
    return SourceStore(root, sleep=lambda _: None, **options)


def fetch(
    store: SourceStore,
    ref: Any,
    sha256: str | None = None,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> StoredSource:
    """Call `store.fetch` with defaults for progress and cancel."""
    return store.fetch(ref, sha256, on_progress=on_progress, cancelled=cancelled)
