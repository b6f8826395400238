"""A gate before the engine's socket: shut, the engine is away; frozen, it hangs; other users notice nothing.

Run as a program it is the gate's process: `docker_gate.py GATE_SOCKET ENGINE_SOCKET`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
OPEN_WITHIN_S = 10.0


class Gate:
    """Stands between one House (`DOCKER_HOST=gate.url`) and the engine, which others use as well."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "docker.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Let the engine be there, as after its start."""
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen([sys.executable, __file__, str(self._socket), ENGINE])
        end = time.monotonic() + OPEN_WITHIN_S
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self._socket)) != 0:
                assert time.monotonic() < end, "the gate did not open"
                time.sleep(0.02)

    def shut(self) -> None:
        """Let the engine be away, as after its end: connections break, and new ones are refused. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let the engine hang: connections are accepted, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it continue where it was."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _pass_on(engine: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there, back = await asyncio.open_unix_connection(engine)
    forth = asyncio.ensure_future(_pump(reader, back))
    try:
        await _pump(there, writer)
    finally:
        # The engine's answer is over, or the client has left: only its client ends `docker events`.
        forth.cancel()
        await asyncio.wait([forth])
        back.close()
        writer.close()


async def _serve(gate: str, engine: str) -> None:
    # asyncio itself keeps no reference to a task that serves a half-closed connection.
    under_way = set()

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        under_way.add(task)
        with contextlib.suppress(OSError):
            await _pass_on(engine, reader, writer)
        under_way.discard(task)

    async with await asyncio.start_unix_server(taken, gate) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
