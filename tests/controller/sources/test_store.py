"""The store: one download at a time, crashes at every step, deletion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.errors import Cancelled, ModelBusy, SourceError
from controller.registry.source_ref import HubSource
from controller.settings import ROOT
from controller.sources import StoredSource
from tests.hub_server import Gate, HubServer, Repo, fetch, make_store

REF = HubSource("tiny/model")
WEIGHTS = os.urandom(400_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
WEIGHTS_PATH = f"/tiny/model/resolve/{Repo({}).commit}/model.safetensors"

DOWNLOADER = """
import sys
from pathlib import Path
from controller.registry.source_ref import HubSource
from controller.sources import SourceStore

root = Path(sys.argv[1])

def cancelled():
    print(sum(part.stat().st_size for part in root.rglob("*.part")), flush=True)
    return False

SourceStore(root, hub_endpoint=sys.argv[2]).fetch(
    HubSource("tiny/model"), on_progress=lambda progress: None, cancelled=cancelled
)
"""

CRASHER = """
import os, sys
from pathlib import Path
from controller.registry.source_ref import HubSource
from controller.sources import SourceStore

base, endpoint, verb = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
ref = HubSource("tiny/model")
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"}

def act(store, verb):
    if verb == "fetch":
        store.fetch(ref, on_progress=lambda progress: None, cancelled=lambda: False)
    else:
        store.delete(ref)

def crash_at(root, step):
    count = 0
    def hook(event, arguments):
        nonlocal count
        # A path without a folder is relative to an open one: shutil.rmtree removes by these.
        if event in EVENTS and (str(root) in str(arguments[0]) or os.sep not in str(arguments[0])):
            count += 1
            if count == step:
                os._exit(9)
    sys.addaudithook(hook)

def in_child(action):
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def files_of(store):
    source = store.lookup(ref)
    return source and sorted((name, (source.path / name).stat().st_size) for name in source.files)

expected = [("config.json", 2), ("model.safetensors", 400000)]
step, code = 0, 9
while code == 9:
    step += 1
    root = base / str(step)
    store = SourceStore(root, hub_endpoint=endpoint)
    if verb == "delete":
        act(store, "fetch")
    code = in_child(lambda: (crash_at(root, step), act(store, verb)))
    assert files_of(store) in (None, expected), (step, files_of(store))
    act(store, verb)
    assert files_of(store) == (expected if verb == "fetch" else None), step
assert code == 0, (step, code)
print(step)
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    hub = HubServer()
    hub.repos["tiny/model"] = Repo(dict(FILES), lfs={"model.safetensors"})
    yield hub
    hub.close()


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_download_is_resumed(tmp_path: Path, hub: HubServer) -> None:
    """While another process downloads, a fetch waits and a deletion fails; after SIGKILL only the rest is fetched."""
    gate = hub.gates[WEIGHTS_PATH] = Gate(after_bytes=250_000)
    store = make_store(tmp_path, hub_endpoint=hub.url)
    with start(DOWNLOADER, str(tmp_path), hub.url) as downloader:
        assert downloader.stdout is not None
        assert any(int(line) == 250_000 for line in downloader.stdout)
        with pytest.raises(ModelBusy, match="is being downloaded"):
            store.delete(REF)
        answers = iter([False, False, True])
        with pytest.raises(Cancelled):
            fetch(store, REF, cancelled=lambda: next(answers))
        downloader.send_signal(signal.SIGKILL)
    assert store.lookup(REF) is None
    gate.open.set()
    hub.gates.clear()
    source = fetch(store, REF)
    assert (source.path / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.header("Range", WEIGHTS_PATH) == [None, "bytes=250000-"]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("verb", ["fetch", "delete"])
def test_a_crash_at_any_step_leaves_nothing_that_looks_complete(tmp_path: Path, hub: HubServer, verb: str) -> None:
    """After a kill at any file operation a source is complete or absent, and the same call then succeeds."""
    with start(CRASHER, str(tmp_path), hub.url, verb) as crasher:
        assert crasher.stdout is not None
        steps = int(crasher.stdout.read() or "0")
    assert crasher.returncode == 0
    assert steps > 5


def test_two_callers_download_once(tmp_path: Path, hub: HubServer) -> None:
    """The second caller waits for the first one's download and gets the same files."""
    gate = hub.gates[WEIGHTS_PATH] = Gate(after_bytes=100_000)
    waiting = threading.Event()
    results: list[StoredSource] = []

    def is_cancelled() -> bool:
        waiting.set()
        return False

    first = threading.Thread(target=lambda: results.append(fetch(make_store(tmp_path, hub_endpoint=hub.url), REF)))
    first.start()
    assert gate.is_reached.wait(10)
    other = make_store(tmp_path, hub_endpoint=hub.url)
    second = threading.Thread(target=lambda: results.append(fetch(other, REF, cancelled=is_cancelled)))
    second.start()
    assert waiting.wait(10)
    gate.open.set()
    first.join()
    second.join()
    assert len(results) == 2
    assert results[0] == results[1]
    assert hub.sent_bytes[WEIGHTS_PATH] == len(WEIGHTS)
    assert len(hub.header("Range", "/api/models/tiny/model")) == 1


def test_deleting_frees_the_disk(tmp_path: Path, hub: HubServer) -> None:
    """Deleting returns the bytes freed, also removes unfinished downloads, and is no error if there is nothing."""
    store = make_store(tmp_path, hub_endpoint=hub.url)
    assert store.delete(REF) == 0
    fetch(store, REF)
    assert store.delete(REF) >= len(WEIGHTS)
    assert store.lookup(REF) is None
    hub.cuts[WEIGHTS_PATH] = [250_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError):
        fetch(store, REF)
    assert store.delete(REF) >= 250_000
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_missing_files_are_noticed(tmp_path: Path, hub: HubServer) -> None:
    """A source with a missing or shortened file, or with a broken manifest, is not complete."""
    store = make_store(tmp_path, hub_endpoint=hub.url)
    source = fetch(store, REF)
    (source.path / "model.safetensors").write_bytes(b"short")
    assert store.lookup(REF) is None
    assert fetch(store, REF) == source
    assert (source.path / "model.safetensors").read_bytes() == WEIGHTS
    (manifest,) = tmp_path.glob("*/complete.json")
    for text in ("", "{", "[]", json.dumps({"format": 2}), json.dumps({"format": 1, "files": [{"x": 1}]})):
        manifest.write_text(text)
        assert store.lookup(REF) is None


def test_folders_are_readable_for_a_person_and_for_the_container(tmp_path: Path, hub: HubServer) -> None:
    """With any umask, every user may read; the folder's name says what it is; two revisions never share a folder."""
    mask = os.umask(0o077)
    try:
        store = make_store(tmp_path / "data", hub_endpoint=hub.url)
        source = fetch(store, REF)
    finally:
        os.umask(mask)
    assert source.path.parent.name.startswith("hf-tiny-model-")
    assert {path.stat().st_mode & 0o777 for path in source.path.rglob("*")} == {0o644}
    assert source.path.stat().st_mode & 0o777 == 0o755
    hub.revisions.add("v1")
    assert fetch(store, HubSource("tiny/model", "v1")).path != source.path


def test_a_data_folder_that_cannot_be_created(tmp_path: Path) -> None:
    """A data folder in an impossible place is a SourceError, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"Cannot write .*ORCHESTRAR_DATA"):
        fetch(make_store(tmp_path / "file" / "data"), REF)
