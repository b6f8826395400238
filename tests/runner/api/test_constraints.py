"""What a request demands of its answer, checked against what the engine and the model can do."""

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
    """Return some of the answers that the grammar allows."""
    grammar = add_grammar(GenerationRequest(constraints=constraints), capabilities).grammar
    assert grammar is not None
    rules = ebnf.read(grammar.text)
    return [rules.sample(random.Random(seed)) for seed in range(count)]


def calls(text: str) -> list[Call]:
    """Return the calls in a text that has nothing else."""
    parser = ToolCallParser([tool.name for tool in TOOLS])
    events = parser.feed(text) + parser.flush()
    assert all(isinstance(event, Call) for event in events), text
    return [event for event in events if isinstance(event, Call)]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("parallel", [False, True])
def test_forced_calls_are_valid_calls(syntax: ToolSyntax, parallel: bool) -> None:
    """They have the model's syntax, call one of the named tools, and their arguments are valid."""
    constraints = Constraints(tools=TOOLS, must_call=("get", "get_weather"), parallel_calls=parallel)
    answers = [calls(text) for text in texts(constraints, capable(tool_syntax=syntax))]
    counts = {len(answer) for answer in answers}
    assert counts == (set(range(1, MAX_FORCED_CALLS + 1)) if parallel and syntax != "llama" else {1})
    assert {"get", "get_weather"} == {call.name for answer in answers for call in answer}
    for call in (call for answer in answers for call in answer):
        schema = next(tool.parameters for tool in TOOLS if tool.name == call.name)
        Draft202012Validator(schema).validate(json.loads(call.arguments))


def test_an_answer_with_a_schema_may_be_a_call() -> None:
    """With tools and a schema, the answer is one of both; if the model must call, it is a call."""
    schema = {"type": "object", "properties": {"answer": {"type": "boolean"}}, "required": ["answer"]}
    either = texts(Constraints(schema=schema, tools=TOOLS), capable())
    assert {True, False} == {text.startswith('{"answer": ') for text in either}
    assert all(text.startswith('{"answer": ') or calls(text) for text in either)
    assert all(calls(text) for text in texts(Constraints(schema=schema, tools=TOOLS, must_call=("add",)), capable()))


def test_free_text_has_no_grammar() -> None:
    """Neither a free answer nor tools that the model need not call get a grammar."""
    for constraints in (Constraints(), Constraints(tools=TOOLS)):
        request = GenerationRequest(constraints=constraints)
        assert request == add_grammar(request, capable())


CALL_TURN = Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="get", arguments={}),))


@pytest.mark.parametrize(
    ("request_", "capabilities", "code", "param", "says"),
    [
        (GenerationRequest(constraints=Constraints(schema={})), capable(grammars=False), "unsupported_parameter",
         "response_format", "engine some"),
        (GenerationRequest(constraints=Constraints(tools=TOOLS)), capable(tool_syntax=None), "unsupported_parameter",
         "tools", "chat template"),
        (GenerationRequest(constraints=Constraints(tools=TOOLS, must_call=("get",))), capable(grammars=False),
         "unsupported_parameter", "tool_choice", "engine some"),
        (GenerationRequest(messages=(Message(role="user", content=""), CALL_TURN)), capable(tool_syntax=None),
         "unsupported_parameter", "messages.1.tool_calls", "chat template"),
        (GenerationRequest(constraints=Constraints(schema={"not": {}})), capable(), "invalid_schema", "response_format",
         '"not"'),
        (GenerationRequest(constraints=Constraints(must_call=("f",), tools=(
            TOOLS[0], Tool(name="f", description="", parameters={"type": "string"})))), capable(), "invalid_schema",
         "tools.1.function.parameters", "object"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_cannot_be_done(
    request_: GenerationRequest, capabilities: Capabilities, code: str, param: str, says: str
) -> None:
    """It names the parameter and the reason, be it the engine, the template or the schema."""
    with pytest.raises(RequestRefused) as excinfo:
        add_grammar(request_, capabilities)
    assert (code, param) == (excinfo.value.code, excinfo.value.param)
    assert says in excinfo.value.message


def test_an_invalid_schema_of_a_tool_that_need_not_be_called_does_not_matter() -> None:
    """Only the schemas that the answer must keep to have to be enforceable."""
    tools = (Tool(name="f", description="", parameters={"not": {}}), *TOOLS)
    assert texts(Constraints(tools=tools, must_call=("get",)), capable(), 1)
    free: Any = add_grammar(GenerationRequest(constraints=Constraints(tools=tools)), capable(grammars=False))
    assert free.grammar is None
