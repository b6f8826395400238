"""`https://`: one file, fetched with requests, held to its sha256."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import requests

from controller.errors import AccessDenied, SourceError
from controller.registry.source_ref import HttpsSource
from controller.sources import transfer, weights
from controller.sources.transfer import Stream, Target, Transient
from controller.sources.values import Fetched, Job

_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}


def fetch(ref: HttpsSource, sha256: str | None, job: Job) -> Fetched:
    """Download the file; raises SourceError, AccessDenied or Cancelled."""
    name, shown = file_name(ref), without_query(ref.url)
    if sha256 is None:
        raise SourceError(f"{shown} has no sha256. Add `sha256:` in models.yaml (`sha256sum {name}` prints it).")
    if weights.is_pickle(name) or weights.is_code(name):
        raise SourceError(weights.refusal(name))
    with requests.Session() as session:
        target = Target(label=shown, path=job.files / name, part=job.work / "download.part")
        if not target.path.is_file():
            transfer.download(job, target, lambda headers: _open(session, ref.url, headers))
    return Fetched(single_file=True, sha256={name: sha256})


def file_name(ref: HttpsSource) -> str:
    """The name the file gets on disk."""
    name = PurePosixPath(unquote(urlsplit(ref.url).path)).name
    return name if name not in ("", ".", "..") else "model"


def without_query(url: str) -> str:
    """The address as it may be shown: a query string may hold a signature."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


@contextmanager
def _open(session: requests.Session, url: str, headers: Mapping[str, str]) -> Iterator[Stream]:
    shown = without_query(url)
    try:
        with _follow(session, url, headers) as response:
            if response.status_code in (401, 403):
                raise AccessDenied(f"{shown}: the server refuses access ({response.status_code}).")
            if response.status_code in (404, 410):
                raise SourceError(f"{shown} does not exist ({response.status_code}). Check the address in models.yaml.")
            yield Stream(response.status_code, response.headers, response.iter_content(transfer.CHUNK_BYTES))
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise SourceError(
                f"{shown}: the server's certificate is not trusted. "
                "Behind a company proxy, point REQUESTS_CA_BUNDLE at its certificate authority."
            ) from error
        raise Transient(f"the connection failed ({_reason(error)})") from error
    except requests.exceptions.RequestException as error:
        raise SourceError(f"{shown}: the download failed ({_reason(error)}).") from error


def _follow(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    """Send the GET, following redirects by hand, since each must stay on https."""
    time_outs_s = (transfer.TIMEOUT_CONNECT_S, transfer.TIMEOUT_READ_S)
    for _ in range(_MOST_REDIRECTS + 1):
        response = session.get(url, headers=dict(headers), stream=True, timeout=time_outs_s, allow_redirects=False)
        location = response.headers.get("Location")
        if response.status_code not in _REDIRECTS or location is None:
            return response
        response.close()
        url = urljoin(url, location)
        if urlsplit(url).scheme != "https":
            raise SourceError(f"The server redirects to {without_query(url)}, which is not https; it is not followed.")
    raise SourceError(f"More than {_MOST_REDIRECTS} redirects, the last to {without_query(url)}.")


def _reason(error: BaseException) -> str:
    """The kind of failure; the library's own text repeats the address with its query."""
    inner = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    inner = getattr(inner, "reason", None) or inner
    return type(inner).__name__
