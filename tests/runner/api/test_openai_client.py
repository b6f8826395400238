"""The real `openai` package and LangChain before a runner whose engine says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, SecretStr

from runner.engine import EncodedRequest, GenerationRequest
from tests.runner.conftest import Served
from tests.runner.fake_engine import FakeEngine

CALLS = 'So: <tool_call>{"name": "City", "arguments": {"name": "Rome"}}</tool_call>'


class City(BaseModel):
    """A city."""

    name: str


class Scripted(FakeEngine):
    """Says one text, whatever it is asked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.grammars, self.tool_syntax = True, "hermes"

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        self.requests.append(request)
        return super().encode(GenerationRequest(prompt=self.text, sampling=request.sampling))


Connect = Callable[[str], tuple[OpenAI, Scripted]]


@pytest.fixture
def connect(serve: Callable[..., Served]) -> Iterator[Connect]:
    """A client before a runner that says this text."""
    clients: list[OpenAI] = []

    def start(text: str) -> tuple[OpenAI, Scripted]:
        engine = Scripted(text)
        url = f"http://127.0.0.1:{serve(engine).server.server_port}/v1"
        clients.append(OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=20))
        return clients[-1], engine

    yield start
    for client in clients:
        client.close()


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


def langchain(client: OpenAI) -> ChatOpenAI:
    return ChatOpenAI(base_url=str(client.base_url), api_key=SecretStr("unused"), model="any", max_retries=0)


TOOL = openai.pydantic_function_tool(City)


def test_an_answer_is_parsed(connect: Connect) -> None:
    """`parse` with a pydantic class sends a schema that is taken, and gives back an object of the class."""
    client, engine = connect('{"name": "Rome"}')
    answer = client.chat.completions.parse(model="any", messages=user("Which?"), response_format=City)
    assert City(name="Rome") == answer.choices[0].message.parsed
    grammar = engine.requests[-2].grammar
    assert grammar is not None
    assert "name" in grammar.text


def test_calls_come_whole(connect: Connect) -> None:
    """Text and calls as the package knows them, arguments parsed by the tool's class."""
    client, _ = connect(CALLS)
    choice = client.chat.completions.parse(model="any", messages=user("Which?"), tools=[TOOL]).choices[0]
    assert ("tool_calls", "So: ") == (choice.finish_reason, choice.message.content)
    assert choice.message.tool_calls is not None
    assert City(name="Rome") == choice.message.tool_calls[0].function.parsed_arguments


def test_calls_are_gathered_from_a_stream(connect: Connect) -> None:
    """The package puts the deltas together to the same message; the role comes once and first."""
    client, _ = connect(CALLS)
    with client.chat.completions.stream(model="any", messages=user("Which?"), tools=[TOOL]) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or []
    assert ("tool_calls", "assistant", "So: ") == (choice.finish_reason, choice.message.role, choice.message.content)
    assert City(name="Rome") == call.function.parsed_arguments


def test_a_conversation_goes_on_after_a_call(connect: Connect) -> None:
    """The message with the call can be sent back as it came, with the tool's answer."""
    client, engine = connect(CALLS)
    message = client.chat.completions.create(model="any", messages=user("Which?"), tools=[TOOL]).choices[0].message
    assert message.tool_calls is not None
    answer: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    turns: Any = [*user("Which?"), message, answer]
    client.chat.completions.create(model="any", messages=turns, tools=[TOOL])
    sent = engine.requests[-2].messages
    assert {"name": "Rome"} == sent[1].tool_calls[0].arguments
    assert (sent[1].tool_calls[0].id, "sunny") == (sent[2].tool_call_id, sent[2].content)


def test_langchain_gets_structures_and_calls(connect: Connect) -> None:
    """`with_structured_output` by a schema and by a call, and `bind_tools`."""
    client, _ = connect('{"name": "Rome"}')
    assert City(name="Rome") == langchain(client).with_structured_output(City, method="json_schema").invoke("Which?")
    client, engine = connect(CALLS)
    by_call = langchain(client).with_structured_output(City, method="function_calling")
    assert City(name="Rome") == by_call.invoke("Which?")
    assert ("City",) == engine.requests[-2].constraints.must_call
    calls = langchain(client).bind_tools([City]).invoke("Which?").tool_calls
    assert [("City", {"name": "Rome"})] == [(call["name"], call["args"]) for call in calls]
