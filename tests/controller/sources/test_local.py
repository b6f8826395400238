"""`file://` sources: used in place, or refused with what to do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from controller.errors import AccessDenied, ChecksumMismatch, SourceError
from controller.registry.source_ref import FileSource
from controller.sources import SourceStore
from tests.hub_server import fetch, make_store


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sub" / "config.json").write_bytes(b"{}")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> SourceStore:
    return make_store(tmp_path / "data")


def test_a_folder_is_used_as_it_is(store: SourceStore, model: Path, tmp_path: Path) -> None:
    """Nothing is copied; names and sizes are told; deleting frees nothing and touches nothing."""
    stored = fetch(store, FileSource(model))
    assert (stored.path, stored.total_bytes) == (model, 9)
    assert stored.files == ("model.safetensors", "sub/config.json")
    assert store.lookup(FileSource(model)) == stored
    assert store.delete(FileSource(model)) == 0
    assert (model / "model.safetensors").read_bytes() == b"weights"
    assert not (tmp_path / "data").exists()


def test_a_single_file(store: SourceStore, model: Path) -> None:
    """A single file is its own path and its only name."""
    stored = fetch(store, FileSource(model / "model.safetensors"))
    assert (stored.path, stored.files) == (model / "model.safetensors", ("model.safetensors",))


def test_the_hash_follows_the_files(store: SourceStore, model: Path) -> None:
    """Another time, size or name gives another hash; nothing changed gives the same."""
    hashes = {fetch(store, FileSource(model)).content_hash, fetch(store, FileSource(model)).content_hash}
    assert len(hashes) == 1
    os.utime(model / "model.safetensors", ns=(1, 1))
    hashes.add(fetch(store, FileSource(model)).content_hash)
    (model / "model.safetensors").rename(model / "other.safetensors")
    hashes.add(fetch(store, FileSource(model)).content_hash)
    assert len(hashes) == 3


def test_missing(store: SourceStore, tmp_path: Path) -> None:
    """A path that does not exist is not there, and fetching it says so."""
    assert store.lookup(FileSource(tmp_path / "no")) is None
    with pytest.raises(SourceError, match="No such file or directory"):
        fetch(store, FileSource(tmp_path / "no"))


@pytest.mark.parametrize(("name", "mode"), [("model.safetensors", 0o640), ("sub", 0o700), (".", 0o750)])
def test_what_others_may_not_read_is_refused_with_the_command(
    store: SourceStore, model: Path, name: str, mode: int
) -> None:
    """The container's user reads as "others": the error holds the chmod command, which is enough."""
    (model / name).chmod(mode)
    with pytest.raises(AccessDenied, match=f"chmod -R o\\+rX {model}"):
        fetch(store, FileSource(model))


def test_links_out_of_the_folder_are_refused(store: SourceStore, model: Path, tmp_path: Path) -> None:
    """A link that would dangle inside the container (as in the hub's cache) is named, one that stays inside is fine."""
    (model / "inside.safetensors").symlink_to("model.safetensors")
    assert "inside.safetensors" in fetch(store, FileSource(model)).files
    (tmp_path / "blob").write_bytes(b"x")
    (model / "out.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(SourceError, match="cp -rL"):
        fetch(store, FileSource(model))


def test_pickles_are_refused(store: SourceStore, model: Path) -> None:
    """A folder of pickles alone, or a pickle by itself, is refused; beside safetensors it does not matter."""
    (model / "pytorch_model.bin").write_bytes(b"x")
    fetch(store, FileSource(model))
    with pytest.raises(SourceError, match="never loaded"):
        fetch(store, FileSource(model / "pytorch_model.bin"))
    (model / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"pytorch_model\.bin is a pickle"):
        fetch(store, FileSource(model))


def test_openvino_weights_are_no_pickles(store: SourceStore, model: Path) -> None:
    """A .bin with its .xml beside it is OpenVINO's format, which is data."""
    (model / "model.safetensors").rename(model / "openvino_model.bin")
    (model / "openvino_model.xml").write_text("<net/>")
    assert fetch(store, FileSource(model)).total_bytes == 15


def test_an_empty_folder(store: SourceStore, tmp_path: Path) -> None:
    """An empty folder is no model."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no files"):
        fetch(store, FileSource(tmp_path / "empty"))


def test_a_checksum_is_verified_once(store: SourceStore, model: Path) -> None:
    """With sha256 the contents are read once; until the file changes that is remembered, in the data folder only."""
    ref, digest = FileSource(model / "model.safetensors"), hashlib.sha256(b"weights").hexdigest()
    assert store.lookup(ref, digest) is None
    phases: list[str] = []
    stored = fetch(store, ref, digest, on_progress=lambda progress: phases.append(progress.phase))
    assert phases == ["verifying"]
    assert store.lookup(ref, digest) == stored
    fetch(store, ref, digest, on_progress=lambda progress: phases.append(progress.phase))
    assert phases == ["verifying"]
    (model / "model.safetensors").write_bytes(b"changed")
    assert store.lookup(ref, digest) is None
    with pytest.raises(ChecksumMismatch):
        fetch(store, ref, digest)
