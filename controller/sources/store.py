"""The folder of downloaded models: lookup, download and deletion."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from controller.errors import ChecksumMismatch, SourceError
from controller.registry.source_ref import FileSource, HttpsSource, HubSource, PypiSource, SourceRef
from controller.sources import https, local, manifest
from controller.sources.disk import explain_os_error, make_readable, remove_tree
from controller.sources.hub.client import Hub
from controller.sources.manifest import Manifest
from controller.sources.pypi import wheel as pypi
from controller.sources.values import FetchResult, Job, Progress, StoredSource, Taker
from controller.system import file_lock
from controller.system.files import fsync_folder

_ANY = Taker()


class SourceStore:
    """Models' files under `root`, one folder per source; safe for threads and for several processes.

    `<key>/files/` has the files and `<key>/complete.json` lists them; `<key>.partial/` is an unfinished download, and
    the thread or process that downloads holds `<key>.lock`.
    """

    def __init__(
        self,
        root: Path,
        *,
        hub_endpoint: str | None = None,
        hub_token: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root = root
        self._hub = Hub(hub_endpoint.rstrip("/") if hub_endpoint else None, hub_token)
        self._sleep = sleep

    def lookup(self, ref: SourceRef, sha256: str | None = None) -> StoredSource | None:
        """Return the source if it is complete on this disk (with this checksum); uses no network, reads no contents."""
        if isinstance(ref, FileSource):
            return self._lookup_local(ref, sha256)
        folder = self._folder(ref)
        facts = manifest.read(folder)
        if facts is None or (sha256 is not None and facts.checksum != sha256.lower()):
            return None
        files = folder / "files"
        if not manifest.has_files(files, facts):
            return None
        names = tuple(file.name for file in facts.files)
        path = files / names[0] if facts.single_file else files
        return StoredSource(path, facts.content_hash, facts.total_bytes, names, choice=facts.facts.get("choice", ""))

    def fetch(
        self,
        ref: SourceRef,
        sha256: str | None = None,
        *,
        taker: Taker = _ANY,
        on_progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> StoredSource:
        """Return the source, after its download if it is not complete here; blocks, also during another's download.

        A repository's files are chosen for the `taker`. Raises SourceError (a full disk, no network, …), AccessDenied,
        ChecksumMismatch or Cancelled; the bytes received until then are kept for the next fetch, unless they are wrong.
        """
        job = Job(self._partial(ref), on_progress=on_progress, cancelled=cancelled, sleep=self._sleep)
        try:
            if isinstance(ref, FileSource):
                return self._fetch_local(ref, sha256, job)
            self._root.mkdir(parents=True, exist_ok=True)
            with file_lock.hold(self._lock(ref), job.wait):
                return self.lookup(ref, sha256) or self._download(ref, sha256, taker, job)
        except OSError as error:
            raise explain_os_error(error, self._root, job.needed_bytes) from error

    def delete(self, ref: SourceRef) -> int:
        """Remove the download, finished or not; returns the bytes freed, raises ModelBusy during a download.

        The user's own files behind `file://` are never touched.
        """
        if not self._root.is_dir():
            return 0
        try:
            with file_lock.hold_at_once(self._lock(ref), f"{_label(ref)} is being downloaded; cancel that first."):
                # Without its manifest it is not complete, even if the rest of the removal is interrupted.
                (self._folder(ref) / manifest.NAME).unlink(missing_ok=True)
                freed_bytes = remove_tree(self._folder(ref)) + remove_tree(self._partial(ref))
        except OSError as error:
            raise explain_os_error(error, self._root, None) from error
        return 0 if isinstance(ref, FileSource) else freed_bytes

    def _download(self, ref: SourceRef, sha256: str | None, taker: Taker, job: Job) -> StoredSource:
        job.check()
        for folder in (job.files, job.work):
            folder.mkdir(parents=True, exist_ok=True)
        result = self._fetch_files(ref, sha256, taker, job)
        make_readable(job.folder)
        files = manifest.measure(job.files, job)
        self._check(ref, sha256, result, files, job)
        self._publish(ref, result, files, job)
        source = self.lookup(ref, sha256)
        if source is None:
            raise SourceError(f"{_label(ref)}: its files disappeared from {self._folder(ref)} after the download.")
        return source

    def _fetch_files(self, ref: SourceRef, sha256: str | None, taker: Taker, job: Job) -> FetchResult:
        if isinstance(ref, PypiSource):
            return pypi.fetch(ref, job)
        if isinstance(ref, HubSource):
            return self._hub.fetch(ref, taker, job)
        if isinstance(ref, HttpsSource):
            return https.fetch(ref, sha256, job)
        raise TypeError(f"no fetcher for {type(ref).__name__}")

    def _check(
        self, ref: SourceRef, sha256: str | None, result: FetchResult, files: tuple[manifest.FileFacts, ...], job: Job
    ) -> None:
        """Compare every checksum that is known; removes a wrong file, so that the next fetch downloads it again."""
        expected = {name: digest.lower() for name, digest in result.sha256.items()}
        for file in files:
            if expected.get(file.name, file.sha256) != file.sha256:
                (job.files / file.name).unlink()
                raise _mismatch(f"{_label(ref)} {file.name}", expected[file.name], file.sha256)
        actual = manifest.checksum(files, result.single_file)
        if sha256 is not None and actual != sha256.lower():
            remove_tree(job.folder)
            raise _mismatch(_label(ref), sha256.lower(), actual)

    def _publish(self, ref: SourceRef, result: FetchResult, files: tuple[manifest.FileFacts, ...], job: Job) -> None:
        """Make the download visible as complete, by one rename."""
        facts = Manifest(
            source=_label(ref),
            content_hash=manifest.content_hash(files),
            checksum=manifest.checksum(files, result.single_file),
            single_file=result.single_file,
            files=files,
            facts=result.facts,
        )
        remove_tree(job.work)
        manifest.write(job.folder, facts)
        folder = self._folder(ref)
        # A folder that is there is damaged or has another checksum: `lookup` has not returned it.
        (folder / manifest.NAME).unlink(missing_ok=True)
        remove_tree(folder)
        os.rename(job.folder, folder)
        fsync_folder(self._root)

    def _lookup_local(self, ref: FileSource, sha256: str | None) -> StoredSource | None:
        try:
            source = local.describe(ref)
        except SourceError:
            return None
        if sha256 is None:
            return source
        facts = manifest.read(self._folder(ref))
        is_verified = facts and (facts.content_hash, facts.checksum) == (source.content_hash, sha256.lower())
        return source if is_verified else None

    def _fetch_local(self, ref: FileSource, sha256: str | None, job: Job) -> StoredSource:
        """Check the files where they are; stores for which sizes and times a checksum was right."""
        source = local.describe(ref)
        if sha256 is None or self.lookup(ref, sha256) is not None:
            return source
        single = source.path.is_file()
        base = source.path.parent if single else source.path
        files = manifest.measure_files(base, [base / name for name in source.files], job, durably=False)
        actual = manifest.checksum(files, single)
        if actual != sha256.lower():
            raise _mismatch(_label(ref), sha256.lower(), actual)
        self._folder(ref).mkdir(parents=True, exist_ok=True)
        facts = Manifest(
            source=_label(ref), content_hash=source.content_hash, checksum=actual, single_file=single, files=files
        )
        manifest.write(self._folder(ref), facts)
        return source

    def _folder(self, ref: SourceRef) -> Path:
        return self._root / _key(ref)

    def _partial(self, ref: SourceRef) -> Path:
        return self._root / f"{_key(ref)}.partial"

    def _lock(self, ref: SourceRef) -> Path:
        return self._root / f"{_key(ref)}.lock"


def _key(ref: SourceRef) -> str:
    """Return a folder name that a person recognises and that no two sources share."""
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", _label(ref)).strip("-.")[:60]
    return f"{readable}-{hashlib.sha256(str(ref).encode()).hexdigest()[:12]}"


def _label(ref: SourceRef) -> str:
    return https.without_query(ref.url) if isinstance(ref, HttpsSource) else str(ref)


def _mismatch(label: str, expected: str, actual: str) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{label} has the sha256 {actual}, not {expected}. Either the file has changed (then correct models.yaml) "
        "or it was damaged during the download (then try again)."
    )
