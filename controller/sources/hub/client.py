"""`hf://`: the data files of a model repository, through huggingface_hub.

The library resolves, lists, authenticates and explains failures, and its HTTP session transfers the bytes. Its own
`hf_hub_download` is not used: it restarts a file after each interruption and compares no checksum.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from controller.errors import AccessDenied, ChecksumMismatch, SourceError
from controller.registry.source_ref import HubSource
from controller.sources import transfer
from controller.sources.disk import empty, require_room
from controller.sources.hub.files import choose, unreadable
from controller.sources.hub.other_forms import packed_form
from controller.sources.transfer import Stream, Target, Transient
from controller.sources.values import FetchResult, Job, Taker
from controller.system.files import write_atomic

_CONFIG = "config.json"

log = logging.getLogger(__name__)

_TIMEOUT = httpx2.Timeout(transfer.TIMEOUT_READ_S, connect=transfer.TIMEOUT_CONNECT_S)


@dataclass(frozen=True)
class Hub:
    """A hub and the host's token for it; None means the library's own address, or no token."""

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)

    def fetch(self, ref: HubSource, taker: Taker, job: Job) -> FetchResult:
        """Download a repository's config, tokenizer and weights; raises SourceError, AccessDenied or Cancelled.

        The files are those that suit the taker. If it cannot read the weights, only config.json is fetched.
        """
        # The HTTP library would quote an invalid header value in its error.
        if self.token is not None and not re.fullmatch(r"[\x21-\x7e]+", self.token):
            raise AccessDenied("HF_TOKEN contains a space, a line break or a non-ASCII character. Set it again.")
        info = transfer.with_retries(job, lambda: self._info(ref), str(ref))
        if info.sha is None:
            raise SourceError(f"{ref}: the hub reports no commit for it. Check HF_ENDPOINT.")
        choice = choose(
            str(ref),
            list(info.siblings or ()),
            file=ref.file,
            quant=ref.quant,
            room=taker.room,
            base=_base_model(info),
        )
        if choice.reason:
            log.info("%s: %s", ref, choice.reason)
        _keep_only(job, info.sha, choice.files)
        if not taker.reads_quantised:
            self._require_readable(ref, info, choice.files, job)
        self._download(ref, info.sha, choice.files, job)
        return FetchResult(
            single_file=False,
            facts={"commit": info.sha, "choice": choice.reason},
            sha256={file.rfilename: file.lfs.sha256 for file in choice.files if file.lfs},
        )

    def _info(self, ref: HubSource) -> ModelInfo:
        with self._our_errors(ref):
            api = HfApi(endpoint=self.endpoint, token=self.token or False)
            try:
                return api.model_info(
                    ref.repo, revision=ref.revision, files_metadata=True, timeout=transfer.TIMEOUT_READ_S
                )
            except (TypeError, KeyError) as error:
                raise ValueError("unexpected JSON") from error

    def _require_readable(self, ref: HubSource, info: ModelInfo, files: Sequence[RepoSibling], job: Job) -> None:
        """Fetch config.json; raise SourceError if it names a quantisation that our engines do not read."""
        names = {file.rfilename for file in files}
        if not any(name.endswith(".safetensors") for name in names):
            return
        self._download(ref, str(info.sha), [file for file in files if file.rfilename == _CONFIG], job)
        config = job.files / _CONFIG
        form = packed_form(config.read_bytes() if config.is_file() else None, names)
        if form is not None:
            raise unreadable(str(ref), form, _base_model(info))

    def _download(self, ref: HubSource, commit: str, files: Sequence[RepoSibling], job: Job) -> None:
        all_bytes = sum(file.size or 0 for file in files)
        present_bytes = sum(path.stat().st_size for path in job.folder.rglob("*") if path.is_file())
        job.needed_bytes = max(all_bytes - present_bytes, 0)
        require_room(job.work, job.needed_bytes)
        before_bytes = 0
        for file in files:
            target = Target(
                label=f"{ref} {file.rfilename}",
                path=job.files / file.rfilename,
                part=job.work / f"{hashlib.sha256(file.rfilename.encode()).hexdigest()[:16]}.part",
                immutable=True,
                size_bytes=file.size,
                before_bytes=before_bytes,
                all_bytes=all_bytes,
            )
            if not target.path.is_file():
                url = hf_hub_url(ref.repo, file.rfilename, revision=commit, endpoint=self.endpoint)
                transfer.download(job, target, partial(self._open, ref, url))
            _check_git_blob(file, target)
            before_bytes += file.size or 0

    @contextmanager
    def _open(self, ref: HubSource, url: str, headers: Mapping[str, str]) -> Iterator[Stream]:
        login = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        all_headers = {**headers, **login}
        with self._our_errors(ref), get_session().stream("GET", url, headers=all_headers, timeout=_TIMEOUT) as response:
            if response.status_code != 416:
                hf_raise_for_status(response)
            yield Stream(response.status_code, response.headers, response.iter_raw())

    @contextmanager
    def _our_errors(self, ref: HubSource) -> Iterator[None]:
        """Turn the library's errors into ours; they do not repeat its texts, which may quote the request."""
        try:
            yield
        except GatedRepoError as error:
            raise AccessDenied(self._gated_message(ref)) from error
        except RevisionNotFoundError as error:
            raise SourceError(f"{ref.repo} has no revision {ref.revision!r}. Write a branch, tag or commit.") from error
        except RepositoryNotFoundError as error:
            raise SourceError(f"{ref} was not found. {self._not_found_hint()}") from error
        except HfHubHTTPError as error:
            raise self._status_error(ref, error) from error
        except OfflineModeIsEnabled as error:
            raise SourceError(f"{ref} cannot be downloaded: HF_HUB_OFFLINE is set on this host. Unset it.") from error
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise SourceError(f"{self.endpoint} is not the address of a hub. Correct HF_ENDPOINT.") from error
        except httpx2.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise SourceError(
                    f"{ref}: the hub's certificate is not trusted. "
                    "Behind a company proxy, point SSL_CERT_FILE at its certificate authority."
                ) from error
            raise Transient(f"the hub {self._name()} cannot be reached ({type(error).__name__})") from error
        except (httpx2.HTTPError, ValueError) as error:
            reason = type(error).__name__
            raise SourceError(f"{ref}: the hub {self._name()} does not answer like a hub ({reason}).") from error

    def _status_error(self, ref: HubSource, error: HfHubHTTPError) -> Exception:
        status = error.response.status_code
        if status in (401, 403):
            return AccessDenied(f"{ref}: the hub refuses access ({status}). {self._token_hint()}")
        try:
            transfer.raise_for_status(status, error.response.headers, str(ref))
        except (Transient, SourceError) as ours:
            return ours
        return SourceError(f"{ref}: the hub answers {status} instead of a file.")

    def _gated_message(self, ref: HubSource) -> str:
        if self.token is None:
            return (
                f"{ref} is gated. Accept its terms on its page on the hub, then set HF_TOKEN to a token of that "
                "account in the controller's environment and restart it."
            )
        return f"{ref} is gated and the account of HF_TOKEN has no access. Accept its terms on its page on the hub."

    def _not_found_hint(self) -> str:
        hint = "Check the owner and the name in models.yaml"
        return f"{hint}; a private one needs HF_TOKEN." if self.token is None else f"{hint} and what HF_TOKEN may read."

    def _token_hint(self) -> str:
        return "Set HF_TOKEN." if self.token is None else "Check that HF_TOKEN is valid and may read this repository."

    def _name(self) -> str:
        return self.endpoint or "at its usual address"


def _base_model(info: ModelInfo) -> str | None:
    """Return the repository of the model that this one is made of, if its card names exactly one."""
    base = getattr(info.card_data, "base_model", None)
    names = [base] if isinstance(base, str) else base if isinstance(base, list) else []
    is_one = len(names) == 1 and isinstance(names[0], str) and names[0] != info.id
    return names[0] if is_one and re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", names[0], re.ASCII) else None


def _keep_only(job: Job, commit: str, files: Sequence[RepoSibling]) -> None:
    """Remove the files of an earlier attempt if they are of another commit, or others were chosen by now."""
    marker = job.work / "commit"
    text = "\n".join([commit, *(file.rfilename for file in files)])
    if marker.is_file() and marker.read_text(encoding="utf-8") == text:
        return
    empty(job.files)
    empty(job.work)
    write_atomic(marker, text)


def _check_git_blob(file: RepoSibling, target: Target) -> None:
    """Compare a small file with its git id; large files have a sha256, which the store compares."""
    if file.lfs is not None or file.blob_id is None:
        return
    content = target.path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if digest != file.blob_id:
        target.path.unlink()
        raise ChecksumMismatch(f"{target.label} is damaged: its git id is {digest}, the hub reports {file.blob_id}.")
