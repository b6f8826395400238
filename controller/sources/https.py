"""`https://`: one file, whose sha256 must match."""

from __future__ import annotations

import logging
import netrc
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import httpx2

from controller.errors import AccessDenied, SourceError
from controller.registry.source_ref import HttpsSource
from controller.sources import transfer, weights
from controller.sources.transfer import Stream, Target, Transient
from controller.sources.values import FetchResult, Job

# Its lines about each request contain the whole address, and with the query perhaps a signature.
logging.getLogger("httpx2").setLevel(logging.WARNING)

_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}


def fetch(ref: HttpsSource, sha256: str | None, job: Job) -> FetchResult:
    """Download the file; raises SourceError, AccessDenied or Cancelled."""
    name, label = file_name(ref), without_query(ref.url)
    if sha256 is None:
        raise SourceError(f"{label} has no sha256. Add `sha256:` in models.yaml (`sha256sum {name}` prints it).")
    if weights.is_pickle(name) or weights.is_code(name):
        raise SourceError(weights.refusal(name))
    target = Target(label=label, path=job.files / name, part=job.work / "download.part")
    if not target.path.is_file():
        with _client() as client:
            transfer.download(job, target, lambda headers: _open(client, ref.url, headers))
    return FetchResult(single_file=True, sha256={name: sha256})


def file_name(ref: HttpsSource) -> str:
    """Return the name of the file on disk."""
    name = PurePosixPath(unquote(urlsplit(ref.url).path)).name
    return name if name not in ("", ".", "..") else "model"


def without_query(url: str) -> str:
    """Return the address without its query, which may contain a signature and so appears in no message."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


@contextmanager
def _open(client: httpx2.Client, url: str, headers: Mapping[str, str]) -> Iterator[Stream]:
    label = without_query(url)
    try:
        with closing(_follow(client, url, headers)) as response:
            if response.status_code in (401, 403):
                raise AccessDenied(f"{label}: the server refuses access ({response.status_code}).")
            if response.status_code in (404, 410):
                raise SourceError(f"{label} does not exist ({response.status_code}). Check the address in models.yaml.")
            yield Stream(response.status_code, response.headers, response.iter_raw())
    except httpx2.UnsupportedProtocol as error:
        raise SourceError(f"{label}: the download failed ({_reason(error)}).") from error
    except httpx2.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise SourceError(
                f"{label}: the server's certificate is not trusted. "
                "Behind a company proxy, point REQUESTS_CA_BUNDLE at its certificate authority."
            ) from error
        raise Transient(f"the connection failed ({_reason(error)})") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise SourceError(f"{label}: the download failed ({_reason(error)}).") from error


def _client() -> httpx2.Client:
    """Return a client with this host's proxies and certificate authorities; raises SourceError for unusable ones."""
    timeout = httpx2.Timeout(transfer.TIMEOUT_READ_S, connect=transfer.TIMEOUT_CONNECT_S)
    try:
        return httpx2.Client(verify=_authorities(), timeout=timeout)
    except OSError as error:
        raise SourceError(
            f"The certificate authorities of this host cannot be read ({error.strerror or _reason(error)}). "
            "Correct REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE."
        ) from error
    except (ValueError, httpx2.InvalidURL, ImportError) as error:
        raise SourceError(
            f"The proxy in https_proxy or all_proxy cannot be used ({_reason(error)}). Write http://host:port."
        ) from error


def _authorities() -> ssl.SSLContext | bool:
    """Return those in the user's file or folder, or True for the library's choice: SSL_CERT_FILE, the system's own."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if not bundle:
        return True
    if os.path.isdir(bundle):
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def _follow(client: httpx2.Client, url: str, headers: Mapping[str, str]) -> httpx2.Response:
    """Send the GET and follow redirects, each of which must stay on https."""
    for _ in range(_MOST_REDIRECTS + 1):
        request = client.build_request("GET", url, headers=dict(headers))
        response = client.send(request, stream=True, follow_redirects=False, auth=_login(request.url.host))
        location = response.headers.get("Location")
        if response.status_code not in _REDIRECTS or location is None:
            return response
        response.close()
        url = urljoin(url, location)
        if urlsplit(url).scheme != "https":
            raise SourceError(f"The server redirects to {without_query(url)}, which is not https; it is not followed.")
    raise SourceError(f"More than {_MOST_REDIRECTS} redirects, the last to {without_query(url)}.")


def _login(host: str) -> tuple[str, str] | None:
    """Return the user name and password that the user's netrc file has for this host."""
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return (entry[0] or entry[1] or "", entry[2]) if entry and entry[2] else None


def _reason(error: BaseException) -> str:
    """Return the kind of failure; the library's own text may repeat the address with its query."""
    return type(error).__name__
