from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.api.bodies.native import parse_inference_body
from runner.api.errors import RequestRefused


def refusal(body: object) -> RequestRefused:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestRefused) as excinfo:
        parse_inference_body(data)
    assert excinfo.value.code == "invalid_body"
    return excinfo.value


def test_every_parameter_reaches_the_request() -> None:
    """The engine gets what the client writes."""
    body = {"prompt": "hi", "raw": True, "max_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 3, "seed": -7}
    request = parse_inference_body(json.dumps({**body, "stop": "x"}).encode()).to_request()
    assert ("hi", True, ()) == (request.prompt, request.raw, request.messages)
    assert (5, 0, 0.5, 3, ("x",), -7) == (
        request.sampling.max_tokens,
        request.sampling.temperature,
        request.sampling.top_p,
        request.sampling.top_k,
        request.sampling.stop,
        request.sampling.seed,
    )


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": True}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": None}, None),
        ({"messages": [{"role": "user", "content": "x"}]}, None),
        ({"prompt": None, "messages": []}, "messages"),
        ({"prompt": None, "messages": [{"role": "emperor", "content": "x"}]}, "messages.0.role"),
        ({"prompt": None, "messages": [{"role": "user"}]}, "messages.0.content"),
        ({"prompt": None, "raw": True, "messages": [{"role": "user", "content": "x"}]}, None),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"temperature": False}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["x"] * 9}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": 3}, "stop"),
        ({"seed": 2**64}, "seed"),
        ({"stream": 1}, "stream"),
        ({"n_predict": 1}, "n_predict"),
    ],
)
def test_the_refusal_of_a_wrong_field_names_it(change: dict[str, Any], param: str | None) -> None:
    """Each refusal names the field at fault, and no wrong type passes."""
    error = refusal({"prompt": "hi", **change})
    assert param == error.param
    assert param is None or param in error.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"prompt"',
        b'{"prompt": "\xff"}',
        b'{"prompt": "a\x00b"}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        '{"prompt": "x"}'.encode("utf-16"),
    ],
)
def test_anything_but_a_json_object_is_refused(data: bytes) -> None:
    """Invalid, too deep, too large or not UTF-8: the refusal is one sentence, never another exception."""
    message = refusal(data).message
    assert message.endswith(".")
    assert "\n" not in message


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    """No input raises anything but RequestRefused."""
    with contextlib.suppress(RequestRefused):
        parse_inference_body(data)
