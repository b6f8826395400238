"""Which port belongs to which model: append-only, kept in `ports.json`, so that a port always means the same model."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from controller.errors import ConfigInvalid, PortTaken
from controller.system.files import write_atomic

LAST_PORT = 65535


def port_is_free(port: int) -> bool:
    """Return whether a listener could bind 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class PortBook:
    """The assignments. Thread-safe. An explicit `port:` is not kept here, because it is in models.yaml."""

    def __init__(self, path: Path, *, first: int, is_free: Callable[[int], bool] = port_is_free) -> None:
        self._path = path
        self._first = first
        self._is_free = is_free
        self._lock = threading.Lock()
        self._ports = self._load()
        self._file_ports = self._ports

    def assign(self, explicit: Mapping[str, int | None]) -> dict[str, int]:
        """Return the port of each model: its explicit one, else the one it had, else the next free number.

        `explicit` is the whole registry, id → `port:` or None; earlier models get lower numbers. New ports that cannot
        be saved are valid until the controller ends; a later call saves them if it can.
        """
        with self._lock:
            fixed = {port for port in explicit.values() if port is not None}
            ports = dict(self._ports)
            for model_id, port in explicit.items():
                if port is None and (model_id not in ports or ports[model_id] in fixed):
                    ports[model_id] = self._next(set(ports.values()) | fixed)
            self._ports = ports
            # A caller that only reads the ports must get them even if the disk is full; one that writes gets the error.
            with suppress(OSError):
                self._save(ports)
            return {model_id: port or ports[model_id] for model_id, port in explicit.items()}

    def move(self, model_id: str, avoid: Iterable[int]) -> int:
        """Give the model the next port that no model has and no program uses. Raises OSError if it cannot be saved."""
        with self._lock:
            port = self._next(set(self._ports.values()) | set(avoid), must_be_free=True)
            ports = {**self._ports, model_id: port}
            self._save(ports)
            self._ports = ports
            return port

    def is_free(self, port: int) -> bool:
        """Tell whether no program listens on the port now."""
        return self._is_free(port)

    def _next(self, used_ports: set[int], *, must_be_free: bool = False) -> int:
        for port in range(self._first, LAST_PORT + 1):
            if port not in used_ports and (not must_be_free or self._is_free(port)):
                return port
        raise PortTaken(f"no free port from {self._first} up; free some or set ORCHESTRAR_FIRST_MODEL_PORT lower")

    def _save(self, ports: dict[str, int]) -> None:
        if ports != self._file_ports:
            write_atomic(self._path, json.dumps(ports, indent=2) + "\n")
            self._file_ports = ports

    def _load(self) -> dict[str, int]:
        try:
            ports = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            raise ConfigInvalid(
                [f"{self._path}: cannot be read ({exc}); delete it to have ports assigned again"]
            ) from exc
        if not isinstance(ports, dict) or not all(isinstance(port, int) for port in ports.values()):
            raise ConfigInvalid(
                [f"{self._path}: is not a table of model ids and ports; delete it to have ports assigned again"]
            )
        return ports
