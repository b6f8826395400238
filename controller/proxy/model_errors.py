"""The error in what a model's server answered, whichever server that is."""

from __future__ import annotations

from typing import Any

# What our own errors consist of; the meaning of a server's other fields is unknown.
_ERROR_FIELDS: dict[str, type | tuple[type, ...]] = {
    "message": str,
    "type": str,
    "code": str,
    "param": (str, type(None)),
    "src": str,
    "request_id": str,
    "details": dict,
}
# What llama.cpp's server says by the type alone, in the words that clients of the OpenAI API know.
_KNOWN_TYPES = {
    "exceed_context_size_error": {"type": "invalid_request_error", "code": "context_length_exceeded"},
}


def error_of(answer: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error in a model's answer, in our fields; None if there is none.

    Servers differ: an object or a text under `error`, a text under `detail`, or the fields with nothing around them; a
    number as `code`; and fields of their own, which go into `details`.
    """
    error = answer if answer.get("object") == "error" else answer.get("error", answer.get("detail"))
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        return None
    ours = {name: error[name] for name, kind in _ERROR_FIELDS.items() if isinstance(error.get(name, ()), kind)}
    others = {name: value for name, value in error.items() if name not in _ERROR_FIELDS and name != "object"}
    rewording = _KNOWN_TYPES.get(ours.get("type", ""), {})
    return {**ours, **rewording, "details": {**others, **ours.get("details", {})}}
