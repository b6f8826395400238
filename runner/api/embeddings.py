"""Requests for embeddings: sorts texts into batches, queues the batches for the engine, and formats the vectors."""

from __future__ import annotations

import base64
import logging
import queue
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from flask import Response, g, request

from runner.api.bodies.embeddings import EmbeddingsBody
from runner.api.disconnects import DisconnectWatcher
from runner.api.errors import RequestRefused, ServerError, Unavailable
from runner.api.generations import SPARE_PLACES, check_readiness, client_socket, json_response, overloaded
from runner.api.metrics import EmbeddingMetrics, EmbeddingOutcome
from runner.api.work_queue import WorkQueue
from runner.engine import Embedder, PromptInvalid
from runner.engines.job import GenerationFailed
from runner.loading import Loader
from runner.settings import RunnerSettings

log = logging.getLogger("runner")

# Tokens in a batch, padding included. Larger batches took more time for the same texts on CPUs: padding outweighs the
# gain. And other requests, as well as a client that has left, must wait for the end of the current batch.
BATCH_TOKENS = 1024


class EmbeddingJob:
    """The batches of one request. Each queues separately, so that a short request can pass a long one."""

    def __init__(self, tokens: Sequence[tuple[int, ...]]) -> None:
        self.completed_texts = 0
        self._tokens = tokens
        self._batches = iter(in_batches([len(one) for one in tokens], BATCH_TOKENS))
        self._batch: list[int] = []
        self._outcomes: queue.SimpleQueue[list[list[float]] | GenerationFailed | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    def vectors(self, work_queue: WorkQueue) -> list[list[float]]:
        """Return a vector for each text, in order; blocks. Raises GenerationFailed, or Unavailable if cancelled."""
        vectors: list[list[float]] = [[]] * len(self._tokens)
        for batch in self._batches:
            self._batch = batch
            work_queue.submit(self)
            outcome = self._outcomes.get()
            if outcome is None:
                raise Unavailable("The request was cancelled.", code="cancelled")
            if isinstance(outcome, GenerationFailed):
                raise outcome
            for index, vector in zip(batch, outcome, strict=True):
                vectors[index] = vector
            self.completed_texts += len(batch)
        return vectors

    def cancel(self) -> None:
        """End the work after the current batch, or the wait at once. Any thread may call it, any number of times."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._outcomes.put(None)

    def is_cancelled(self) -> bool:
        """Tell whether the work was cancelled."""
        return self._cancelled.is_set()

    def run(self, engine: Embedder) -> None:
        """Embed the current batch with the engine; never raises."""
        try:
            self._outcomes.put(engine.embed([self._tokens[index] for index in self._batch]))
        except Exception as error:  # A worker's outermost loop: a failure in one batch must not end the others.
            log.exception("could not embed a batch of texts")
            reason = f"the engine failed while embedding: {type(error).__name__}: {error}"
            self._outcomes.put(GenerationFailed(reason))


def in_batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield batches of the texts' indices, sorted by length so that there is little padding.

    The padded lengths of a batch sum to at most `most`, unless it is a single text.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


class Embeddings:
    """Answers requests with the one embedder."""

    def __init__(self, embedder: Embedder, settings: RunnerSettings, loader: Loader) -> None:
        self._embedder = embedder
        self._model_id = settings.model_id
        self._loader = loader
        self._work_queue = WorkQueue(embedder, on_failure=loader.fail_after_last_words)
        self._watcher = DisconnectWatcher()
        self.metrics = EmbeddingMetrics()
        self._places = threading.BoundedSemaphore(settings.max_concurrency + SPARE_PLACES)

    def answer(self, body: EmbeddingsBody) -> Response:
        """Return the vectors that the current request asks for; raises RunnerError."""
        check_readiness(self._embedder, self._loader)
        if not self._places.acquire(blocking=False):
            raise overloaded()
        try:
            return self._answer(body)
        finally:
            self._places.release()

    def _answer(self, body: EmbeddingsBody) -> Response:
        started_s = time.monotonic()
        tokens = self._tokens(body)
        count = sum(map(len, tokens))
        job = EmbeddingJob(tokens)
        outcome: EmbeddingOutcome = "failed"
        self.metrics.note_start()
        try:
            with self._watcher.watch(client_socket(request), job.cancel):
                vectors = job.vectors(self._work_queue)
            outcome = "done"
        except Unavailable:
            outcome = "cancelled"
            raise
        except GenerationFailed as error:
            raise ServerError(str(error), code="generation_failed") from None
        finally:
            self.metrics.note_end(outcome, texts=job.completed_texts, tokens=count)
            total_s = time.monotonic() - started_s
            log.info(
                "embeddings request_id=%s texts=%d done=%d prompt_tokens=%d total_s=%.3f",
                *(g.request_id, len(tokens), job.completed_texts, count, total_s),
            )
        return json_response(_openai_answer(vectors, body, body.model or self._model_id, count))

    def _tokens(self, body: EmbeddingsBody) -> list[tuple[int, ...]]:
        """Return the tokens of each text; raises RequestRefused for what the model cannot embed."""
        own = self._embedder.capabilities()
        if body.dimensions not in (None, own.dimensions):
            message = f"dimensions must be the model's own ({own.dimensions}); leave it out."
            raise RequestRefused(message, code="unsupported_parameter", param="dimensions")
        try:
            texts = self._embedder.tokenize(body.input, truncate=bool(body.truncate))
        except PromptInvalid as error:
            raise RequestRefused(str(error), code=error.code, param=error.param) from None
        for index, tokens in enumerate(texts):
            name = "The text" if len(texts) == 1 else f"Text {index}"
            if not tokens:
                raise RequestRefused(f"{name} has no tokens; leave it out.", code="invalid_body", param="input")
            if len(tokens) > own.context_length:
                message = f"{name} has {len(tokens)} tokens, but the context is {own.context_length}; shorten it."
                raise RequestRefused(message, code="context_length_exceeded", param="input")
        return texts


def _openai_answer(vectors: list[list[float]], body: EmbeddingsBody, model: str, tokens: int) -> dict[str, Any]:
    """Return the answer in the format of the OpenAI API."""
    rows = [_base64(vector) for vector in vectors] if body.encoding_format == "base64" else vectors
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: list[float]) -> str:
    """Encode a vector as OpenAI's clients decode it: 32-bit floats, little-endian, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
