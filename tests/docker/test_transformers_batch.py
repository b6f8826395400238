"""Continuous batching in the `transformers` engine, against the library's own `generate`."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.docker.conftest import Build
from tests.docker.house import House, docker, until
from tests.docker.inside import run_in_image
from tests.docker.real_models import greedy_answer, shipped_entry
from tests.prompts import TWENTY_PROMPTS

pytestmark = [pytest.mark.real_model, pytest.mark.long, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
IMAGE = "orchestrar-runner:latest"
NEW_TOKENS = 16
# Rounding depends on how many share a pass, and may decide between two equally likely tokens.
SAME_AT_LEAST = 18


@pytest.fixture(scope="module")
def house(build_real_house: Build) -> House:
    """Return SmolLM2 on `transformers` with a place for each prompt, and in little memory with many places."""
    entry = {**shipped_entry(), "engine": "transformers", "aliases": [], "image": IMAGE}
    models = {
        "wide": {**entry, "max_concurrency": len(TWENTY_PROMPTS)},
        "small": {**entry, "max_concurrency": 16, "resources": {"memory": "1228m"}},
    }
    return build_real_house(models)


@pytest.fixture(scope="module")
def reference(house: House) -> list[str]:
    """Return what `generate` answers with the weights that the engine has loaded."""
    greedy_answer(house, "wide", prompt="Hello", max_tokens=1)
    (container,) = house.containers("wide")
    (details,) = json.loads(docker("inspect", container))
    path = next(text for text in details["Config"]["Env"] if text.startswith("ORCHESTRAR_MODEL_PATH="))
    script = f"--volume={HERE / 'greedy_reference.py'}:/greedy_reference.py:ro"
    # By this label the house removes it as well, if it is still there.
    label = f"--label=com.docker.compose.project={house.project}"
    options = (f"--volumes-from={container}:ro", script, label, f"--env={path}")
    texts: list[str] = run_in_image(IMAGE, "python", "/greedy_reference.py", options=options, document=TWENTY_PROMPTS)
    return texts


def metrics(house: House, model_id: str) -> dict[str, float]:
    """Return the runner's own figures, by name and label."""
    (container,) = house.containers(model_id)
    address = docker("port", container).rpartition(" ")[2]
    text = requests.get(f"http://{address}/metrics", timeout=60).text
    samples = re.findall(r'^orchestrar_runner_(\w+)(?:\{\w+="(\w+)"\})? (\S+)$', text, re.MULTILINE)
    return {f"{name} {label}".strip(): float(value) for name, label, value in samples}


def own_memory_bytes(container: str) -> int:
    """Return how much memory the container's processes have written; the weights belong to their file."""
    status_lines = docker("exec", container, "sh", "-c", "grep -h ^RssAnon: /proc/[0-9]*/status")
    return sum(int(line.split()[1]) * 1024 for line in status_lines.splitlines())


def same(texts: list[str], expected: list[str]) -> int:
    return sum(one == other for one, other in zip(texts, expected, strict=True))


def test_alone_it_gives_the_library_s_answer(house: House, reference: list[str]) -> None:
    """One at a time, at least 18 of 20 greedy answers have the first 16 tokens of `generate`."""
    texts = [greedy_answer(house, "wide", prompt=prompt, max_tokens=NEW_TOKENS)["text"] for prompt in TWENTY_PROMPTS]
    assert len(set(reference)) == len(TWENTY_PROMPTS)
    assert same(texts, reference) >= SAME_AT_LEAST


def test_in_a_batch_it_gives_the_library_s_answer(house: House, reference: list[str]) -> None:
    """The same holds for all twenty at once."""
    with ThreadPoolExecutor(len(TWENTY_PROMPTS)) as pool:
        futures = [
            pool.submit(greedy_answer, house, "wide", prompt=prompt, max_tokens=NEW_TOKENS) for prompt in TWENTY_PROMPTS
        ]
        texts = [one.result()["text"] for one in futures]
    assert same(texts, reference) >= SAME_AT_LEAST


def test_a_seed_gives_its_text_in_any_company(house: House) -> None:
    """Requests with different sampling and seeds get, in one batch, what each gets alone."""
    bodies: list[dict[str, Any]] = [
        {"prompt": prompt, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed, "max_tokens": 12}
        for prompt, temperature, top_p, top_k, seed in [
            ("Tell me a story.", 1.0, 1.0, 0, 1),
            ("Tell me a story.", 1.0, 1.0, 0, 2),
            ("Tell me a story.", 0.7, 0.8, 0, 1),
            ("Tell me a story.", 1.5, 1.0, 5, 1),
            ("Name three colours.", 0.0, 1.0, 0, 1),
            ("Name three colours.", 1.0, 0.95, 40, 9),
        ]
    ]
    alone = [greedy_answer(house, "wide", **body)["text"] for body in bodies]
    with ThreadPoolExecutor(len(bodies) * 2) as pool:
        together = list(pool.map(lambda body: greedy_answer(house, "wide", **body)["text"], bodies * 2))
    assert len(set(alone)) > 4
    # Rounding again: a random number that falls between two tokens.
    assert same(together, alone * 2) >= len(together) - 2


def test_clients_that_leave_are_cancelled_at_once_and_disturb_no_other(house: House) -> None:
    """Clients that leave mid-stream are cancelled with hundreds of tokens to go; one that stays gets it all."""
    long = {"model_id": "wide", "prompt": "Write a very long story.", "temperature": 0, "max_tokens": 1500}
    staying = {"prompt": TWENTY_PROMPTS[1], "max_tokens": NEW_TOKENS}
    alone = greedy_answer(house, "wide", **staying)["text"]
    cancelled = metrics(house, "wide")["requests_total cancelled"]
    streams = [house.post("/inference", {**long, "stream": True}, stream=True) for _ in range(6)]
    for stream in streams:
        assert b"text" in next(line for line in stream.iter_lines() if line.startswith(b"data: "))
    assert metrics(house, "wide")["kv_cache_use_ratio"] > 0
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(greedy_answer, house, "wide", **staying)
        for stream in streams:
            stream.close()
        assert future.result()["text"] == alone
    until("they are out of the batch", lambda: metrics(house, "wide")["in_flight"] == 0, 10)
    figures = metrics(house, "wide")
    assert (figures["requests_total cancelled"] - cancelled, figures["kv_cache_use_ratio"]) == (len(streams), 0)


def test_little_memory_is_enough(house: House) -> None:
    """If memory has no room for ten long answers at once, all of them still complete, and nothing is killed."""
    greedy_answer(house, "small", prompt="Hello", max_tokens=1)
    (container,) = house.containers("small")
    before_bytes = own_memory_bytes(container)
    prompts = [f"Count from {number} on. " + "one two three " * 200 for number in range(10)]
    with ThreadPoolExecutor(len(prompts)) as pool:
        futures = [pool.submit(greedy_answer, house, "small", prompt=prompt, max_tokens=100) for prompt in prompts]
        usages = [one.result()["usage"]["completion_tokens"] for one in futures]
    assert max(usages) == 100
    # The cache of ended requests went back to the system.
    assert own_memory_bytes(container) < before_bytes + 64 * 2**20
    (details,) = json.loads(docker("inspect", container))
    assert (details["State"]["OOMKilled"], details["RestartCount"]) == (False, 0)
    assert "memory has room for" in docker("logs", container)


def test_any_architecture_is_right() -> None:
    """Tiny random models answer in a batch like `generate`, whether their requests share passes or alternate.

    Prompts of more than 256 tokens come in parts, but not for models whose state would begin again in each part.
    """
    script = f"--volume={HERE / 'tiny_models.py'}:/opt/orchestrar/tiny_models.py:ro"
    models: dict[str, dict[str, Any]] = run_in_image(IMAGE, "python", "tiny_models.py", options=[script])
    assert {name: 1.0 for name in models} == {name: one["same"] for name, one in models.items()}
    assert [name for name, one in models.items() if one["distinct"] < 9] == []
    whole = {"jamba", "mamba", "minimax", "openai-gpt", "recurrent_gemma"}
    assert whole == {name for name, one in models.items() if not one["has_parts"]}
    turns = {"bamba", "bloom", "gpt_neo", "lfm2", "llama4_text", "mamba2", "qwen3_next", "rwkv"} | whole
    assert turns == {name for name, one in models.items() if one["forward"] == "SingleForward"}
