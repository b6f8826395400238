"""The real `openai` package and LangChain with a runner whose engine follows a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, SecretStr

from runner.engine import EncodedRequest, GenerationRequest
from tests.runner.conftest import RunnerServer
from tests.runner.fake_engine import FakeEngine

CALLS = 'So: <tool_call>{"name": "City", "arguments": {"name": "Rome"}}</tool_call>'


class City(BaseModel):
    """A city."""

    name: str


class Scripted(FakeEngine):
    """Answers every request with one text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.grammars, self.tool_syntax = True, "hermes"

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        self.requests.append(request)
        return super().encode(GenerationRequest(prompt=self.text, sampling=request.sampling))


Connect = Callable[[str], tuple[OpenAI, Scripted]]


@pytest.fixture
def connect(serve: Callable[..., RunnerServer]) -> Iterator[Connect]:
    """Return a function that connects a client to a runner which answers with a text."""
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


def test_the_package_parses_an_answer(connect: Connect) -> None:
    """`parse` with a pydantic class sends a schema that the runner accepts, and returns an object of the class."""
    client, engine = connect('{"name": "Rome"}')
    answer = client.chat.completions.parse(model="any", messages=user("Which?"), response_format=City)
    assert City(name="Rome") == answer.choices[0].message.parsed
    grammar = engine.requests[-2].grammar
    assert grammar is not None
    assert "name" in grammar.text


def test_the_package_parses_calls(connect: Connect) -> None:
    """It reads text and calls, and parses arguments by the tool's class."""
    client, _ = connect(CALLS)
    choice = client.chat.completions.parse(model="any", messages=user("Which?"), tools=[TOOL]).choices[0]
    assert ("tool_calls", "So: ") == (choice.finish_reason, choice.message.content)
    assert choice.message.tool_calls is not None
    assert City(name="Rome") == choice.message.tool_calls[0].function.parsed_arguments


def test_the_package_assembles_calls_from_a_stream(connect: Connect) -> None:
    """It joins the deltas to the same message; the role comes once and first."""
    client, _ = connect(CALLS)
    with client.chat.completions.stream(model="any", messages=user("Which?"), tools=[TOOL]) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or []
    assert ("tool_calls", "assistant", "So: ") == (choice.finish_reason, choice.message.role, choice.message.content)
    assert City(name="Rome") == call.function.parsed_arguments


def test_a_conversation_continues_after_a_call(connect: Connect) -> None:
    """The client can send the message with the call back unchanged, with the tool's answer."""
    client, engine = connect(CALLS)
    message = client.chat.completions.create(model="any", messages=user("Which?"), tools=[TOOL]).choices[0].message
    assert message.tool_calls is not None
    answer: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    turns: Any = [*user("Which?"), message, answer]
    client.chat.completions.create(model="any", messages=turns, tools=[TOOL])
    messages = engine.requests[-2].messages
    assert {"name": "Rome"} == messages[1].tool_calls[0].arguments
    assert (messages[1].tool_calls[0].id, "sunny") == (messages[2].tool_call_id, messages[2].content)


def test_langchain_gets_structures_and_calls(connect: Connect) -> None:
    """`with_structured_output` works by schema and by call, and `bind_tools` works, too."""
    client, _ = connect('{"name": "Rome"}')
    assert City(name="Rome") == langchain(client).with_structured_output(City, method="json_schema").invoke("Which?")
    client, engine = connect(CALLS)
    by_call = langchain(client).with_structured_output(City, method="function_calling")
    assert City(name="Rome") == by_call.invoke("Which?")
    assert ("City",) == engine.requests[-2].constraints.must_call
    calls = langchain(client).bind_tools([City]).invoke("Which?").tool_calls
    assert [("City", {"name": "Rome"})] == [(call["name"], call["args"]) for call in calls]
