"""An image registry with one small image, on loopback, where Docker needs no TLS."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """`image` is its reference by digest. The layer is held back until `release` is set."""

    def __init__(self, port: int) -> None:
        self.release = threading.Event()
        self.release.set()
        self.layer_asked = threading.Event()
        layer = _layer()
        config = _json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/nothing"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
                "history": [{"created_by": "test"}],
            }
        )
        self.layer_digest = digest(layer)
        parts = {"config": _part(CONFIG, config), "layers": [_part(LAYER, layer)]}
        manifest = _json({"schemaVersion": 2, "mediaType": MANIFEST, **parts})
        self.contents = {digest(blob): blob for blob in (layer, config, manifest)}
        self.manifest_digest = digest(manifest)
        self.image = f"127.0.0.1:{port}/tiny@{self.manifest_digest}"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _layer() -> bytes:
    """Return a layer of one file with unique content, so that no earlier test can have left it behind."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        content = os.urandom(1024)
        entry = tarfile.TarInfo("content")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def _part(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(content), "digest": digest(content)}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        content = b"{}" if self.path == "/v2/" else self.registry.contents.get(name)
        if name == self.registry.layer_digest:
            self.registry.layer_asked.set()
            self.registry.release.wait(60)
        self.send_response(200 if content is not None else 404)
        if "/manifests/" in self.path:
            self.send_header("Content-Type", MANIFEST)
            self.send_header("Docker-Content-Digest", name)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving_registry() -> Iterator[Registry]:
    """Serve a registry within the block."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        registry = Handler.registry = Registry(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield registry
        finally:
            registry.release.set()
            server.shutdown()
            thread.join()
