"""Server-sent events as they are written. `openai_events` reads them."""

from __future__ import annotations

EVENT_STREAM = "text/event-stream"
# What we write is always UTF-8.
CONTENT_TYPE = f"{EVENT_STREAM}; charset=utf-8"
COMMENT = b":\n\n"


def event(data: str) -> bytes:
    """Return one event; the data has no line break."""
    return f"data: {data}\n\n".encode()
