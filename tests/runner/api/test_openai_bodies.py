"""The bodies of the OpenAI API: what passes, and which refusals name what."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runner.api.bodies.native import parse_inference_body
from runner.api.bodies.openai import CHAT_NEUTRAL, COMPLETION_NEUTRAL, parse_chat_body, parse_completion_body
from runner.api.errors import RequestRefused
from runner.engine import Constraints, Message, Tool, ToolCall
from tests.runner.api.test_openai_formats import CHAT, COMPLETIONS, chat


def test_every_parameter_reaches_the_engine() -> None:
    """The engine gets what the client writes; roles and parts take the form that templates know."""
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


TOOL = {"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_tools_and_calls_reach_the_engine() -> None:
    """Tools, required calls, earlier calls and their answers take the form that engines know."""
    body = chat("hi", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}})
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "done", "tool_call_id": "1"},
    ]
    request = parse_chat_body(json.dumps(body).encode()).to_request()
    tool = Tool(name="f", description="does", parameters={"type": "object"})
    assert Constraints(tools=(tool,), must_call=("f",)) == request.constraints
    call = ToolCall(id="1", name="f", arguments={"a": 1})
    assert Message(role="assistant", content="", tool_calls=(call,)) == request.messages[1]
    assert Message(role="tool", content="done", tool_call_id="1") == request.messages[2]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tools": [TOOL]}, (1, (), False)),
        ({"tools": [TOOL], "tool_choice": "auto"}, (1, (), False)),
        ({"tools": [TOOL], "tool_choice": "none"}, (0, (), False)),
        ({"tools": [TOOL], "tool_choice": "required"}, (1, ("f",), False)),
        ({"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": True}, (1, ("f",), True)),
        ({"tools": []}, (0, (), False)),
        ({"tools": None, "tool_choice": "auto"}, (0, (), False)),
    ],
)
def test_the_choice_of_tools(fields: dict[str, Any], expected: tuple[int, tuple[str, ...], bool]) -> None:
    """Which tools the model may call, which it must call, and whether several times."""
    constraints = parse_chat_body(json.dumps(chat("hi", **fields)).encode()).to_request().constraints
    assert expected == (len(constraints.tools), constraints.must_call, constraints.parallel_calls)


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        (None, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"enum": [1]}}}, {"enum": [1]}),
    ],
)
def test_the_form_of_the_answer(response_format: Any, schema: Any) -> None:
    """An answer's schema reaches the engine on every route; free text has none."""
    body = json.dumps(chat("hi", response_format=response_format)).encode()
    assert schema == parse_chat_body(body).to_request().constraints.schema
    prompt_body = json.dumps({"prompt": "hi", "response_format": response_format}).encode()
    for parse in (parse_inference_body, parse_completion_body):
        assert schema == parse(prompt_body).to_request().constraints.schema


def test_defaults_nulls_and_unknown_parameters_pass() -> None:
    """Parameters without an effect are not refused."""
    neutral = {name: values[0] if values else None for name, values in CHAT_NEUTRAL.items()}
    odd = {"user": "me", "store": True, "metadata": {}, "service_tier": "auto", "frobnicate": [1]}
    nulls = dict.fromkeys(("stop", "seed", "stream", "stream_options", "max_tokens", "temperature", "top_p", "tools",
                           "tool_choice", "parallel_tool_calls", "response_format"))  # fmt: skip
    body = chat("hi", **neutral, **odd, **nulls)
    body["messages"].append({"role": "assistant", "content": "yes", "name": "a", "tool_calls": []})
    parse_chat_body(json.dumps(body).encode())
    neutral = {name: values[0] if values else None for name, values in COMPLETION_NEUTRAL.items()}
    parse_completion_body(json.dumps({"prompt": "hi", **neutral, **odd, **nulls}).encode())


def refusal(path: str, change: dict[str, Any]) -> RequestRefused:
    """Return the refusal of a body that is valid except for this change."""
    parse: Callable[[bytes], object] = parse_chat_body if path == CHAT else parse_completion_body
    body = {**(chat("hi") if path == CHAT else {"prompt": "hi"}), **change}
    with pytest.raises(RequestRefused) as excinfo:
        parse(json.dumps(body).encode())
    return excinfo.value


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"n": True}, "n"),
        (CHAT, {"logprobs": True}, "logprobs"),
        (CHAT, {"top_logprobs": 3}, "top_logprobs"),
        (CHAT, {"logit_bias": {"50256": -100}}, "logit_bias"),
        (CHAT, {"functions": [{}]}, "functions"),
        (CHAT, {"presence_penalty": 0.5}, "presence_penalty"),
        (CHAT, {"frequency_penalty": -1}, "frequency_penalty"),
        (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
        (CHAT, {"audio": {"voice": "alloy"}}, "audio"),
        (CHAT, {"prediction": {"type": "content"}}, "prediction"),
        (COMPLETIONS, {"echo": True}, "echo"),
        (COMPLETIONS, {"best_of": 3}, "best_of"),
        (COMPLETIONS, {"suffix": "end"}, "suffix"),
        (COMPLETIONS, {"logprobs": 0}, "logprobs"),
    ],
)
def test_an_unsupported_parameter_that_matters_is_refused(path: str, change: dict[str, Any], param: str) -> None:
    """A known but unsupported parameter never passes in silence: the refusal names it."""
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
        (CHAT, {"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        (
            CHAT,
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            "required",
        ),
        (CHAT, {"tools": [{"type": "custom"}]}, "tools.0.type", "function"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "pattern"),
        (CHAT, {"tools": [TOOL, TOOL]}, "tools", "several"),
        (CHAT, {"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", '"required"'),
        (CHAT, {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "function"),
        (
            CHAT,
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
            "tool_choice",
            "add",
        ),
        (CHAT, {"tool_choice": "required"}, "tool_choice", "no tools"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]},
            "messages.0.tool_calls",
            "assistant",
        ),
        (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages.0.content", ""),
        (
            CHAT,
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
            "messages.0.tool_calls.0.function.arguments",
            "JSON object",
        ),
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
def test_the_refusal_of_a_wrong_parameter_names_it(path: str, change: dict[str, Any], param: str, says: str) -> None:
    """Each refusal names the parameter at fault."""
    error = refusal(path, change)
    assert ("invalid_body", param) == (error.code, error.param)
    assert param in error.message
    assert says in error.message
