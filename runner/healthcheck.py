"""Exits with code 0 if the runner's /health is 200. Imports next to nothing, since it runs every few seconds."""

import socket
import sys

HOST, PORT, TIMEOUT_S = "127.0.0.1", 8000, 2.0


def is_healthy(host: str = HOST, port: int = PORT) -> bool:
    """Tell whether /health answers 200 within the time-out."""
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status_line = connection.makefile("rb").readline(64)
    except OSError:
        return False
    return status_line.split(b" ")[1:2] == [b"200"]


if __name__ == "__main__":
    sys.exit(0 if is_healthy() else 1)
