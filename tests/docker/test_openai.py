"""The real `openai` client with a real controller and fake models."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
import requests
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from pydantic import SecretStr

from tests.docker.conftest import Build
from tests.docker.house import House, until


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    return build_house({"echo": {"aliases": ["parrot"]}, "plain": {"task": "completion"}})


def user(content: Any) -> Any:
    """Return one message; content that is not text is a script for the fake model."""
    return [{"role": "user", "content": content if isinstance(content, str) else json.dumps(content)}]


def counters(house: House, model_id: str = "echo") -> Any:
    return requests.get(f"http://127.0.0.1:{house.status(model_id)['port']}/counters", timeout=5).json()


def test_the_models_are_listed(client: OpenAI) -> None:
    """The client finds the models of models.yaml."""
    assert ["echo", "plain"] == [model.id for model in client.models.list()]
    assert "parrot" == client.models.retrieve("parrot").id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_a_stopped_model_answers(client: OpenAI) -> None:
    """A chat with a stopped model works under its alias, which the answer keeps."""
    answer = client.chat.completions.create(model="parrot", messages=user("hello"))
    assert ("parrot", "hello", "stop") == (
        answer.model,
        answer.choices[0].message.content,
        answer.choices[0].finish_reason,
    )
    assert answer.usage is not None
    assert 2 == answer.usage.total_tokens


def test_a_stream_is_read_to_its_end(client: OpenAI) -> None:
    """The streamed words add up, and the last choice has the reason."""
    chunks = list(client.chat.completions.create(model="echo", messages=user({"tokens": 5}), stream=True))
    assert "word0 word1 word2 word3 word4 " == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "stop" == chunks[-1].choices[0].finish_reason


def test_completions_work_whole_and_streamed(client: OpenAI) -> None:
    """A model without a chat template completes text."""
    assert "abc" == client.completions.create(model="plain", prompt="abc").choices[0].text
    script = json.dumps({"tokens": 2})
    stream = client.completions.create(model="plain", prompt=script, stream=True)
    assert "word0 word1 " == "".join(chunk.choices[0].text for chunk in stream)


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    """An unknown model raises the client's own class of error, with code and parameter."""
    with pytest.raises(openai.NotFoundError, match="gpt-4") as failure:
        client.chat.completions.create(model="gpt-4", messages=user("hi"))
    assert ("model_not_found", "model") == (failure.value.code, failure.value.param)


def test_a_completion_model_refuses_to_chat(client: OpenAI) -> None:
    """A model for completions says that it does not chat, and names the right route."""
    with pytest.raises(openai.BadRequestError, match="/v1/completions") as failure:
        client.chat.completions.create(model="plain", messages=user("hi"))
    assert "task_unsupported" == failure.value.code


def test_the_models_refusals_are_passed_on(client: OpenAI) -> None:
    """The model's own 400 is a BadRequestError with its message."""
    with pytest.raises(openai.BadRequestError, match="as you wished"):
        client.chat.completions.create(model="echo", messages=user({"status": 400}))


def test_a_model_that_dies_mid_stream_raises(client: OpenAI) -> None:
    """A stream that breaks off raises an error in its reader, and never looks like a short complete text."""
    stream = client.chat.completions.create(
        model="echo", messages=user({"tokens": 5, "delay_s": 0.1, "crash_after": 2}), stream=True
    )
    texts: list[Any] = []
    with pytest.raises(openai.APIError, match="died"):
        texts.extend(chunk.choices[0].delta.content for chunk in stream)
    assert ["word0 ", "word1 "] == texts
    assert "whole again" == (
        client.chat.completions.create(model="echo", messages=user("whole again")).choices[0].message.content
    )


def test_a_client_that_leaves_ends_the_generation(house: House, client: OpenAI) -> None:
    """Closing a stream ends the model's work within 2 s, and nothing stays in flight."""
    client.chat.completions.create(model="echo", messages=user("here"))
    before = counters(house)
    stream = client.chat.completions.create(model="echo", messages=user({"tokens": 1000, "delay_s": 0.05}), stream=True)
    next(stream)
    stream.close()
    until("the stream is broken off", lambda: counters(house)["broken_off"] > before["broken_off"], 2)
    assert counters(house)["tokens"] - before["tokens"] < 60
    until("nothing is in flight", lambda: house.status("echo")["in_flight"] == 0, 5)


def test_a_busy_model_is_asked_again(house: House, client: OpenAI) -> None:
    """The client itself repeats a request after a 503 and its `Retry-After`, and gets its answer."""
    client.chat.completions.create(model="echo", messages=user("here"))
    before = counters(house)["requests"]
    with pytest.raises(openai.InternalServerError) as failure:
        client.chat.completions.create(model="echo", messages=user({"status": 503}))
    assert "1" == failure.value.response.headers["Retry-After"]
    patient = client.with_options(max_retries=2)
    answer = patient.chat.completions.create(model="echo", messages=user({"busy": 1, "echo": "now"}))
    assert "now" == answer.choices[0].message.content
    assert before + 3 == counters(house)["requests"]


@pytest.fixture
def langchain(house: House) -> ChatOpenAI:
    return ChatOpenAI(base_url=house.url + "/v1", api_key=SecretStr("unused"), model="parrot", max_retries=0)


def test_langchain_asks_and_streams(langchain: ChatOpenAI) -> None:
    """LangChain's ChatOpenAI works unchanged: messages, text, usage, streams."""
    answer = langchain.invoke([SystemMessage("Be kind."), HumanMessage("hello")])
    assert "hello" == answer.content
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert 2 == answer.usage_metadata["total_tokens"]
    words = [str(chunk.content) for chunk in langchain.stream(json.dumps({"tokens": 3}))]
    assert "word0 word1 word2 " == "".join(words)


def test_langchain_meets_the_errors_of_openai(langchain: ChatOpenAI) -> None:
    """A refusal arrives in LangChain as the `openai` package's own error."""
    with pytest.raises(openai.BadRequestError, match="as you wished"):
        langchain.invoke(json.dumps({"status": 400}))


def test_the_asynchronous_client(house: House) -> None:
    """AsyncOpenAI streams two answers at once, and a task that is cancelled in a stream stops the model's work."""

    async def text(client: AsyncOpenAI, tokens: int) -> str:
        stream = await client.chat.completions.create(model="echo", messages=user({"tokens": tokens}), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def talk() -> list[str]:
        async with AsyncOpenAI(base_url=house.url + "/v1", api_key="unused", max_retries=0, timeout=60) as client:
            texts = [*await asyncio.gather(text(client, 2), text(client, 3))]
            before = counters(house)["broken_off"]
            has_begun = asyncio.Event()

            async def endless() -> None:
                script = user({"tokens": 10_000, "delay_s": 0.02})
                async for _chunk in await client.chat.completions.create(model="echo", messages=script, stream=True):
                    has_begun.set()

            task = asyncio.create_task(endless())
            await asyncio.wait_for(has_begun.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(until, "the work stops", lambda: counters(house)["broken_off"] > before, 2)
            return texts

    assert ["word0 word1 ", "word0 word1 word2 "] == asyncio.run(talk())
