"""`engine: auto` on the real engine: a container that refuses the model, and the next engine that serves it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import requests

from controller.settings import ROOT
from tests.docker.conftest import Build
from tests.docker.house import House, docker, until
from tests.errorshape import check_error

UNFIT = "its rows of 576 values are no multiple of 256"


def with_images(folder: Path, images: dict[str, str]) -> str:
    """Copy the shipped templates, with these images in place of the engines' own; return the folder."""
    templates = folder / "templates"
    shutil.copytree(ROOT / "templates", templates)
    for engine, image in images.items():
        template = templates / "engines" / f"{engine}.yaml.j2"
        text, count = re.subn(r'"image": "[^"]*"', f'"image": "{image}"', template.read_text())
        assert count == 1
        template.write_text(text)
    return str(templates)


@pytest.fixture(scope="module")
def house(build_house: Build, openai_image: str, fake_image: str, tmp_path_factory: pytest.TempPathFactory) -> House:
    templates = with_images(
        tmp_path_factory.mktemp("auto"),
        {"openvino": fake_image, "transformers": fake_image, "llamacpp": openai_image},
    )
    unfit = {"FAKE_PREPARE_ERROR": json.dumps({"error": UNFIT, "unfit": True})}
    damaged = {"FAKE_PREPARE_ERROR": json.dumps({"error": "the file is cut", "unfit": False})}
    models = {
        "refused": {"gguf": True, "image": None, "env": unfit, "aliases": ["tiny"]},
        "taken": {"gguf": True, "image": None},
        "named": {"gguf": True, "image": None, "env": unfit, "engine": "openvino"},
        "damaged": {"gguf": True, "image": None, "env": damaged},
        "killed": {"gguf": True, "image": None, "env": {"FAKE_PREPARE_S": "60"}},
    }
    return build_house(models, ORCHESTRAR_TEMPLATES=templates)


def row(house: House, model_id: str) -> tuple[str, str]:
    """Return which engine `GET /models` shows, and why."""
    (row,) = [row for row in house.get("/models").json()["models"] if row["id"] == model_id]
    return row["engine"], row["engine_reason"]


def test_the_next_engine_serves_the_first_request(house: House) -> None:
    """The request that finds nothing prepared is answered by a server that is asked in another way than the first."""
    assert "openvino" == row(house, "refused")[0]
    answer = house.ask("tiny", "hello").json()
    assert ("hello", "refused") == (answer["text"], answer["model_id"])
    assert ("llamacpp", f"openvino: {UNFIT}; llamacpp serves it") == row(house, "refused")
    (container,) = house.containers("refused")
    assert "llamacpp" == docker("inspect", "--format", '{{index .Config.Labels "orchestrar.engine"}}', container)
    assert "" == docker("volume", "ls", "-q", "--filter", f"name={house.project}_refused.openvino")
    assert f"refused: the openvino engine does not serve it: {UNFIT}" in house.log_file.read_text()


def test_a_restart_adopts_it_and_a_stop_by_hand_keeps_the_choice(house: House) -> None:
    """The choice is durable: no engine is asked again, and Compose by hand starts the same server."""
    house.ask("refused", "here").raise_for_status()
    (container,) = house.containers("refused")
    house.terminate()
    house.start()
    until("it is adopted", lambda: house.status("refused")["state"] == "ready")
    assert [container] == house.containers("refused")
    assert (False, "llamacpp") == (house.status("refused")["drift"], house.status("refused")["engine"])
    assert "again" == house.ask("refused", "again").json()["text"]
    house.post("/stop", {"model_id": "refused"}).raise_for_status()
    house.compose("up", "--detach", "refused")
    until("it is adopted", lambda: house.status("refused")["state"] == "ready")
    assert "by hand" == house.ask("refused", "by hand").json()["text"]


def test_a_reload_leaves_it_alone(house: House) -> None:
    """The changes of a models.yaml that did not change are none, whatever was decided since it was read."""
    house.ask("refused", "here").raise_for_status()
    changes = house.post("/reload", {}).json()
    assert ([], [], []) == (changes["remade"], changes["adjusted"], changes["added"])


def test_a_model_that_the_first_engine_takes_stays_with_it(house: House) -> None:
    """It is converted, and our own API asks it."""
    house.ask("taken", "hello").raise_for_status()
    assert ("openvino", "it is the first engine of `auto` that takes model.gguf") == row(house, "taken")


def test_a_named_engine_is_not_replaced(house: House) -> None:
    """Its refusal is what the client gets."""
    response = house.ask("named", "hello")
    error = check_error(response.status_code, response.json(), 503, "preparation_failed")
    assert f"preparing named failed: {UNFIT}" == error["message"]
    assert "openvino" == row(house, "named")[0]


def test_damaged_files_are_no_refusal(house: House) -> None:
    """No other engine is tried."""
    response = house.ask("damaged", "hello")
    error = check_error(response.status_code, response.json(), 503, "preparation_failed")
    assert "preparing damaged failed: the file is cut" == error["message"]


def test_a_preparation_that_is_killed_says_so(house: House) -> None:
    """Its last line was about progress, which is no reason."""
    house.post("/pull", {"model_id": "killed", "wait": False}).raise_for_status()
    (container,) = until("it prepares", lambda: house.preparing("killed"))
    docker("kill", container)
    until("it fails", lambda: house.status("killed")["error"])
    assert "was killed from outside" in house.status("killed")["error"]["message"]


def test_deleted_files_are_decided_again(house: House) -> None:
    """The engine shown is that of the source's name again, and the next start asks both."""
    house.post("/stop", {"model_id": "refused"}).raise_for_status()
    assert requests.delete(f"{house.url}/models/refused/files", timeout=30).ok
    assert "openvino" == row(house, "refused")[0]
    house.ask("refused", "hello").raise_for_status()
    assert "llamacpp" == row(house, "refused")[0]
