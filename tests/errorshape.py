"""The one check of the one error shape."""

from __future__ import annotations

from typing import Any


def check_error(status: int, body: Any, expected_status: int, code: str, *, src: str = "orchestrar") -> dict[str, Any]:
    """Assert that an answer is the error envelope with this status and code; returns its inner object."""
    assert status == expected_status, body
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "code", "param", "src", "request_id", "details"}
    assert (error["code"], error["src"]) == (code, src)
    assert error["message"]
    assert error["request_id"]
    assert isinstance(error["details"], dict)
    return error
