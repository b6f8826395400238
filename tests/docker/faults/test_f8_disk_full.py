"""F8: a full disk."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.docker.house import House
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

APP = "tests.docker.faults.full_disk_app:create_app()"
MUTATION = Mutation(
    "controller/files.py",
    "    handle, name = tempfile.mkstemp(",
    "    path.write_text(text[:9])\n    handle, name = tempfile.mkstemp(",
    "test_f8_a_full_disk_breaks_no_file",
)


def files(house: House) -> dict[str, bytes]:
    """All that the controller keeps, but for its log."""
    folders = (house.compose_dir, house.data_dir)
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(house.folder)): path.read_bytes() for path in found}


def port_of(house: House, model_id: str) -> int:
    rows = house.get("/models").json()["models"]
    return next(int(row["port"]) for row in rows if row["id"] == model_id)


@pytest.mark.parametrize("step", ["open", "fsync", "rename"])
def test_f8_a_full_disk_breaks_no_file(build_house: Build, tmp_path: Path, step: str, figure: Figure) -> None:
    """No space left at a step of writing: what runs serves on, what stopped starts, a restarted controller comes up.

    A start that has to write fails by that reason. No file is changed or left in halves; with space again, all work.
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

    refused = 0
    with socket.create_server(("127.0.0.1", port_of(house, "moved"))):
        # One has to move off a taken port, the other to be converted.
        for model_id in ("moved", "made"):
            response = house.ask(model_id, "hello")
            error = check_error(response.status_code, response.json(), 503, "files_unwritable")
            assert "space" in error["message"]
            refused += 1
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
    figure("starts refused", refused)
