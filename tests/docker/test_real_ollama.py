"""The real `ollama` client with real weights: SmolLM2-135M, pulled, prepared and served by the real runner image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.docker.conftest import Build
from tests.docker.house import House
from tests.docker.real_models import DEFAULT_MODEL, greedy_answer, shipped_entry

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

PARIS = "What is the capital of France?"
# Long enough for several pieces, even if some tokens are sent together.
COLOURS = "Name three colours."
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def house(build_real_house: Build) -> House:
    """Return the default model as we ship it, from the set-up's download."""
    return build_real_house({DEFAULT_MODEL: shipped_entry()})


@pytest.fixture
def client(house: House) -> Iterator[ollama.Client]:
    with ollama.Client(house.url, timeout=320) as client:
        yield client


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


def native(house: House, **fields: Any) -> dict[str, Any]:
    return greedy_answer(house, DEFAULT_MODEL, **fields)


def test_a_pull_prepares_the_model(house: House, client: ollama.Client) -> None:
    """After a pull the model is converted, does not run, and is listed with its size, format and quantization."""
    assert "success" == list(client.pull("smollm2", stream=True))[-1].status
    assert [] == house.containers("smollm2-135m")
    (model,) = client.list().models
    assert ("smollm2-135m:latest", 98_362_432) == (model.model, model.size)
    details = client.show("smollm2").details
    assert details is not None
    assert ("gguf", "llama", "134.52M", "Q4_1") == (
        details.format,
        details.family,
        details.parameter_size,
        details.quantization_level,
    )


def test_chat_is_the_native_answer(house: House, client: ollama.Client) -> None:
    """Text, reason and counts are those of `POST /inference`, whole and streamed, and the times add up."""
    expected = native(house, prompt=COLOURS, max_tokens=24)
    options = {**GREEDY, "num_predict": 24}
    whole = client.chat("smollm2", user(COLOURS), options=options)
    *parts, last = client.chat("smollm2", user(COLOURS), options=options, stream=True)
    assert expected["text"] == whole.message.content
    assert expected["text"] == "".join(part.message.content or "" for part in parts)
    assert len(parts) > 1
    for answer in (whole, last):
        assert expected["finish_reason"] == answer.done_reason
        usage = expected["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (answer.prompt_eval_count, answer.eval_count)
        assert answer.prompt_eval_duration is not None
        assert answer.eval_duration is not None
        assert answer.total_duration is not None
        assert 0 < answer.prompt_eval_duration + answer.eval_duration <= answer.total_duration


def test_generate_goes_through_the_template_unless_raw(house: House, client: ollama.Client) -> None:
    """A prompt is a user message; a raw one counts only its own tokens; a system message has its effect."""
    assert native(house, prompt=PARIS)["text"] == client.generate("smollm2", PARIS, options=GREEDY).response
    raw = client.generate("smollm2", "The capital of France is", raw=True, options={**GREEDY, "num_predict": 6})
    assert (5, 6) == (raw.prompt_eval_count, raw.eval_count)
    assert "Paris" in str(raw.response)
    system = client.generate("smollm2", PARIS, system="Answer in German.", options=GREEDY)
    messages = [{"role": "system", "content": "Answer in German."}, *user(PARIS)]
    assert native(house, messages=messages)["text"] == system.response


def test_options_are_kept(client: ollama.Client) -> None:
    """Limits, stop texts and seeds work under Ollama's names; options of an engine's start are ignored."""
    short = client.generate("smollm2", "Count to twenty.", options={**GREEDY, "num_predict": 5, "num_ctx": 512})
    assert ("length", 5) == (short.done_reason, short.eval_count)
    answer = client.generate("smollm2", PARIS, options={**GREEDY, "stop": ["France"]})
    assert ("The capital of ", "stop") == (answer.response, answer.done_reason)
    texts = [
        client.generate("smollm2", "Tell me a story.", options={"temperature": 1.0, "seed": seed, "num_predict": 24})
        for seed in (1, 1, 2, 3)
    ]
    assert texts[0].response == texts[1].response
    assert len({text.response for text in texts}) > 1


def test_the_models_refusals_are_passed_on(client: ollama.Client) -> None:
    """The error for too long a prompt names both lengths."""
    with pytest.raises(ollama.ResponseError, match=r"\d{4,} tokens, but the context is 8192") as failure:
        client.generate("smollm2", "word " * 9000)
    assert 400 == failure.value.status_code


def test_it_unloads(house: House, client: ollama.Client) -> None:
    """An empty request with `keep_alive` 0 ends the model's container before it is answered."""
    client.generate("smollm2")
    assert 1 == len(house.containers("smollm2-135m"))
    assert "unload" == client.generate("smollm2", keep_alive=0).done_reason
    assert [] == house.containers("smollm2-135m")
