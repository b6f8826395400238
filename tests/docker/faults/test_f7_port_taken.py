"""F7: a port that another program took."""

from __future__ import annotations

import json
import socket

from tests.conftest import Figure
from tests.docker.conftest import Build
from tests.errorshape import check_error
from tests.promises.mutation import Mutation

MUTATION = Mutation(
    "controller/deployment/service_start.py",
    "if self._ports.is_free(port):",
    "if self._ports.is_free(port) or True:",
    "test_f7_an_explicit_port_that_is_taken_is_named",
)


def test_f7_a_taken_port_moves_on(build_house: Build, figure: Figure) -> None:
    """If another program uses a model's automatic port, the model gets another one, and keeps it."""
    house = build_house({"echo": {}, "second": {}})
    house.ask("echo", "hello").raise_for_status()
    rows = house.get("/models").json()["models"]
    port = next(row["port"] for row in rows if row["id"] == "second")
    with socket.create_server(("127.0.0.1", port)):
        answer = house.post("/run", {"model_id": "second"}).json()
        assert "fine" == house.ask("echo", "fine").json()["text"]
    assert "ready" == answer["state"]
    figure("ports moved by", answer["port"] - port)
    assert port < answer["port"]
    assert answer["port"] == json.loads((house.data_dir / "ports.json").read_text())["second"]


def test_f7_an_explicit_port_that_is_taken_is_named(build_house: Build) -> None:
    """If the `port:` of a model's entry is taken, its start fails and names the port; others are unaffected."""
    with socket.create_server(("127.0.0.1", 0)) as other_program:
        port = other_program.getsockname()[1]
        house = build_house({"fixed": {"port": port}, "free": {}})
        response = house.post("/run", {"model_id": "fixed"})
        error = check_error(response.status_code, response.json(), 503, "port_taken")
        assert str(port) in error["message"]
        assert "fine" == house.ask("free", "fine").json()["text"]
    assert "ready" == house.post("/run", {"model_id": "fixed"}).json()["state"]
