"""Which port belongs to which model: append-only, kept in `ports.json`, so that a port means one model for good."""

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
    """True when a listener could bind 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class PortBook:
    """The assignments. Thread-safe. An explicit `port:` is never written here: it stands in models.yaml."""

    def __init__(self, path: Path, *, first: int, is_free: Callable[[int], bool] = port_is_free) -> None:
        self._path = path
        self._first = first
        self._is_free = is_free
        self._lock = threading.Lock()
        self._ports = self._load()
        self._kept = self._ports

    def assign(self, explicit: Mapping[str, int | None]) -> dict[str, int]:
        """The port of each model: its explicit one, else the one it had, else the next nobody has.

        `explicit` is the whole registry, id → `port:` or None; the order decides who gets the lower number. Where they
        cannot be written down they hold until the controller ends, or until a later call can.
        """
        with self._lock:
            fixed = {port for port in explicit.values() if port is not None}
            known = dict(self._ports)
            for model_id, port in explicit.items():
                if port is None and (model_id not in known or known[model_id] in fixed):
                    known[model_id] = self._next(set(known.values()) | fixed)
            self._ports = known
            # Who only wants to know the ports is to have them, whatever the disk says; who writes more hears of it.
            with suppress(OSError):
                self._keep(known)
            return {model_id: port or known[model_id] for model_id, port in explicit.items()}

    def move(self, model_id: str, avoid: Iterable[int]) -> int:
        """Give the model the next port that nobody has and nothing listens on. OSError when it cannot be kept."""
        with self._lock:
            port = self._next(set(self._ports.values()) | set(avoid), must_be_free=True)
            moved = {**self._ports, model_id: port}
            self._keep(moved)
            self._ports = moved
            return port

    def is_free(self, port: int) -> bool:
        """Whether nothing listens on the port now."""
        return self._is_free(port)

    def _next(self, taken: set[int], *, must_be_free: bool = False) -> int:
        for port in range(self._first, LAST_PORT + 1):
            if port not in taken and (not must_be_free or self._is_free(port)):
                return port
        raise PortTaken(f"no free port from {self._first} up; free some or set ORCHESTRAR_FIRST_MODEL_PORT lower")

    def _keep(self, ports: dict[str, int]) -> None:
        if ports != self._kept:
            write_atomic(self._path, json.dumps(ports, indent=2) + "\n")
            self._kept = ports

    def _load(self) -> dict[str, int]:
        try:
            ports = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as exc:
            raise ConfigInvalid([f"{self._path}: cannot be read ({exc}); delete it to assign ports anew"]) from exc
        if not isinstance(ports, dict) or not all(isinstance(port, int) for port in ports.values()):
            raise ConfigInvalid(
                [f"{self._path}: is not a table of model ids and ports; delete it to assign ports anew"]
            )
        return ports
