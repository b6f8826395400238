"""`file://` sources: used in place, or an error that says what to do."""

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
    """Nothing is copied; names and sizes are reported; a deletion frees and changes nothing."""
    source = fetch(store, FileSource(model))
    assert (source.path, source.total_bytes) == (model, 9)
    assert source.files == ("model.safetensors", "sub/config.json")
    assert store.lookup(FileSource(model)) == source
    assert store.delete(FileSource(model)) == 0
    assert (model / "model.safetensors").read_bytes() == b"weights"
    assert not (tmp_path / "data").exists()


def test_a_single_file(store: SourceStore, model: Path) -> None:
    """The path of a single file is the file's, and its name is the only one."""
    source = fetch(store, FileSource(model / "model.safetensors"))
    assert (source.path, source.files) == (model / "model.safetensors", ("model.safetensors",))


def test_the_hash_changes_with_the_files(store: SourceStore, model: Path) -> None:
    """Another time, size or name gives another hash; unchanged files give the same one."""
    hashes = {fetch(store, FileSource(model)).content_hash, fetch(store, FileSource(model)).content_hash}
    assert len(hashes) == 1
    os.utime(model / "model.safetensors", ns=(1, 1))
    hashes.add(fetch(store, FileSource(model)).content_hash)
    (model / "model.safetensors").rename(model / "other.safetensors")
    hashes.add(fetch(store, FileSource(model)).content_hash)
    assert len(hashes) == 3


def test_a_missing_path(store: SourceStore, tmp_path: Path) -> None:
    """The lookup of a missing path returns None, and its fetch is an error."""
    assert store.lookup(FileSource(tmp_path / "no")) is None
    with pytest.raises(SourceError, match="No such file or directory"):
        fetch(store, FileSource(tmp_path / "no"))


@pytest.mark.parametrize(("name", "mode"), [("model.safetensors", 0o640), ("sub", 0o700), (".", 0o750)])
def test_the_error_for_unreadable_files_has_the_command(store: SourceStore, model: Path, name: str, mode: int) -> None:
    """The container's user has the rights of "others"; the chmod command in the error is enough."""
    (model / name).chmod(mode)
    with pytest.raises(AccessDenied, match=f"chmod -R o\\+rX {model}"):
        fetch(store, FileSource(model))


def test_links_out_of_the_folder_are_an_error(store: SourceStore, model: Path, tmp_path: Path) -> None:
    """A link that leads nowhere in the container (as in the hub's cache) is an error; one within the folder is not."""
    (model / "inside.safetensors").symlink_to("model.safetensors")
    assert "inside.safetensors" in fetch(store, FileSource(model)).files
    (tmp_path / "blob").write_bytes(b"x")
    (model / "out.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(SourceError, match="cp -rL"):
        fetch(store, FileSource(model))


def test_pickles_are_an_error(store: SourceStore, model: Path) -> None:
    """A folder of nothing but pickles, or a single pickle, is an error; beside safetensors a pickle does not matter."""
    (model / "pytorch_model.bin").write_bytes(b"x")
    fetch(store, FileSource(model))
    with pytest.raises(SourceError, match="never loaded"):
        fetch(store, FileSource(model / "pytorch_model.bin"))
    (model / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"pytorch_model\.bin is a pickle"):
        fetch(store, FileSource(model))


def test_openvino_weights_are_not_pickles(store: SourceStore, model: Path) -> None:
    """A .bin beside its .xml is in OpenVINO's format, which has only data."""
    (model / "model.safetensors").rename(model / "openvino_model.bin")
    (model / "openvino_model.xml").write_text("<net/>")
    assert fetch(store, FileSource(model)).total_bytes == 15


def test_an_empty_folder(store: SourceStore, tmp_path: Path) -> None:
    """An empty folder is an error."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="has no files"):
        fetch(store, FileSource(tmp_path / "empty"))


def test_a_checksum_is_verified_once(store: SourceStore, model: Path) -> None:
    """With sha256 the contents are read once and not again until the file changes; the data folder stores that."""
    ref, digest = FileSource(model / "model.safetensors"), hashlib.sha256(b"weights").hexdigest()
    assert store.lookup(ref, digest) is None
    phases: list[str] = []
    source = fetch(store, ref, digest, on_progress=lambda progress: phases.append(progress.phase))
    assert phases == ["verifying"]
    assert store.lookup(ref, digest) == source
    fetch(store, ref, digest, on_progress=lambda progress: phases.append(progress.phase))
    assert phases == ["verifying"]
    (model / "model.safetensors").write_bytes(b"changed")
    assert store.lookup(ref, digest) is None
    with pytest.raises(ChecksumMismatch):
        fetch(store, ref, digest)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Return a folder with a model in two parts, beside another model and a link."""
    folder = tmp_path / "models"
    folder.mkdir(mode=0o755)
    for name in ("m-00001-of-00002.gguf", "blob", "other.gguf"):
        (folder / name).write_bytes(name.encode())
        (folder / name).chmod(0o644)
    (folder / "m-00002-of-00002.gguf").symlink_to("blob")
    return folder


@pytest.mark.parametrize("number", [1, 2])
def test_one_part_stands_for_all(store: SourceStore, split: Path, number: int) -> None:
    """All parts of a split model are its files, also links; other files of the folder are not."""
    source = fetch(store, FileSource(split / f"m-0000{number}-of-00002.gguf"))
    assert (source.path, source.is_selection) == (split, True)
    assert source.files == ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf")
    assert source.total_bytes == len("m-00001-of-00002.gguf" + "blob")


def test_a_missing_part_is_named(store: SourceStore, split: Path) -> None:
    """Without one of its parts a model is none."""
    (split / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(SourceError, match=r"has 2 parts, and m-00002-of-00002\.gguf is missing"):
        fetch(store, FileSource(split / "m-00001-of-00002.gguf"))


def test_unreadable_parts_are_in_the_command(store: SourceStore, split: Path) -> None:
    """The command changes the parts, and nothing else of their folder."""
    (split / "m-00001-of-00002.gguf").chmod(0o600)
    with pytest.raises(AccessDenied, match=rf"chmod o\+r {split}/m-00001-of-00002\.gguf$"):
        fetch(store, FileSource(split / "m-00001-of-00002.gguf"))


def test_the_checksum_of_a_split_model_is_that_of_all_parts(store: SourceStore, split: Path) -> None:
    """It is the one of a folder with these files."""
    ref = FileSource(split / "m-00001-of-00002.gguf")
    lines = [f"{p}\0{hashlib.sha256((split / p).read_bytes()).hexdigest()}\n" for p in fetch(store, ref).files]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert fetch(store, ref, digest) == store.lookup(ref, digest)
    with pytest.raises(ChecksumMismatch):
        fetch(store, ref, "0" * 64)
