"""F8: a full disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House
from tests.errorshape import check_error
from tests.hub_server import HubServer, Repo
from tests.promises.mutation import Mutation

APP = "tests.docker.faults.full_disk_app:create_app()"
MUTATION = Mutation(
    "controller/system/files.py",
    "    handle, name = tempfile.mkstemp(",
    "    path.write_text(text[:9])\n    handle, name = tempfile.mkstemp(",
    "test_f8_a_full_disk_breaks_no_file",
)


def files(house: House) -> dict[str, bytes]:
    """Return all files that the controller keeps, except its log."""
    folders = (house.compose_dir, house.data_dir)
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(house.folder)): path.read_bytes() for path in paths}


def port_of(house: House, model_id: str) -> int:
    rows = house.get("/models").json()["models"]
    return next(int(row["port"]) for row in rows if row["id"] == model_id)


@pytest.mark.parametrize("step", ["open", "fsync", "rename"])
def test_f8_a_full_disk_breaks_no_file(build_house: Build, tmp_path: Path, step: str, figure: Figure) -> None:
    """Without space at a step of writing, running models keep serving, stopped ones start, a controller comes up again.

    A start that must write fails with that reason. No file is changed or left half written; with space, all work again.
    """
    switch = tmp_path / "full"
    models = {"echo": {}, "second": {}, "moved": {}, "made": {"gguf": True}}
    house = build_house(models, start=False, ORCHESTRAR_TEST_FULL=str(switch))
    house.start(APP)
    for model_id in ("echo", "second"):
        house.ask(model_id, "hello").raise_for_status()
    house.post("/stop", {"model_id": "second"}).raise_for_status()
    before = files(house)
    switch.write_text(step)

    refusal_count = 0
    with socket.create_server(("127.0.0.1", port_of(house, "moved"))):
        # One must move away from a taken port, the other must be converted.
        for model_id in ("moved", "made"):
            response = house.ask(model_id, "hello")
            error = check_error(response.status_code, response.json(), 503, "files_unwritable")
            assert "space" in error["message"]
            refusal_count += 1
    assert "hello" == house.ask("echo", "hello").json()["text"]
    assert '"done": true' in house.ask("echo", {"tokens": 3}, stream=True).text
    assert "hello" == house.ask("second", "hello").json()["text"]
    assert before == files(house)
    house.kill()
    house.start(APP)
    assert "hello" == house.ask("echo", "hello").json()["text"]
    assert before == files(house)

    switch.unlink()
    for model_id in ("moved", "made"):
        assert "hello" == house.ask(model_id, "hello").json()["text"]
    figure("files", len(before))
    figure("changed at ENOSPC", 0)
    figure("starts refused", refusal_count)


DISK_BYTES = 512 * 1024


@contextmanager
def small_disk(house: House) -> Iterator[None]:
    """Put the controller's folders on a real disk of half a megabyte."""
    disks = (house.data_dir, house.compose_dir)
    for folder in disks:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        house.close()
        for folder in disks:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Leave not a byte in the folder's file system."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            return


def free(house: House) -> None:
    for folder in (house.data_dir, house.compose_dir):
        (folder / "filler").unlink(missing_ok=True)


def test_f8_a_real_full_disk(build_house: Build, figure: Figure) -> None:
    """If the kernel refuses every byte, running models serve, /status and /models answer, a download, a conversion and
    a reload report the reason and leave no half-written file; with space again all of them work."""
    hub = HubServer()
    hub.repos["tiny/model"] = Repo({"config.json": b"{}", "model.safetensors": os.urandom(200_000)})
    models = {
        "echo": {},
        "second": {},
        "made": {"gguf": True},
        "fetched": {"source": "hf://tiny/model"},
    }
    house = build_house(models, start=False, HF_ENDPOINT=hub.url)
    with small_disk(house):
        house.start()
        for model_id in ("echo", "second"):
            house.ask(model_id, "hello").raise_for_status()
        house.post("/stop", {"model_id": "second"}).raise_for_status()
        for folder in (house.data_dir, house.compose_dir):
            fill(folder)
        before = files(house)

        conversion = house.ask("made", "hello")
        assert "space" in check_error(conversion.status_code, conversion.json(), 503, "files_unwritable")["message"]
        download = house.ask("fetched", "hello")
        assert "full" in check_error(download.status_code, download.json(), 503, "source_failed")["message"]
        old = (house.folder / "models.yaml").read_text()
        text = json.loads(old)
        text["models"]["echo"]["env"] = {"X": "1"}
        text["models"]["new"] = text["models"]["second"]
        house.write_models(json.dumps(text))
        reload = house.post("/reload", {})
        assert "space" in check_error(reload.status_code, reload.json(), 503, "files_unwritable")["message"]
        assert house.get("/status").ok
        assert house.get("/models").ok
        for model_id in ("echo", "second"):
            assert "hello" == house.ask(model_id, "hello").json()["text"]
        assert before == files(house)

        free(house)
        house.post("/reload", {}).raise_for_status()
        for model_id in ("echo", "new", "made", "fetched"):
            assert "hello" == house.ask(model_id, "hello").json()["text"]
        figure("refused on a real full disk", "a conversion, a download, a reload")
    hub.close()
