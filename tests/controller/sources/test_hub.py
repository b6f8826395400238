"""`hf://` sources: the real hub client with a small hub on loopback."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.errors import AccessDenied, ChecksumMismatch, SourceError
from controller.registry.source_ref import HubSource
from controller.sources import Progress, SourceStore, Taker, WeightsRoom
from tests.hub_server import FileServer, HubServer, Repo, fetch, make_store

WEIGHTS = os.urandom(600_000)
REF = HubSource("tiny/model")
WEIGHTS_PATH = f"/tiny/model/resolve/{Repo({}).commit}/model.safetensors"
TOKEN = "hf_tokenForTests"
MODEL_FILES = {
    "config.json": b'{"a": 1}',
    "tokenizer.json": b'{"b": 2}',
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "1_Pooling/config.json": b"{}",
    "model.safetensors": WEIGHTS,
}
OTHER_FILES = {
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"second layout",
    "model.gguf": b"third layout",
    "modeling_tiny.py": b"code",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    ".hidden.json": b"{}",
    "../../escape.json": b"{}",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    hub = HubServer()
    hub.repos["tiny/model"] = Repo(MODEL_FILES | OTHER_FILES, lfs={"model.safetensors", "pytorch_model.bin"})
    yield hub
    hub.close()


@pytest.fixture
def store(tmp_path: Path, hub: HubServer) -> SourceStore:
    return make_store(tmp_path, hub_endpoint=hub.url)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_files_of_the_model_are_fetched(store: SourceStore, hub: HubServer, tmp_path: Path) -> None:
    """Config, tokenizer and safetensors are fetched; pickles, code and other layouts are not even requested."""
    reports: list[Progress] = []
    source = fetch(store, REF, on_progress=reports.append)
    assert contents(source.path) == MODEL_FILES
    assert source.files == tuple(sorted(MODEL_FILES))
    requested_names = {path.rsplit("/", 1)[-1] for _, path, _ in hub.requests}
    assert not requested_names & {"pytorch_model.bin", "modeling_tiny.py", "consolidated.safetensors", "escape.json"}
    total_bytes = sum(map(len, MODEL_FILES.values()))
    assert Progress("downloading", total_bytes, total_bytes) in reports


def test_the_commit_is_fixed_for_all_files(store: SourceStore, hub: HubServer, tmp_path: Path) -> None:
    """The branch is resolved once, to a commit that the manifest names and that all files are of."""
    fetch(store, REF)
    (manifest,) = tmp_path.glob("*/complete.json")
    assert json.loads(manifest.read_text())["facts"]["commit"] == hub.repos["tiny/model"].commit
    file_paths = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert len(file_paths) == len(MODEL_FILES)
    assert all(f"/resolve/{hub.repos['tiny/model'].commit}/" in path for path in file_paths)


def test_a_complete_model_needs_no_hub(store: SourceStore, hub: HubServer) -> None:
    """A new fetch of a complete model sends no request."""
    source = fetch(store, REF)
    count = len(hub.requests)
    assert fetch(store, REF) == source
    assert len(hub.requests) == count


def test_a_dropped_connection_is_resumed(store: SourceStore, hub: HubServer) -> None:
    """After a drop in the middle of a file only the rest of that file is requested."""
    hub.cuts[WEIGHTS_PATH] = [200_000, 300_000]
    assert contents(fetch(store, REF).path)["model.safetensors"] == WEIGHTS
    assert hub.sent_bytes[WEIGHTS_PATH] == len(WEIGHTS)
    assert hub.header("Range", WEIGHTS_PATH) == [None, "bytes=200000-", "bytes=500000-"]


def test_an_interrupted_download_continues_later(store: SourceStore, hub: HubServer) -> None:
    """A failed fetch keeps complete and incomplete files; the next one fetches only the missing bytes."""
    hub.cuts[WEIGHTS_PATH] = [250_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError, match="given up after"):
        fetch(store, REF)
    assert store.lookup(REF) is None
    count = len(hub.requests)
    assert contents(fetch(store, REF).path) == MODEL_FILES
    later = [path for _, path, _ in hub.requests[count:]]
    assert [path for path in later if "/resolve/" in path] == [WEIGHTS_PATH]
    assert hub.sent_bytes[WEIGHTS_PATH] == len(WEIGHTS)


def test_commits_are_never_mixed(store: SourceStore, hub: HubServer) -> None:
    """If the branch moves between two attempts, the files of the old commit are removed."""
    hub.cuts[WEIGHTS_PATH] = [250_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError, match="given up"):
        fetch(store, REF)
    newer = Repo({"config.json": b"{}", "model.safetensors": b"new"}, lfs={"model.safetensors"}, commit="d" * 40)
    hub.repos["tiny/model"] = newer
    assert contents(fetch(store, REF).path) == newer.files


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_files_are_an_error(store: SourceStore, hub: HubServer, name: str) -> None:
    """A file with another sha256 or git id than the hub's is an error, and the next fetch downloads it again."""
    repo = hub.repos["tiny/model"]
    info = json.loads(hub.respond("/api/models/tiny/model")[2])
    repo.siblings = info["siblings"]
    repo.files = {**repo.files, name: bytes(len(repo.files[name]))}
    with pytest.raises(ChecksumMismatch, match=name):
        fetch(store, REF)
    assert store.lookup(REF) is None
    repo.files[name] = MODEL_FILES[name]
    assert contents(fetch(store, REF).path) == MODEL_FILES


def test_large_files_come_from_storage_without_the_token(hub: HubServer, tmp_path: Path) -> None:
    """A redirect to another host is followed, and that host never gets the token."""
    hub.storage = FileServer()
    try:
        source = fetch(make_store(tmp_path, hub_endpoint=hub.url, hub_token=TOKEN), REF)
        assert (source.path / "model.safetensors").read_bytes() == WEIGHTS
        assert hub.header("Authorization", WEIGHTS_PATH) == [f"Bearer {TOKEN}"]
        assert hub.storage.header("Authorization", "/model.safetensors") == [None]
    finally:
        hub.storage.close()


def test_gated_without_a_token(store: SourceStore, hub: HubServer) -> None:
    """A gated repository without a token is an error that names HF_TOKEN."""
    hub.repos["tiny/model"].is_gated = True
    with pytest.raises(AccessDenied, match=r"gated.*HF_TOKEN"):
        fetch(store, REF)
    assert hub.header("Authorization", "/api/models/tiny/model") == [None]


def test_gated_with_a_token(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The right token gives access, the wrong one is an error; neither is in any file, log or error."""
    caplog.set_level(logging.DEBUG)
    hub.repos["tiny/model"].is_gated, hub.repos["tiny/model"].allowed_token = True, TOKEN
    wrong = make_store(tmp_path, hub_endpoint=hub.url, hub_token="hf_wrongToken")
    with pytest.raises(AccessDenied, match="the account of HF_TOKEN has no access") as error_info:
        fetch(wrong, REF)
    right = make_store(tmp_path, hub_endpoint=hub.url, hub_token=TOKEN)
    fetch(right, REF)
    file_bytes = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    messages = caplog.text + str(error_info.value) + repr(wrong.__dict__) + repr(right.__dict__)
    for token in (TOKEN, "hf_wrongToken"):
        assert token not in messages
        assert token.encode() not in file_bytes


def test_an_invalid_token_is_not_repeated(hub: HubServer, tmp_path: Path) -> None:
    """The error for a token with a line break does not quote the token."""
    with pytest.raises(AccessDenied, match="HF_TOKEN contains") as error_info:
        fetch(make_store(tmp_path, hub_endpoint=hub.url, hub_token="hf_secret\nX: y"), REF)
    assert "secret" not in str(error_info.value)
    assert hub.requests == []


def test_the_token_of_the_environment_is_not_used(
    store: SourceStore, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the store's own token is ever sent, never one that the library finds by itself."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch(store, REF)
    assert all("authorization" not in headers for _, _, headers in hub.requests)


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (HubSource("tiny/missing"), "tiny/missing was not found|refuses access"),
        (HubSource("tiny/model", "v9"), "no revision 'v9'"),
    ],
)
def test_names_that_do_not_exist(store: SourceStore, ref: HubSource, words: str) -> None:
    """An unknown repository or revision is an error that names it."""
    with pytest.raises(SourceError, match=words):
        fetch(store, ref)


def test_a_revision_is_requested(store: SourceStore, hub: HubServer) -> None:
    """The hub gets the revision of the source, which is a source of its own on disk."""
    hub.revisions.add("v1")
    fetch(store, HubSource("tiny/model", "v1"))
    assert hub.requests[0][1] == "/api/models/tiny/model/revision/v1"
    assert store.lookup(REF) is None


def test_an_unreachable_hub(tmp_path: Path, hub: HubServer) -> None:
    """An unreachable hub is an error after a bounded number of attempts."""
    hub.close()
    with pytest.raises(SourceError, match=r"cannot be reached .*given up after 6 tries"):
        fetch(make_store(tmp_path, hub_endpoint=hub.url), REF)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}"])
def test_a_server_that_is_not_a_hub(tmp_path: Path, body: bytes) -> None:
    """The page of another server (such as a captive portal) is an error, not a traceback."""
    portal = FileServer()
    portal.files["/api/models/tiny/model"] = body
    try:
        with pytest.raises(SourceError, match="does not answer like a hub"):
            fetch(make_store(tmp_path, hub_endpoint=portal.url), REF)
    finally:
        portal.close()


def test_an_invalid_endpoint(tmp_path: Path) -> None:
    """The error for a malformed HF_ENDPOINT names the variable."""
    with pytest.raises(SourceError, match="Correct HF_ENDPOINT"):
        fetch(make_store(tmp_path, hub_endpoint="hub.example"), REF)


def test_a_repository_of_pickles_is_an_error(store: SourceStore, hub: HubServer) -> None:
    """Without safetensors and GGUF nothing is downloaded, and the error says why."""
    hub.repos["tiny/model"].files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    with pytest.raises(SourceError, match=r"no \.safetensors.*pytorch_model\.bin is a pickle"):
        fetch(store, REF)


def test_gguf_only_without_safetensors(store: SourceStore, hub: HubServer) -> None:
    """From a repository of GGUF files one quantisation is fetched, with all its shards."""
    names = ["m-Q8_0.gguf", "m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf", "mmproj-f16.gguf"]
    hub.repos["tiny/model"].files = {name: name.encode() for name in [*names, "config.json"]}
    assert set(fetch(store, REF).files) == {*names[1:3], "config.json"}


def test_a_model_larger_than_the_disk(store: SourceStore, hub: HubServer) -> None:
    """The sizes that the hub announces are compared with the free space before the first file."""
    repo = hub.repos["tiny/model"]
    repo.siblings = [{"rfilename": "model.safetensors", "size": 1 << 60}]
    with pytest.raises(SourceError, match="disk is full"):
        fetch(store, REF)
    assert [path for _, path, _ in hub.requests if "/resolve/" in path] == []


def test_a_disk_that_becomes_full(store: SourceStore, hub: HubServer, tmp_path: Path) -> None:
    """The error for ENOSPC has folder and bytes, the source is not complete, and with room the rest is fetched."""
    hub.cuts[WEIGHTS_PATH] = [250_000, 0, 0, 0, 0, 0]
    with pytest.raises(SourceError, match="given up"):
        fetch(store, REF)
    (part,) = tmp_path.rglob("*.part")
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(SourceError, match="disk is full") as error_info:
        fetch(store, REF)
    assert error_info.value.details["needed_bytes"] == len(WEIGHTS)
    assert str(tmp_path) in error_info.value.details["folder"]
    assert store.lookup(REF) is None
    part.unlink()
    assert contents(fetch(store, REF).path) == MODEL_FILES


def test_a_checksum_for_a_whole_repository(store: SourceStore, tmp_path: Path) -> None:
    """The `sha256` of a folder is compared with the digest over its names and contents."""
    lines = sorted(f"{name}\0{hashlib.sha256(body).hexdigest()}\n" for name, body in MODEL_FILES.items())
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert fetch(store, REF, digest).content_hash == digest
    store.delete(REF)
    with pytest.raises(ChecksumMismatch):
        fetch(store, REF, "0" * 64)


def test_the_choice_of_a_quantisation_is_kept(
    store: SourceStore, hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the stored source say which file was taken and why, also after a restart."""
    caplog.set_level(logging.INFO)
    hub.repos["tiny/model"].files = {"m-Q8_0.gguf": b"x" * 80, "m-Q4_K_M.gguf": b"x" * 40, "m-Q2_K.gguf": b"x" * 20}
    small = WeightsRoom(30, "`resources.memory` of 40 bytes")
    source = store.fetch(REF, taker=Taker(room=lambda: small), on_progress=lambda _: None, cancelled=lambda: False)
    assert source.files == ("m-Q2_K.gguf",)
    assert source.choice.startswith("m-Q2_K.gguf (0.0 MiB) is the largest that fits into `resources.memory`")
    assert source.choice in caplog.text
    assert make_store(tmp_path).lookup(REF) == source


def test_another_choice_leaves_no_files_of_the_first(store: SourceStore, hub: HubServer) -> None:
    """If the memory differs at the next attempt, the parts of the other file are removed."""
    files = {f"m-Q4_K_M-0000{part}-of-00002.gguf": bytes(300_000 + part) for part in (1, 2)}
    hub.repos["tiny/model"].files = {**files, "m-Q2_K.gguf": b"x" * 20}
    last = f"/tiny/model/resolve/{Repo({}).commit}/m-Q4_K_M-00002-of-00002.gguf"
    hub.cuts[last] = [0] * 6
    with pytest.raises(SourceError, match="given up"):
        fetch(store, REF)
    source = store.fetch(
        REF, taker=Taker(room=lambda: WeightsRoom(1000, "a bound")), on_progress=lambda _: None, cancelled=lambda: False
    )
    assert contents(source.path) == {"m-Q2_K.gguf": b"x" * 20}


def test_quantised_safetensors_are_refused_before_their_download(store: SourceStore, hub: HubServer) -> None:
    """Only config.json is fetched; the error has the method and the base model of the card. vLLM gets the files."""
    repo = hub.repos["tiny/model"]
    repo.files = {**MODEL_FILES, "config.json": b'{"quantization_config": {"quant_method": "awq"}}'}
    repo.card = {"base_model": ["tiny/original"]}
    with pytest.raises(SourceError, match=r"in the form of AWQ, which.*What works: hf://tiny/original, with"):
        fetch(store, REF)
    assert [path.rsplit("/", 1)[-1] for _, path, _ in hub.requests if "/resolve/" in path] == ["config.json"]
    assert store.lookup(REF) is None
    source = store.fetch(REF, taker=Taker(reads_quantised=True), on_progress=lambda _: None, cancelled=lambda: False)
    assert set(source.files) == set(repo.files)
