"""Embeddings with real weights: all-MiniLM-L6-v2 from its package, against that package's own vectors."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
import yaml
from langchain_openai import OpenAIEmbeddings
from openai import OpenAI
from pydantic import SecretStr

from controller.settings import ROOT
from tests.docker.conftest import Build
from tests.docker.house import House, docker, until
from tests.docker.inside import run_in_image

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
IMAGE = "orchestrar-runner:latest"
SENTENCE = "The quick brown fox jumps over the lazy dog, and we do not know why. "
TEXTS = [
    "Hello",
    SENTENCE * 4,
    "What is the capital of France?",
    "Ünïcode, 日本語 and 😀: Ελλάδα!",
    "x",
    SENTENCE,
    # Longer than the 128 tokens at which the package's tokenizer.json would cut, and than one batch has room for.
    *(f"{number} " + SENTENCE * 12 for number in range(6)),
    "MiXeD CaSe",
    "word " * 254,
]


def documented() -> dict[str, Any]:
    """Return the model's entry as docs/models-yaml.md shows it."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "models-yaml.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "task: embedding" in block]
    entry: dict[str, Any] = yaml.safe_load(block)["models"]["all-minilm"]
    return entry


@pytest.fixture(scope="module")
def house(build_real_house: Build) -> House:
    """Return the documented entry, and the same in half the memory."""
    narrow = {**documented(), "aliases": [], "dtype": "bfloat16"}
    return build_real_house({"all-minilm": documented(), "narrow": narrow})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what the package itself makes of the texts, with the library that it names, in the runner's image."""
    packages = tmp_path_factory.mktemp("packages")
    version_command = ("python", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    python = docker("run", "--rm", "--network=none", IMAGE, *version_command)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    target = ("--no-deps", "--only-binary=:all:", "--python-version", python, "--target", str(packages))
    subprocess.run([*pip, *target, "--requirement", str(HERE / "minilm" / "requirements.txt")], check=True)
    # As root, so that no folder's permissions are in the way; it has no network and cannot write to the host.
    mounts = (f"--volume={packages}:/packages:ro", f"--volume={HERE / 'minilm'}:/minilm:ro")
    options = ("--user=0", "--env=PYTHONPATH=/packages:.", *mounts)
    return run_in_image(IMAGE, "python", "/minilm/reference.py", options=options, document=TEXTS, deadline_s=300)


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.hypot(*one) / math.hypot(*other)


def assert_same(vectors: list[list[float]], expected: list[list[float]]) -> None:
    """Check that these are the same vectors up to rounding, in the same order."""
    assert [one for one in map(cosine, vectors, expected) if one < 0.99999] == []
    assert len(vectors) == len(expected)


def test_a_batch_is_what_the_package_makes(client: OpenAI, reference: Any) -> None:
    """Texts of all lengths in one request of the real `openai` client: the package's own vectors, of length 1."""
    answer = client.embeddings.create(model="minilm", input=TEXTS)
    assert answer.model == "minilm"
    vectors = [row.embedding for row in answer.data]
    assert_same(vectors, reference["vectors"])
    assert [length for length in (math.hypot(*one) for one in vectors) if abs(length - 1) > 1e-5] == []
    tokens = sum(map(len, reference["tokens"]))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


def test_one_at_a_time_is_the_same(client: OpenAI, reference: Any) -> None:
    """A text's vector does not depend on the other texts of its request."""
    vectors = [client.embeddings.create(model="minilm", input=text).data[0].embedding for text in TEXTS]
    assert_same(vectors, reference["vectors"])


def test_many_clients_get_their_own(client: OpenAI, reference: Any) -> None:
    """Simultaneous requests with the texts in another order each get their own vectors."""

    def ask(first: int) -> list[list[float]]:
        texts = TEXTS[first:] + TEXTS[:first]
        return [row.embedding for row in client.embeddings.create(model="minilm", input=texts).data]

    expected = reference["vectors"]
    with ThreadPoolExecutor(4) as pool:
        for first, vectors in zip(range(4), pool.map(ask, range(4)), strict=True):
            assert_same(vectors, expected[first:] + expected[:first])


def test_tokens_are_texts(client: OpenAI, reference: Any) -> None:
    """The model's own tokens, for one text or several, give the vectors of the texts."""
    several = client.embeddings.create(model="minilm", input=reference["tokens"])
    assert_same([row.embedding for row in several.data], reference["vectors"])
    one = client.embeddings.create(model="minilm", input=reference["tokens"][1])
    assert_same([one.data[0].embedding], reference["vectors"][1:2])
    with pytest.raises(openai.BadRequestError, match="30522"):
        client.embeddings.create(model="minilm", input=[100_000])


def test_both_formats_are_one_vector(house: House, client: OpenAI, reference: Any) -> None:
    """Numbers are sent on request, and without a format; base64 has exactly the same ones in 32 bits."""
    numbers = client.embeddings.create(model="minilm", input="Hello", encoding_format="float").data[0].embedding
    assert_same([numbers], reference["vectors"][:1])
    body = {"model": "minilm", "input": "Hello"}
    assert numbers == house.post("/v1/embeddings", body).json()["data"][0]["embedding"]
    base64_text = house.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert struct.unpack("<384f", base64.b64decode(base64_text)) == tuple(numbers)


def test_langchain_embeds(house: House, reference: Any) -> None:
    """LangChain's OpenAIEmbeddings works for documents and queries, if it sends texts and not OpenAI's tokens."""
    langchain = OpenAIEmbeddings(
        base_url=house.url + "/v1", api_key=SecretStr("unused"), model="minilm", check_embedding_ctx_length=False
    )
    assert_same(langchain.embed_documents(TEXTS), reference["vectors"])
    assert_same([langchain.embed_query(TEXTS[2])], reference["vectors"][2:3])


def test_too_long_a_text_names_both_lengths(house: House, client: OpenAI, reference: Any) -> None:
    """The model's own limit counts, and the error names the text; truncated on request, it is as in the package."""
    with pytest.raises(openai.BadRequestError, match="Text 1 has 302 tokens, but the context is 256") as failure:
        client.embeddings.create(model="minilm", input=["Hello", "word " * 300])
    assert (failure.value.code, failure.value.param) == ("context_length_exceeded", "input")
    cut = client.embeddings.create(model="minilm", input="word " * 300, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == 256
    # The last of the texts has just as many words as fit.
    assert_same([cut.data[0].embedding], reference["vectors"][-1:])


def test_other_lengths_and_routes_are_refused(house: House, client: OpenAI) -> None:
    """Vectors are never cut silently, and the runner itself refuses to generate."""
    assert len(client.embeddings.create(model="minilm", input="a", dimensions=384).data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError, match="384") as failure:
        client.embeddings.create(model="minilm", input="a", dimensions=64)
    assert (failure.value.code, failure.value.param) == ("unsupported_parameter", "dimensions")
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings") as failure:
        client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "hi"}])
    assert failure.value.code == "task_unsupported"
    runner = f"http://127.0.0.1:{house.status('all-minilm')['port']}"
    answer = requests.post(runner + "/v1/completions", json={"prompt": "hi"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "task_unsupported")


def test_a_narrower_dtype_is_served(house: House, client: OpenAI, reference: Any) -> None:
    """With bfloat16 the vectors are near the exact ones but not equal to them."""
    vectors = [row.embedding for row in client.embeddings.create(model="narrow", input=TEXTS).data]
    cosines = list(map(cosine, vectors, reference["vectors"]))
    assert 0.999 <= min(cosines) < 0.999999
    health = requests.get(f"http://127.0.0.1:{house.status('narrow')['port']}/health", timeout=5).json()
    assert (health["status"], health["dtype"], health["context_length"]) == ("ok", "bfloat16", 256)


def test_a_client_that_leaves_frees_the_model(house: House, client: OpenAI) -> None:
    """Long work ends between two batches once its client has left."""
    client.embeddings.create(model="minilm", input="here")
    with pytest.raises(requests.ReadTimeout):
        house.post("/v1/embeddings", {"model": "minilm", "input": ["word " * 250] * 2000}, timeout=3)
    until("nothing is in flight", lambda: house.status("all-minilm")["in_flight"] == 0, 30)
    assert client.embeddings.create(model="minilm", input="still here").data
    match = re.search(r"texts=2000 done=(\d+)", docker("logs", house.containers("all-minilm")[0]))
    assert match is not None
    assert int(match[1]) < 2000


def test_other_recipes_are_the_librarys(reference: Any) -> None:
    """For every kind of pooling, linear layers and prompts, as the library writes them, our vectors are its vectors."""
    assert len(reference["differences"]) == 9
    assert {name: worst for name, worst in reference["differences"].items() if worst > 1e-4} == {}


def test_it_is_served_from_its_download(house: House, client: OpenAI) -> None:
    """Safetensors need no preparation: the download is mounted read-only, in a hardened container."""
    client.embeddings.create(model="minilm", input="here")
    (container,) = house.containers("all-minilm")
    (details,) = json.loads(docker("inspect", container))
    assert details["HostConfig"]["ReadonlyRootfs"] is True
    assert [(mount["Type"], mount["RW"]) for mount in details["Mounts"]] == [("bind", False)]
