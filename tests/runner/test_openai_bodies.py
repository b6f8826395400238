"""The bodies of the OpenAI API: what passes, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runner.errors import Refused
from runner.openai_bodies import CHAT_NEUTRAL, COMPLETION_NEUTRAL, parse_chat_body, parse_completion_body
from tests.runner.test_openai import CHAT, COMPLETIONS, chat


def test_every_parameter_reaches_the_engine() -> None:
    """What a client writes is what the engine gets; roles and parts become what templates know."""
    body = chat("hi", max_tokens=3, max_completion_tokens=5, temperature=0, top_p=0.5, top_k=3, seed=7, stop="x")
    body["messages"].insert(0, {"role": "developer", "content": [{"type": "text", "text": t} for t in ("be", "kind")]})
    request = parse_chat_body(json.dumps(body).encode()).to_request()
    assert [("system", "be\nkind"), ("user", "hi")] == [(one.role, one.content) for one in request.messages]
    sampling = request.sampling
    assert (5, 0, 0.5, 3, 7, ("x",)) == (
        sampling.max_tokens,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        sampling.seed,
        sampling.stop,
    )
    completion = parse_completion_body(b'{"prompt": "hi", "max_tokens": 4}').to_request()
    assert ("hi", True, 4) == (completion.prompt, completion.raw, completion.sampling.max_tokens)


def test_defaults_nulls_and_unknown_parameters_pass() -> None:
    """What changes nothing is no reason to refuse, whoever sends it."""
    neutral = {name: values[0] if values else None for name, values in CHAT_NEUTRAL.items()}
    odd = {"user": "me", "store": True, "metadata": {}, "service_tier": "auto", "frobnicate": [1]}
    nulls = dict.fromkeys(("stop", "seed", "stream", "stream_options", "max_tokens", "temperature", "top_p"))
    body = chat("hi", **neutral, **odd, **nulls)
    body["messages"].append({"role": "assistant", "content": "yes", "name": "a", "tool_calls": []})
    parse_chat_body(json.dumps(body).encode())
    neutral = {name: values[0] if values else None for name, values in COMPLETION_NEUTRAL.items()}
    parse_completion_body(json.dumps({"prompt": "hi", **neutral, **odd, **nulls}).encode())


def refusal(path: str, change: dict[str, Any]) -> Refused:
    """How a body that is good but for this change is refused."""
    parse: Callable[[bytes], object] = parse_chat_body if path == CHAT else parse_completion_body
    body = {**(chat("hi") if path == CHAT else {"prompt": "hi"}), **change}
    with pytest.raises(Refused) as caught:
        parse(json.dumps(body).encode())
    return caught.value


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"n": True}, "n"),
        (CHAT, {"logprobs": True}, "logprobs"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"logit_bias": {"50256": -100}}, "logit_bias"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools"),
        (CHAT, {"tool_choice": "required"}, "tool_choice"),
        (CHAT, {"functions": [{}]}, "functions"),
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"presence_penalty": 0.5}, "presence_penalty"),
        (CHAT, {"frequency_penalty": -1}, "frequency_penalty"),
        (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
        (CHAT, {"audio": {"voice": "alloy"}}, "audio"),
        (CHAT, {"prediction": {"type": "content"}}, "prediction"),
        (CHAT, {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
        (COMPLETIONS, {"echo": True}, "echo"),
        (COMPLETIONS, {"best_of": 3}, "best_of"),
        (COMPLETIONS, {"suffix": "end"}, "suffix"),
        (COMPLETIONS, {"logprobs": 0}, "logprobs"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(path: str, change: dict[str, Any], param: str) -> None:
    """A parameter that is known and not supported never passes in silence."""
    error = refusal(path, change)
    assert ("unsupported_parameter", param) == (error.code, error.param)
    assert param in error.message


@pytest.mark.parametrize(
    ("path", "change", "param", "says"),
    [
        (CHAT, {"messages": None}, "messages", ""),
        (CHAT, {"messages": []}, "messages", ""),
        (CHAT, {"messages": [{"role": "emperor", "content": "x"}]}, "messages.0.role", ""),
        (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content", ""),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages.0.content", ""),
        (CHAT, {"messages": [{"role": "user", "content": []}]}, "messages.0.content", "no parts"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
            "image_url",
        ),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content", "shape"),
        (CHAT, {"model": 5}, "model", ""),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", ""),
        (CHAT, {"temperature": "0"}, "temperature", ""),
        (CHAT, {"stream_options": {"include_usage": 1}}, "stream_options.include_usage", ""),
        (COMPLETIONS, {"prompt": None}, "prompt", ""),
        (COMPLETIONS, {"prompt": ""}, "prompt", ""),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "prompt", "several"),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, "prompt", "token"),
        (COMPLETIONS, {"max_tokens": True}, "max_tokens", ""),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(path: str, change: dict[str, Any], param: str, says: str) -> None:
    """Each refusal names the parameter at fault."""
    error = refusal(path, change)
    assert ("invalid_body", param) == (error.code, error.param)
    assert param in error.message
    assert says in error.message
