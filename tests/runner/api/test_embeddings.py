"""`POST /v1/embeddings` with a fake embedder."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest

from runner.api.bodies.embeddings import MAX_INPUTS
from runner.api.embeddings import BATCH_TOKENS, EmbeddingJob, in_batches
from runner.api.work_queue import Work, WorkQueue
from tests.runner.api.test_routes import LateGate, assert_error
from tests.runner.conftest import RunnerServer
from tests.runner.fake_engine import CONTEXT_LENGTH, FakeEmbedder, FakeEngine

Serve = Callable[..., RunnerServer]
PATH = "/v1/embeddings"


def vectors(answer: tuple[int, Any, Any]) -> Any:
    """Return the vectors of an answer, in order."""
    assert 200 == answer[0], answer[1]
    assert list(range(len(answer[1]["data"]))) == [row["index"] for row in answer[1]["data"]]
    return [row["embedding"] for row in answer[1]["data"]]


def test_an_answer_has_the_apis_shape(serve: Serve) -> None:
    """It has every field of the API, under the name that the client wrote; the usage counts every text."""
    status, answer, _ = serve(FakeEmbedder()).request("POST", PATH, {"model": "some-name", "input": ["ab", "@"]})
    assert 200 == status
    assert {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [2.0, 97 / 256]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.25]},
        ],
        "model": "some-name",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    } == answer


@pytest.mark.parametrize("input_", ["ab", ["ab"], [97, 98], [[97, 98]]])
def test_texts_and_tokens_give_the_same_vector(serve: Serve, input_: Any) -> None:
    """A text and its tokens give the same vector, alone or in a list."""
    assert [[2.0, 97 / 256]] == vectors(serve(FakeEmbedder()).request("POST", PATH, {"input": input_}))


def test_base64_is_32_bit_floats(serve: Serve) -> None:
    """By default, the `openai` client asks for little-endian floats in base64."""
    runner = serve(FakeEmbedder())
    (vector,) = vectors(runner.request("POST", PATH, {"input": "ab", "encoding_format": "base64"}))
    assert (2.0, 97 / 256) == struct.unpack("<2f", base64.b64decode(vector))
    assert [[2.0, 97 / 256]] == vectors(runner.request("POST", PATH, {"input": "ab", "encoding_format": "float"}))


def test_many_texts_keep_their_order(serve: Serve) -> None:
    """Texts of all lengths go through several bounded batches, and each gets its own vector."""
    engine = FakeEmbedder()
    texts = [chr(97 + place % 26) * (1 + place * 37 % CONTEXT_LENGTH) for place in range(200)]
    expected = [[float(len(text)), ord(text[0]) / 256] for text in texts]
    assert expected == vectors(serve(engine).request("POST", PATH, {"input": texts}))
    batches = engine.batches[1:]
    assert len(batches) > 5
    assert all(len(batch) * max(map(len, batch)) <= BATCH_TOKENS for batch in batches)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([5], [[0]]),
        ([50], [[0]]),
        ([3, 1, 2], [[1, 2, 0]]),
        ([9, 1, 9, 1], [[1, 3], [0], [2]]),
        ([50, 2, 2, 2, 2, 2], [[1, 2, 3, 4, 5], [0]]),
        ([2] * 6, [[0, 1, 2, 3, 4], [5]]),
    ],
)
def test_batches_hold_texts_of_similar_length(lengths: list[int], expected: list[list[int]]) -> None:
    """With padding, no batch exceeds the bound (10 here), unless it is a single text; there is little padding."""
    assert expected == list(in_batches(lengths, 10))


class CountingQueue(WorkQueue):
    """Releases `submissions` after each submission."""

    def __init__(self, engine: FakeEmbedder) -> None:
        self.submissions = threading.Semaphore(0)
        super().__init__(engine)

    def submit(self, job: Work) -> None:
        super().submit(job)
        self.submissions.release()


def test_a_short_request_passes_a_long_one() -> None:
    """Another request runs between two batches of a long one."""
    gate = threading.Semaphore(0)
    engine = FakeEmbedder(gate=gate)
    jobs = CountingQueue(engine)
    long, short = EmbeddingJob([(120,) * 90] * 60), EmbeddingJob([(121,)])
    with ThreadPoolExecutor(2) as pool:
        all_of_long = pool.submit(long.vectors, jobs)
        assert engine.starts.acquire(timeout=20)
        all_of_short = pool.submit(short.vectors, jobs)
        assert all(jobs.submissions.acquire(timeout=20) for _ in range(2))
        gate.release(2)
        assert [[1.0, 121 / 256]] == all_of_short.result(20)
        assert not all_of_long.done()
        gate.release(20)
        assert 60 == len(all_of_long.result(20))
    jobs.close()


def test_a_client_that_leaves_ends_its_batches(serve: Serve) -> None:
    """The wait ends at once, and the engine computes no further batch of that request."""
    gate = LateGate()
    engine = FakeEmbedder(gate=gate)
    runner = serve(engine)
    connection = runner.connect()
    connection.request("POST", PATH, json.dumps({"input": ["x" * 90] * 60}))
    assert all(engine.starts.acquire(timeout=20) for _ in range(2))
    # A half-closed connection looks the same to the runner, and lets this test read its answer.
    connection.sock.shutdown(socket.SHUT_WR)
    response = connection.getresponse()
    assert (503, "cancelled") == (response.status, json.loads(response.read())["error"]["code"])
    connection.close()
    gate.release(2)
    assert 200 == runner.request("POST", PATH, {"input": "y"})[0]
    assert ["Hello", "x" * 90, "y"] == [batch[0] for batch in engine.batches]


def test_more_than_the_places_is_refused_at_once(serve: Serve) -> None:
    """With one request too many, one client gets a 503 with Retry-After; a place is free after its request."""
    gate = LateGate()
    runner = serve(FakeEmbedder(gate=gate), max_concurrency=1)
    with ThreadPoolExecutor(6) as pool:
        requests = [pool.submit(runner.request, "POST", PATH, {"input": "x"}) for _ in range(6)]
        refusal = next(as_completed(requests, 20)).result()
        assert_error(refusal, 503, "overloaded")
        assert "1" == refusal[2]["Retry-After"]
        gate.release(5)
        assert [200] * 5 + [503] == sorted(request.result(20)[0] for request in requests)
    gate.release()
    assert 200 == runner.request("POST", PATH, {"input": "x"})[0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "required"),
        ({"input": None}, "must be a text"),
        ({"input": 5}, "must be a text"),
        ({"input": {"text": "a"}}, "must be a text"),
        ({"input": ""}, "empty"),
        ({"input": []}, "empty"),
        ({"input": ["a", ""]}, "empty"),
        ({"input": [[1], []]}, "empty"),
        ({"input": ["a", 1]}, "must be a text"),
        ({"input": ["a", [1]]}, "must be a text"),
        ({"input": [1.5]}, "must be a text"),
        ({"input": [True]}, "must be a text"),
        ({"input": [-1]}, "must be a text"),
        ({"input": [[[1]]]}, "must be a text"),
        ({"input": [2**31]}, "must be a text"),
        ({"input": [1, 200]}, "200"),
        ({"input": ["a", "\ud800"]}, "surrogate"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "2048"),
    ],
)
def test_an_invalid_input_is_refused(serve: Serve, body: dict[str, Any], says: str) -> None:
    """Each refusal names the field and its fault, and the engine computes nothing."""
    engine = FakeEmbedder()
    assert says in assert_error(serve(engine).request("POST", PATH, body), 400, "invalid_body", "input")
    assert [["Hello"]] == engine.batches


def test_the_api_allows_this_many_inputs(serve: Serve) -> None:
    """The bound itself passes, and a list of tokens is one text, however long."""
    runner = serve(FakeEmbedder())
    assert MAX_INPUTS == len(vectors(runner.request("POST", PATH, {"input": ["a"] * MAX_INPUTS})))
    message = assert_error(runner.request("POST", PATH, {"input": [1] * 3000}), 400, "context_length_exceeded", "input")
    assert "3000" in message


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"encoding_format": "hex"}, "invalid_body", "encoding_format"),
        ({"dimensions": 0}, "invalid_body", "dimensions"),
        ({"dimensions": "2"}, "invalid_body", "dimensions"),
        ({"dimensions": 3}, "unsupported_parameter", "dimensions"),
        ({"model": 5}, "invalid_body", "model"),
        ({"truncate": "yes"}, "invalid_body", "truncate"),
    ],
)
def test_the_refusal_of_a_wrong_parameter_names_it(serve: Serve, change: dict[str, Any], code: str, param: str) -> None:
    """An unsupported parameter that would change the vectors is never ignored."""
    message = assert_error(serve(FakeEmbedder()).request("POST", PATH, {"input": "a", **change}), 400, code, param)
    assert param in message


def test_parameters_without_effect_pass(serve: Serve) -> None:
    """The model's own length, nulls, the user's name and unknown parameters are not refused."""
    odd = {"dimensions": 2, "user": "me", "encoding_format": None, "truncate": None, "model": None, "frobnicate": [1]}
    status, answer, _ = serve(FakeEmbedder()).request("POST", PATH, {"input": "a", **odd})
    assert (200, "fake") == (status, answer["model"])


def test_too_long_a_text_names_both_lengths(serve: Serve) -> None:
    """The client learns which of its texts to cut and by how much; `truncate` cuts both texts and tokens."""
    runner = serve(FakeEmbedder())
    for input_, name in (("x" * 150, "The text"), (["a", "x" * 150], "Text 1"), ([[1] * 150, [1]], "Text 0")):
        answer = runner.request("POST", PATH, {"input": input_})
        message = assert_error(answer, 400, "context_length_exceeded", "input")
        assert message.startswith(f"{name} has 150 tokens, but the context is 100")
        assert 100.0 in [one[0] for one in vectors(runner.request("POST", PATH, {"input": input_, "truncate": True}))]


def test_a_batch_that_fails_fails_only_its_request(serve: Serve) -> None:
    """The client gets the reason, and the next request is answered."""
    engine = FakeEmbedder()
    runner = serve(engine)
    engine.error = RuntimeError("the fake failed")
    assert "the fake failed" in assert_error(runner.request("POST", PATH, {"input": "a"}), 500, "generation_failed")
    engine.error = None
    assert 200 == runner.request("POST", PATH, {"input": "a"})[0]


def test_a_model_that_is_not_ready_says_so(serve: Serve) -> None:
    """While it warms up, and once it has failed, requests get a 503 so that clients retry."""
    gate = threading.Semaphore(0)
    engine = FakeEmbedder(gate=gate)
    runner = serve(engine, wait=False)
    assert engine.starts.acquire(timeout=20)
    assert 503 == runner.request("GET", "/health")[0]
    assert_error(runner.request("POST", PATH, {"input": "a"}), 503, "model_loading")
    gate.release()
    assert runner.loader.load_end.wait(20)
    assert 200 == runner.request("GET", "/health")[0]
    engine.failure_reason = "out of memory"
    assert_error(runner.request("POST", PATH, {"input": "a"}), 503, "engine_failed")


@pytest.mark.parametrize("path", ["/inference", "/v1/chat/completions", "/v1/completions"])
def test_an_embedder_cannot_generate_text(serve: Serve, path: str) -> None:
    """A model that makes embeddings says so, and names its route."""
    answer = serve(FakeEmbedder()).request("POST", path, {"prompt": "x"})
    assert PATH in assert_error(answer, 400, "task_unsupported", "model")


def test_a_model_for_text_cannot_make_embeddings(serve: Serve) -> None:
    """A model that generates text says so, and names the kind of model to use."""
    answer = serve(FakeEngine()).request("POST", PATH, {"input": "x"})
    assert "task: embedding" in assert_error(answer, 400, "task_unsupported", "model")
