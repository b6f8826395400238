"""What every request passes before its view: it gets an id, and is from no other host or site."""

from __future__ import annotations

import re
import uuid
from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from controller.errors import ContentTypeForbidden, HostForbidden, OriginForbidden

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def install(app: Flask, allowed_hosts: tuple[str, ...]) -> None:
    """Refuse other Hosts (DNS rebinding) and other sites' pages (CSRF) before any effect; give every request an id."""
    hosts = frozenset(LOOPBACK_NAMES + allowed_hosts)

    @app.before_request
    def _check() -> None:
        client_id = request.headers.get("X-Request-Id", "")
        g.request_id = client_id if _REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex
        if _hostname(request.headers.get("Host", "")) not in hosts:
            raise HostForbidden(
                "the Host header names another machine; use 127.0.0.1, or list the name in ORCHESTRAR_ALLOWED_HOSTS"
            )
        _check_browser(hosts)

    @app.after_request
    def _sign(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        return response


def _check_browser(hosts: frozenset[str]) -> None:
    """Refuse other sites' pages. Browsers alone send these headers, and a page can make its browser POST anywhere."""
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if origin is None and site is None:
        return
    is_other_site = site in ("cross-site", "same-site") if origin is None else _origin_host(origin) not in hosts
    if is_other_site:
        raise OriginForbidden("this page may not use the API: its origin is another site")
    if request.method not in ("GET", "HEAD", "OPTIONS") and not request.is_json:
        raise ContentTypeForbidden("a browser must send JSON: set Content-Type: application/json")


def _origin_host(origin: str) -> str:
    """Return the origin's host name; empty, which no host is called, for `null` and for what is no URL."""
    try:
        return _hostname(urlsplit(origin).netloc)
    except ValueError:
        return ""


def _hostname(netloc: str) -> str:
    """Return the name without its port; an IPv6 address keeps its brackets."""
    return re.sub(r":\d+$", "", netloc).lower()
