"""llama.cpp's own server as an engine, in the image that the set-up builds, with real weights."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import ollama
import openai
import pytest
import requests
from openai import OpenAI

from controller.settings import ROOT
from tests.docker.conftest import Build
from tests.docker.faults.streams import answer_events
from tests.docker.house import House, docker
from tests.docker.real_models import shipped_entry
from tests.errorshape import check_error

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

PARIS = "What is the capital of France?"
CONTEXT_LENGTH = 512


@pytest.fixture(scope="module")
def house(build_real_house: Build) -> House:
    """Return the default model's own file in a server for chats, one for completions and one for embeddings."""
    common = {
        "source": shipped_entry()["source"],
        "engine": "llamacpp",
        "context_length": CONTEXT_LENGTH,
        "max_concurrency": 2,
    }
    models = {
        "llama": {**common, "aliases": ["lama"]},
        "plain": {**common, "task": "completion"},
        # Unlike an embedding model's file, this one names no pooling.
        "vectors": {**common, "task": "embedding", "args": ["--pooling", "mean"]},
    }
    return build_real_house(models)


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


def direct(house: House) -> Any:
    """Return the server's own answer, without the controller: its arithmetic rounds, and is not ours to judge."""
    url = f"http://127.0.0.1:{house.status('llama')['port']}/v1/chat/completions"
    answer = requests.post(url, json={"messages": user(PARIS), "temperature": 0, "max_tokens": 16}, timeout=60)
    return answer.json()["choices"][0]["message"]["content"]


class TestNative:
    def test_a_stopped_model_answers(self, house: House) -> None:
        """`POST /inference` starts the server and returns its answer in our format, with its counts."""
        answer = house.ask("lama", PARIS, temperature=0, max_tokens=16).json()
        assert direct(house) == answer["text"] != ""
        assert "llama" == answer["model_id"]
        usage = answer["usage"]
        assert usage["prompt_tokens"] > 30
        assert 0 < usage["completion_tokens"] <= 16
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    def test_a_stream_is_the_same_text(self, house: House) -> None:
        """The pieces arrive as they are made, then the end with the same counts as the whole answer's."""
        fields = {"temperature": 0, "max_tokens": 16}
        whole = house.ask("llama", PARIS, **fields).json()
        *pieces, last = answer_events(house.ask("llama", PARIS, stream=True, **fields))
        assert len(pieces) > 3
        assert whole["text"] == "".join(piece["text"] for piece in pieces)
        assert (True, whole["finish_reason"], whole["usage"]) == (last["done"], last["finish_reason"], last["usage"])

    def test_parameters_are_honoured(self, house: House) -> None:
        """`max_tokens` and `stop` end an answer, and a seed repeats it."""
        short = house.ask("llama", PARIS, temperature=0, max_tokens=2).json()
        assert ("length", 2) == (short["finish_reason"], short["usage"]["completion_tokens"])
        first, second = direct(house).split(" ")[:2]
        answer = house.ask("llama", PARIS, temperature=0, max_tokens=16, stop=[f" {second}"]).json()
        assert (first, "stop") == (answer["text"], answer["finish_reason"])
        story: dict[str, Any] = {"temperature": 1.5, "seed": 7, "max_tokens": 12}
        assert 1 == len({house.ask("llama", "Tell a story.", **story).json()["text"] for _ in range(2)})

    def test_a_completion_continues_the_prompt(self, house: House) -> None:
        """A model for completions gets the prompt without a chat template."""
        answer = house.ask("plain", "One, two, three, four,", temperature=0, max_tokens=4).json()
        assert "five" in answer["text"]


class TestOpenAI:
    def test_a_chat_whole_and_streamed(self, client: OpenAI) -> None:
        """The `openai` package gets the same answer both ways, under the name that it sent."""
        request: dict[str, Any] = {"model": "lama", "messages": user(PARIS), "temperature": 0, "max_tokens": 16}
        whole = client.chat.completions.create(**request)
        chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert (whole.model, whole.choices[0].message.content) == ("lama", text)
        assert {"lama"} == {chunk.model for chunk in chunks}
        assert chunks[-1].usage is not None
        assert whole.usage is not None
        assert whole.usage.total_tokens == chunks[-1].usage.total_tokens

    def test_a_completion_whole_and_streamed(self, client: OpenAI) -> None:
        """Its `completions` do as well."""
        request: dict[str, Any] = {"model": "plain", "prompt": "One, two, three,", "temperature": 0, "max_tokens": 6}
        whole = client.completions.create(**request).choices[0].text
        chunks = list(client.completions.create(**request, stream=True))
        assert whole == "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)

    def test_embeddings(self, client: OpenAI) -> None:
        """Each text gets one vector of the model's width, in the same order."""
        texts = ["a cat", "a dog", "a cat"]
        rows = client.embeddings.create(model="vectors", input=texts).data
        assert [0, 1, 2] == [row.index for row in rows]
        assert {576} == {len(row.embedding) for row in rows}
        assert rows[0].embedding == pytest.approx(rows[2].embedding, abs=1e-3)
        assert rows[0].embedding != pytest.approx(rows[1].embedding, abs=1e-3)

    def test_a_text_that_is_too_long_is_refused(self, client: OpenAI) -> None:
        """400, as for a prompt: it is its sender's mistake."""
        with pytest.raises(openai.BadRequestError) as failure:
            client.embeddings.create(model="vectors", input="word " * (2 * CONTEXT_LENGTH))
        assert "context_length_exceeded" == failure.value.code

    def test_thoughts_stay_in_the_text(self, client: OpenAI) -> None:
        """A model that thinks aloud answers as with our own engines; a grammar makes this one do so."""
        thinking = {"grammar": 'root ::= "<think>hm</think>yes"'}
        request: dict[str, Any] = {"model": "lama", "messages": user(PARIS), "max_tokens": 32, "extra_body": thinking}
        whole = client.chat.completions.create(**request)
        chunks = list(client.chat.completions.create(**request, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert whole.choices[0].message.content == text == "<think>hm</think>yes"

    @pytest.mark.parametrize("tool_choice", ["auto", "required"])
    def test_tools_without_a_form_are_refused(self, client: OpenAI, tool_choice: Any) -> None:
        """This model's chat template has no place for tools, and an answer without them would look like a decision."""
        tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        with pytest.raises(openai.BadRequestError, match="the chat template of this model has none"):
            client.chat.completions.create(model="lama", messages=user(PARIS), tools=tools, tool_choice=tool_choice)

    def test_another_task_is_refused(self, client: OpenAI) -> None:
        """A model that makes vectors refuses to chat, and names the right route."""
        with pytest.raises(openai.BadRequestError, match="ask it by /v1/embeddings"):
            client.chat.completions.create(model="vectors", messages=user(PARIS))


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_beyond_the_context_is_refused(house: House, stream: bool) -> None:
    """400 with both lengths, on our route and on the OpenAI API's, whole or streamed, before anything is generated."""
    prompt = "word " * (2 * CONTEXT_LENGTH)
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/inference", {"model_id": "llama", "prompt": prompt, "stream": stream}),
        ("/v1/chat/completions", {"model": "llama", "messages": user(prompt), "stream": stream}),
    ]
    for path, body in bodies:
        response = house.post(path, body)
        error = check_error(response.status_code, response.json(), 400, "context_length_exceeded", src="model")
        assert str(CONTEXT_LENGTH) in error["message"]
        assert "10" in error["message"]


def test_ollamas_client_chats(house: House) -> None:
    """The `ollama` package gets the same answers, whole and streamed, with counts."""
    options = {"temperature": 0, "num_predict": 16}
    with ollama.Client(house.url, timeout=320) as client:
        whole = client.chat("lama", user(PARIS), options=options)
        *parts, last = client.chat("lama", user(PARIS), options=options, stream=True)
        assert direct(house) == whole.message.content
        assert whole.message.content == "".join(part.message.content or "" for part in [*parts, last])
        assert (True, whole.eval_count) == (last.done, last.eval_count)
        assert "five" in (client.generate("plain", "One, two, three, four,", options=options).response or "")
        assert 576 == len(client.embed("vectors", "a cat").embeddings[0])


def test_a_client_that_leaves_ends_the_work(house: House) -> None:
    """Both of its places are free within 2 s after the readers of two answers have left, which would take longer."""
    house.ask("llama", "Hello", max_tokens=1).raise_for_status()
    # About 5 s of work, which is longer than the 2 s.
    endless = {"model": "llama", "messages": user("Count."), "stream": True, "max_tokens": 440, "ignore_eos": True}
    for response in [house.post("/v1/chat/completions", endless, stream=True) for _ in range(2)]:
        next(response.iter_lines())
        response.close()
    port = house.status("llama")["port"]
    body = {"messages": user("Hello"), "max_tokens": 1}
    begun_s = time.monotonic()
    requests.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60).raise_for_status()
    assert time.monotonic() - begun_s < 2


def test_it_is_hardened_like_any_other(house: House) -> None:
    """It is ready by its own /health, runs as a user without a name, and can write only to /tmp."""
    house.ask("llama", "Hello", max_tokens=1).raise_for_status()
    port = house.status("llama")["port"]
    assert {"status": "ok"} == requests.get(f"http://127.0.0.1:{port}/health", timeout=5).json()
    assert [] == house.status("llama")["relaxed"]
    (container,) = house.containers("llama")
    (details,) = json.loads(docker("inspect", container))
    host = details["HostConfig"]
    assert ("10001:10001", True, ["ALL"]) == (details["Config"]["User"], host["ReadonlyRootfs"], host["CapDrop"])
    status = docker("exec", container, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    listing = docker(
        "exec",
        container,
        "sh",
        "-c",
        "echo x > /opt/llamacpp/x; echo x > /tmp/x && ls /tmp/x; ls /opt/llamacpp/x",
        check=False,
    )
    assert "/tmp/x" == listing


def test_its_port_shows_no_prompts(house: House) -> None:
    """The route that would show all clients' prompts is off, so is its web page, and other sites' pages get nothing."""
    house.ask("llama", "Hello", max_tokens=1).raise_for_status()
    port = house.status("llama")["port"]
    assert not requests.get(f"http://127.0.0.1:{port}/slots", timeout=5).ok
    assert not requests.get(f"http://127.0.0.1:{port}/", timeout=5).ok
    health = requests.get(f"http://127.0.0.1:{port}/health", headers={"Origin": "http://evil.example"}, timeout=5)
    assert health.headers.get("Access-Control-Allow-Origin") != "http://evil.example"


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, build_real_house: Build) -> House:
    """Return files that the server cannot load, each as a model, and one of them for completions."""
    folder = tmp_path_factory.mktemp("bad")
    folder.chmod(0o755)
    whole = next((ROOT / "data" / "sources").rglob("SmolLM2*.gguf")).read_bytes()
    files = {
        "cut": whole[: len(whole) // 2],
        # The first text with this length is the value of general.architecture.
        "foreign": whole.replace(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 5) + b"lamma", 1),
        "silent": whole.replace(b"tokenizer.chat_template", b"tokenizer.chat_templato", 1),
    }
    for name, data in files.items():
        (folder / f"{name}.gguf").write_bytes(data)
    common = {"engine": "llamacpp", "context_length": CONTEXT_LENGTH, "max_concurrency": 1}
    models = {name: {**common, "source": f"file://{folder}/{name}.gguf"} for name in files}
    models["plain"] = {**models["silent"], "task": "completion"}
    return build_real_house(models)


class TestBadFiles:
    """What the server cannot load is refused with the server's own reason, not with a line that it wrote after it."""

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("cut", "data is not within the file bounds, model is corrupted or incomplete"),
            ("foreign", "unknown model architecture: 'lamma'"),
            ("silent", "the file has no chat template; write `task: completion`, or name a template"),
        ],
    )
    def test_a_bad_file_is_refused(self, bad_files: House, name: str, reason: str) -> None:
        """A file that is cut, a family that it does not know, and a chat model without a chat template."""
        response = bad_files.ask(name, "Hello")
        error = check_error(response.status_code, response.json(), 503, "start_failed")
        assert reason in error["message"]
        assert any(reason in line for line in error["details"]["log"])

    def test_a_completion_needs_no_chat_template(self, bad_files: House) -> None:
        """The same file serves completions."""
        assert "five" in bad_files.ask("plain", "One, two, three, four,", temperature=0, max_tokens=4).json()["text"]
