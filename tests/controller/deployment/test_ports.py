"""Ports: stable, append-only, and never two models on one."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.deployment.ports import PortBook, port_is_free
from controller.errors import ConfigInvalid, PortTaken


def book(path: Path, first: int = 8001) -> PortBook:
    return PortBook(path / "ports.json", first=first, is_free=lambda port: port != 8003)


def test_assignments_survive(tmp_path: Path) -> None:
    """A model keeps its port over restarts, even if models before it are added or removed."""
    assert book(tmp_path).assign({"a": None, "b": None}) == {"a": 8001, "b": 8002}
    assert book(tmp_path).assign({"new": None, "b": None}) == {"new": 8003, "b": 8002}
    assert book(tmp_path).assign({"a": None})["a"] == 8001


def test_an_explicit_port_wins(tmp_path: Path) -> None:
    """A model's own `port:` is used as it is, and a model with that automatic port gets another."""
    ports = book(tmp_path)
    assert ports.assign({"a": None, "b": None}) == {"a": 8001, "b": 8002}
    assert ports.assign({"a": None, "b": 8001}) == {"a": 8003, "b": 8001}


def test_moving_on_skips_what_is_taken(tmp_path: Path) -> None:
    """A model that moves keeps the new port; no model has it and no program listens on it."""
    ports = book(tmp_path)
    ports.assign({"a": None, "b": None})
    assert ports.move("a", avoid=[]) == 8004
    assert book(tmp_path).assign({"a": None, "b": None}) == {"a": 8004, "b": 8002}


@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), st.none() | st.integers(8001, 8006)), max_size=6))
def test_no_port_has_two_models(tmp_path_factory: pytest.TempPathFactory, history: list[dict[str, int | None]]) -> None:
    """In every sequence of registries no two models share an automatic port, nor does one get an explicit port."""
    ports = PortBook(tmp_path_factory.mktemp("p") / "ports.json", first=8001, is_free=lambda _: True)
    for registry in history:
        fixed = [port for port in registry.values() if port]
        if len(set(fixed)) < len(fixed):
            continue  # the registry refuses that
        assigned = ports.assign(registry)
        assert len(set(assigned.values())) == len(registry)
        assert {m: p for m, p in registry.items() if p} == {m: assigned[m] for m, p in registry.items() if p}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": "x"}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    """A ports.json that cannot be read is an error with its path and the remedy."""
    (tmp_path / "ports.json").write_text(text)
    with pytest.raises(ConfigInvalid, match=r"ports\.json: .*delete it"):
        book(tmp_path)


def test_a_full_disk_does_not_prevent_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports that cannot be saved are valid nevertheless, do not change, and are saved as soon as possible; meanwhile no
    model moves."""

    def refuse(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    ports = book(tmp_path)
    with monkeypatch.context() as patches:
        patches.setattr("controller.deployment.ports.write_atomic", refuse)
        assert {"b": 8001} == ports.assign({"b": None})
        assert {"a": 8002, "b": 8001} == ports.assign({"a": None, "b": None})
        with pytest.raises(OSError, match="No space"):
            ports.move("a", avoid=[])
        assert {"a": 8002, "b": 8001} == ports.assign({"a": None, "b": None})
    assert not (tmp_path / "ports.json").exists()
    ports.assign({"a": None, "b": None})
    assert {"a": 8002, "b": 8001} == book(tmp_path).assign({"a": None, "b": None})


def test_running_out_is_an_error(tmp_path: Path) -> None:
    """If no port is left, the error says what to set."""
    ports = PortBook(tmp_path / "ports.json", first=65535, is_free=lambda _: True)
    with pytest.raises(PortTaken, match="ORCHESTRAR_FIRST_MODEL_PORT"):
        ports.assign({"a": None, "b": None})
    assert not (tmp_path / "ports.json").exists() or json.loads((tmp_path / "ports.json").read_text()) == {}


def test_a_listener_takes_a_port() -> None:
    """A port with a listener on loopback is not free; without it, it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)
