"""What a request asks of its answer, against what engine and model can do."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from runner.api.constraints import MAX_FORCED_CALLS, add_grammar
from runner.api.errors import RequestRefused
from runner.api.tool_calls import Call, ToolCallParser
from runner.engine import Capabilities, Constraints, GenerationRequest, Message, Tool, ToolCall, ToolSyntax
from tests.runner.grammar import ebnf

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}}}
TOOLS = (
    Tool(name="get", description="", parameters={}),
    Tool(name="get_weather", description="", parameters={**WEATHER, "required": ["city"]}),
    Tool(name="add", description="", parameters={"$ref": "#/$defs/A", "$defs": {"A": WEATHER}}),
)
SYNTAXES: tuple[ToolSyntax, ...] = ("hermes", "llama", "mistral")


def capable(*, grammars: bool = True, tool_syntax: ToolSyntax | None = "hermes") -> Capabilities:
    return Capabilities(
        engine="some", device="", dtype="", context_length=1, concurrency=1, grammars=grammars, tool_syntax=tool_syntax
    )


def texts(constraints: Constraints, capabilities: Capabilities, count: int = 100) -> list[str]:
    """Some of what the answer may be."""
    grammar = add_grammar(GenerationRequest(constraints=constraints), capabilities).grammar
    assert grammar is not None
    read = ebnf.read(grammar.text)
    return [read.sample(random.Random(seed)) for seed in range(count)]


def calls(text: str) -> list[Call]:
    """The calls in a text that has nothing else."""
    parser = ToolCallParser([tool.name for tool in TOOLS])
    found = parser.feed(text) + parser.flush()
    assert all(isinstance(one, Call) for one in found), text
    return [one for one in found if isinstance(one, Call)]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("parallel", [False, True])
def test_forced_calls_are_calls(syntax: ToolSyntax, parallel: bool) -> None:
    """In the model's own form, of the tools that were named, with arguments that keep their schemas."""
    wanted = Constraints(tools=TOOLS, must_call=("get", "get_weather"), parallel_calls=parallel)
    found = [calls(text) for text in texts(wanted, capable(tool_syntax=syntax))]
    counts = {len(one) for one in found}
    assert counts == (set(range(1, MAX_FORCED_CALLS + 1)) if parallel and syntax != "llama" else {1})
    assert {"get", "get_weather"} == {call.name for one in found for call in one}
    for call in (call for one in found for call in one):
        schema = next(tool.parameters for tool in TOOLS if tool.name == call.name)
        Draft202012Validator(schema).validate(json.loads(call.arguments))


def test_a_schema_may_be_answered_by_a_call() -> None:
    """With tools and a schema the answer is either; with a call that has to be, it is a call."""
    schema = {"type": "object", "properties": {"answer": {"type": "boolean"}}, "required": ["answer"]}
    either = texts(Constraints(schema=schema, tools=TOOLS), capable())
    assert {True, False} == {text.startswith('{"answer": ') for text in either}
    assert all(text.startswith('{"answer": ') or calls(text) for text in either)
    assert all(calls(text) for text in texts(Constraints(schema=schema, tools=TOOLS, must_call=("add",)), capable()))


def test_free_text_has_no_grammar() -> None:
    """Neither a free answer nor tools that need not be called are held to anything."""
    for constraints in (Constraints(), Constraints(tools=TOOLS)):
        request = GenerationRequest(constraints=constraints)
        assert request == add_grammar(request, capable())


CALLED = Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="get", arguments={}),))


@pytest.mark.parametrize(
    ("request_", "capabilities", "code", "param", "says"),
    [
        (GenerationRequest(constraints=Constraints(schema={})), capable(grammars=False), "unsupported_parameter",
         "response_format", "engine some"),
        (GenerationRequest(constraints=Constraints(tools=TOOLS)), capable(tool_syntax=None), "unsupported_parameter",
         "tools", "chat template"),
        (GenerationRequest(constraints=Constraints(tools=TOOLS, must_call=("get",))), capable(grammars=False),
         "unsupported_parameter", "tool_choice", "engine some"),
        (GenerationRequest(messages=(Message(role="user", content=""), CALLED)), capable(tool_syntax=None),
         "unsupported_parameter", "messages.1.tool_calls", "chat template"),
        (GenerationRequest(constraints=Constraints(schema={"not": {}})), capable(), "invalid_schema", "response_format",
         '"not"'),
        (GenerationRequest(constraints=Constraints(must_call=("f",), tools=(
            TOOLS[0], Tool(name="f", description="", parameters={"type": "string"})))), capable(), "invalid_schema",
         "tools.1.function.parameters", "object"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    request_: GenerationRequest, capabilities: Capabilities, code: str, param: str, says: str
) -> None:
    """The parameter and the reason, whichever of engine, template and schema it is."""
    with pytest.raises(RequestRefused) as caught:
        add_grammar(request_, capabilities)
    assert (code, param) == (caught.value.code, caught.value.param)
    assert says in caught.value.message


def test_a_broken_schema_of_a_tool_that_need_not_be_called_does_not_matter() -> None:
    """Only what an answer is held to has to be held to."""
    tools = (Tool(name="f", description="", parameters={"not": {}}), *TOOLS)
    assert texts(Constraints(tools=tools, must_call=("get",)), capable(), 1)
    free: Any = add_grammar(GenerationRequest(constraints=Constraints(tools=tools)), capable(grammars=False))
    assert free.grammar is None
