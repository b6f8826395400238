"""The main job with real weights: SmolLM2-135M, prepared and served by the real runner image."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import requests
from openai import OpenAI

from tests.docker.conftest import Build
from tests.docker.faults.streams import answer_events
from tests.docker.house import House, docker, until
from tests.docker.real_models import DEFAULT_MODEL, greedy_answer, shipped_entry

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

PARIS = "What is the capital of France?"
# Long enough for several pieces, even if some tokens are sent together.
COLOURS = "Name three colours."


@pytest.fixture(scope="module", params=["openvino", "transformers"])
def house(request: pytest.FixtureRequest, build_real_house: Build) -> House:
    """Return the default model on each engine, prepared from the set-up's download; exact, to compare its answers."""
    return build_real_house({DEFAULT_MODEL: {**shipped_entry(), "engine": request.param, "dtype": "float32"}})


def ask(house: House, **fields: Any) -> dict[str, Any]:
    return greedy_answer(house, DEFAULT_MODEL, **fields)


def stream(house: House, **fields: Any) -> list[dict[str, Any]]:
    body = {"model_id": DEFAULT_MODEL, "stream": True, **fields}
    return answer_events(house.post("/inference", body, stream=True, timeout=120))


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


def test_a_stopped_model_answers_a_real_prompt(house: House) -> None:
    """The main job works: a model that was never prepared names Paris, with usage and timings."""
    assert house.containers("smollm2-135m") == []
    answer = ask(house, prompt=PARIS)
    assert "Paris" in answer["text"]
    assert answer["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    timings = answer["timings"]
    assert timings["total_s"] >= timings["ttft_s"] >= timings["start_s"] > 0


def test_messages_and_prompt_are_one(house: House) -> None:
    """A prompt is a user message in the model's template; raw text without it gives another answer."""
    by_prompt = ask(house, prompt=PARIS)
    by_messages = ask(house, messages=[{"role": "user", "content": PARIS}])
    raw = ask(house, prompt=PARIS, raw=True, max_tokens=8)
    assert by_prompt["text"] == by_messages["text"]
    assert by_prompt["usage"] == by_messages["usage"]
    assert raw["usage"]["prompt_tokens"] < by_prompt["usage"]["prompt_tokens"]


def test_a_stream_is_the_same_text(house: House) -> None:
    """The streamed pieces add up to the whole answer, and the last event has reason, usage and timings."""
    whole = ask(house, prompt=COLOURS, max_tokens=24)
    pieces = stream(house, prompt=COLOURS, max_tokens=24, temperature=0)
    assert "".join(event.get("text", "") for event in pieces) == whole["text"]
    assert pieces[-1]["done"] is True
    assert pieces[-1]["usage"] == whole["usage"]
    assert len(pieces) > 5


def test_sampling_follows_its_seed(house: House) -> None:
    """The same seed gives the same text, other seeds give others."""
    texts = [
        ask(house, prompt="Tell me a story.", temperature=1.0, seed=seed, max_tokens=24)["text"]
        for seed in (1, 1, 2, 3)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_limits_are_kept(house: House) -> None:
    """`max_tokens` ends an answer with `length`; a stop string ends it with `stop` and is never part of the text."""
    short = ask(house, prompt="Count from one to twenty.", max_tokens=5)
    assert (short["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 5)
    answer = ask(house, prompt=PARIS, stop=["France"])
    assert (answer["text"], answer["finish_reason"]) == ("The capital of ", "stop")


def test_too_long_a_prompt_names_both_lengths(house: House) -> None:
    """A prompt beyond the context gets the model's 400, with the prompt's and the context's length."""
    response = house.post("/inference", {"model_id": "smollm2-135m", "prompt": "word " * 9000})
    error = response.json()["error"]
    assert (response.status_code, error["src"]) == (400, "model")
    assert "9031 tokens" in error["message"]
    assert "8192" in error["message"]


def test_many_at_once_get_their_own_answers(house: House) -> None:
    """Of eight simultaneous requests, some of which end early, each gets what it would get alone."""
    bodies: list[dict[str, Any]] = [
        {"prompt": PARIS},
        {"prompt": "Name three colours.", "max_tokens": 12},
        {"prompt": PARIS, "stop": ["France"]},
        {"prompt": "Count from one to twenty.", "max_tokens": 5},
    ]
    alone = [ask(house, **body)["text"] for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: ask(house, **body)["text"], bodies * 2))
    assert together == alone * 2


def test_no_character_is_cut(house: House) -> None:
    """Streamed text with characters of several bytes and tokens has no broken one."""
    pieces = stream(house, prompt="Write these again: 😀 🎉 日本語 Ελλάδα", max_tokens=48, temperature=0)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(event.get("text", "") for event in pieces)


def test_a_leaving_client_stops_the_generation(house: House) -> None:
    """After a client left mid-stream the model is idle within 2 s: a new short request is answered without delay."""
    ask(house, prompt=PARIS)
    started_at = time.monotonic()
    ask(house, prompt=PARIS)
    usual_s = time.monotonic() - started_at
    body = {"model_id": "smollm2-135m", "prompt": "Write a very long story.", "stream": True, "max_tokens": 2000}
    with house.post("/inference", body, stream=True) as response:
        next(response.iter_lines())
    started_at = time.monotonic()
    ask(house, prompt=PARIS)
    assert time.monotonic() - started_at < usual_s + 2
    until("nothing is in flight", lambda: house.status("smollm2-135m")["in_flight"] == 0, 2)


def test_openai_chat_is_the_native_answer(house: House, client: OpenAI) -> None:
    """The `openai` client gets the text, reason and usage of `POST /inference`, whole and streamed."""
    native = ask(house, prompt=COLOURS, max_tokens=24)
    request: Any = {"model": "smollm2", "messages": user(COLOURS), "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**request)
    assert (whole.model, whole.choices[0].message.content) == ("smollm2", native["text"])
    assert whole.choices[0].finish_reason == native["finish_reason"]
    assert whole.usage is not None
    assert whole.usage.model_dump(exclude_none=True) == native["usage"]
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(piece.delta.content or "" for piece in pieces) == native["text"]
    assert (pieces[0].delta.role, pieces[-1].finish_reason) == ("assistant", native["finish_reason"])
    assert len(pieces) > 5
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_openai_parameters_are_kept(client: OpenAI) -> None:
    """Stop texts, limits and seeds work under their OpenAI names."""
    answer = client.chat.completions.create(model="smollm2", messages=user(PARIS), temperature=0, stop="France")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("The capital of ", "stop")
    for limit in ({"max_tokens": 5}, {"max_completion_tokens": 5}):
        short = client.chat.completions.create(
            model="smollm2", messages=user("Count from one to twenty."), temperature=0, extra_body=limit
        )
        assert short.usage is not None
        assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 5)
    texts = [
        client.chat.completions.create(
            model="smollm2", messages=user("Tell me a story."), temperature=1.0, seed=seed, max_tokens=24
        )
        .choices[0]
        .message.content
        for seed in (1, 1, 2, 3)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_openai_completions_continue_the_prompt(client: OpenAI) -> None:
    """A completion's prompt gets no chat template: only its own tokens count, streamed or not."""
    prompt = "The capital of France is"
    whole = client.completions.create(model="smollm2", prompt=prompt, temperature=0, max_tokens=6)
    assert "Paris" in whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 5
    stream = client.completions.create(model="smollm2", prompt=prompt, temperature=0, max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_openai_refusals_are_bad_requests(client: OpenAI) -> None:
    """The error for too long a prompt names both lengths, and the one for an unsupported parameter names it."""
    with pytest.raises(openai.BadRequestError, match=r"\d{4,} tokens, but the context is 8192") as failure:
        client.chat.completions.create(model="smollm2", messages=user("word " * 9000))
    assert (failure.value.code, failure.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError, match="logprobs") as failure:
        client.chat.completions.create(model="smollm2", messages=user(PARIS), logprobs=True)
    assert failure.value.code == "unsupported_parameter"


def test_it_serves_hardened(house: House) -> None:
    """The real runner works in the hardened container, its prepared volume read-only, and reports its phases."""
    ask(house, prompt=PARIS)
    (container,) = house.containers("smollm2-135m")
    (details,) = json.loads(docker("inspect", container))
    assert details["HostConfig"]["ReadonlyRootfs"] is True
    assert [(mount["Type"], mount["RW"]) for mount in details["Mounts"]] == [("volume", False)]
    assert set(house.status("smollm2-135m")["start_phases"]) == {
        "docker_s", "process_s", "import_s", "load_s", "first_token_s",
    }  # fmt: skip
    health = requests.get(f"http://127.0.0.1:{house.status('smollm2-135m')['port']}/health", timeout=5).json()
    (row,) = house.get("/models").json()["models"]
    assert (health["engine"], health["status"]) == (row["engine"], "ok")


def test_it_stops_and_starts(house: House) -> None:
    """After a stop the model's container no longer runs; the next request starts it again, without a preparation."""
    house.post("/stop", {"model_id": "smollm2"}).raise_for_status()
    assert house.containers("smollm2-135m") == []
    with house.counted_events("create") as created:
        assert "Paris" in ask(house, prompt=PARIS)["text"]
    assert created == []
