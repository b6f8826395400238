"""`https://`: one file, whose sha256 must match."""

from __future__ import annotations

import hashlib
import logging
import netrc
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import httpx2

from controller.errors import AccessDenied, SourceError
from controller.registry.source_ref import HttpsSource
from controller.sources import transfer, weights
from controller.sources.split_files import number_of, parts_of
from controller.sources.transfer import Stream, Target, Transient
from controller.sources.values import FetchResult, Job

# Its lines about each request contain the whole address, and with the query perhaps a signature.
logging.getLogger("httpx2").setLevel(logging.WARNING)

# The manifest's checksum of a folder, from sha256sum's lines.
_SUM_OF_LINES = r"sed -E 's/(.*)  (.*)/\2\x00\1/' | LC_ALL=C sort | sha256sum"
_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}


def fetch(ref: HttpsSource, sha256: str | None, job: Job) -> FetchResult:
    """Download the file, or all parts of a split GGUF model; raises SourceError, AccessDenied or Cancelled."""
    name, label = file_name(ref), without_query(ref.url)
    names = parts_of(name)
    if sha256 is None:
        raise SourceError(f"{label} has no sha256. Add `sha256:` in models.yaml (`sha256sum {name}` prints it).")
    if weights.is_pickle(name) or weights.is_code(name):
        raise SourceError(weights.refusal(name))
    if len(names) == 1:
        _download(ref.url, Target(label=label, path=job.files / name, part=job.work / "download.part"), job)
        return FetchResult(single_file=True, sha256={name: sha256})
    for part in names:
        url = _address_of(ref.url, name, part)
        part_file = job.work / f"{part}.part"
        _download(url, Target(label=without_query(url), path=job.files / part, part=part_file), job)
        _require_sum_of_all(job.files / part, names, sha256)
    return FetchResult(single_file=False)


def _download(url: str, target: Target, job: Job) -> None:
    if not target.path.is_file():
        with _client() as client:
            transfer.download(job, target, lambda headers: _open(client, url, headers))


def _address_of(url: str, name: str, part: str) -> str:
    """Return the address of another part, beside that of this one."""
    parts = urlsplit(url)
    folder, _, last = parts.path.rpartition("/")
    return parts._replace(path=f"{folder}/{last.replace(number_of(name), number_of(part))}").geturl()


def _require_sum_of_all(path: Path, names: list[str], sha256: str) -> None:
    """Raise SourceError if the checksum is that of one part: then the others would be fetched in vain."""
    with path.open("rb") as file:
        is_of_part = hashlib.file_digest(file, "sha256").hexdigest() == sha256.lower()
    if is_of_part:
        number = number_of(names[0])
        files = names[0].replace(number, f"-*{number[6:]}")
        raise SourceError(
            f"The `sha256:` in models.yaml is that of {path.name} alone, one of {len(names)} parts. Write the one that "
            f"this prints for all parts: sha256sum {files} | {_SUM_OF_LINES}"
        )


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
