"""Requests for embeddings: texts put together in batches, batches taking turns on the engine, vectors as the client
wants them."""

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
from runner.api.errors import Broken, Refused, Unavailable
from runner.api.generations import SPARE_PLACES, check_readiness, client_socket, json_response, no_place
from runner.api.metrics import EmbeddingMetrics, EmbeddingOutcome
from runner.api.work_queue import WorkQueue
from runner.engine import Embedder, PromptInvalid
from runner.engines.job import GenerationFailed
from runner.loading import Loader
from runner.settings import RunnerSettings

log = logging.getLogger("runner")

# Of a batch, padding counted. Larger ones took more time for the same texts on CPUs: the padding outweighs the gain.
# And a batch is what other requests, and the end of one whose client has left, have to wait for.
BATCH_TOKENS = 1024


class EmbeddingJob:
    """One request's batches. Each takes its turn anew, so that a short request passes between two of a long one."""

    def __init__(self, tokens: Sequence[tuple[int, ...]]) -> None:
        self.done = 0
        self._tokens = tokens
        self._batches = iter(in_batches([len(one) for one in tokens], BATCH_TOKENS))
        self._batch: list[int] = []
        self._outcomes: queue.SimpleQueue[list[list[float]] | GenerationFailed | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    def vectors(self, turns: WorkQueue) -> list[list[float]]:
        """A vector for each text, in their order; blocks. Raises GenerationFailed, or Unavailable when cancelled."""
        found: list[list[float]] = [[]] * len(self._tokens)
        for batch in self._batches:
            self._batch = batch
            turns.submit(self)
            outcome = self._outcomes.get()
            if outcome is None:
                raise Unavailable("The request was cancelled.", code="cancelled")
            if isinstance(outcome, GenerationFailed):
                raise outcome
            for index, vector in zip(batch, outcome, strict=True):
                found[index] = vector
            self.done += len(batch)
        return found

    def cancel(self) -> None:
        """Ends the work after the batch under way, or the waiting at once. Any thread, any number of times."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._outcomes.put(None)

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def run(self, engine: Embedder) -> None:
        try:
            self._outcomes.put(engine.embed([self._tokens[index] for index in self._batch]))
        except Exception as error:  # A worker's outermost loop: one broken batch must not end the others.
            log.exception("embedding failed")
            reason = f"the engine failed while embedding: {type(error).__name__}: {error}"
            self._outcomes.put(GenerationFailed(reason))


def in_batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The texts' places, put together by length so that little is padded; a batch's padded lengths come to at most
    `most`, unless it is one text."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


class Embeddings:
    """Answers requests by the one embedder."""

    def __init__(self, embedder: Embedder, settings: RunnerSettings, loader: Loader) -> None:
        self._embedder = embedder
        self._model_id = settings.model_id
        self._loader = loader
        self._turns = WorkQueue(embedder, on_failure=loader.fail_after_last_words)
        self._watcher = DisconnectWatcher()
        self.metrics = EmbeddingMetrics()
        self._places = threading.BoundedSemaphore(settings.max_concurrency + SPARE_PLACES)

    def answer(self, body: EmbeddingsBody) -> Response:
        """The vectors that the current request asks for; raises RunnerError."""
        check_readiness(self._embedder, self._loader)
        if not self._places.acquire(blocking=False):
            raise no_place()
        try:
            return self._answer(body)
        finally:
            self._places.release()

    def _answer(self, body: EmbeddingsBody) -> Response:
        begun_s = time.monotonic()
        tokens = self._tokens(body)
        count = sum(map(len, tokens))
        job = EmbeddingJob(tokens)
        outcome: EmbeddingOutcome = "failed"
        self.metrics.begun()
        try:
            with self._watcher.watch(client_socket(request), job.cancel):
                vectors = job.vectors(self._turns)
            outcome = "done"
        except Unavailable:
            outcome = "cancelled"
            raise
        except GenerationFailed as error:
            raise Broken(str(error), code="generation_failed") from None
        finally:
            self.metrics.ended(outcome, texts=job.done, tokens=count)
            total_s = time.monotonic() - begun_s
            log.info(
                "embeddings request_id=%s texts=%d done=%d prompt_tokens=%d total_s=%.3f",
                *(g.request_id, len(tokens), job.done, count, total_s),
            )
        return json_response(_worded(vectors, body, body.model or self._model_id, count))

    def _tokens(self, body: EmbeddingsBody) -> list[tuple[int, ...]]:
        """Of each text; raises Refused for what the model cannot embed."""
        own = self._embedder.capabilities()
        if body.dimensions not in (None, own.dimensions):
            message = f"dimensions is not supported beyond the model's own ({own.dimensions}); leave it out."
            raise Refused(message, code="unsupported_parameter", param="dimensions")
        try:
            found = self._embedder.tokenize(body.input, truncate=bool(body.truncate))
        except PromptInvalid as error:
            raise Refused(str(error), code=error.code, param=error.param) from None
        for index, tokens in enumerate(found):
            name = "The text" if len(found) == 1 else f"Text {index}"
            if not tokens:
                raise Refused(f"{name} has no tokens; leave it out.", code="invalid_body", param="input")
            if len(tokens) > own.context_length:
                message = f"{name} has {len(tokens)} tokens and the model's context {own.context_length}; shorten it."
                raise Refused(message, code="context_length_exceeded", param="input")
        return found


def _worded(vectors: list[list[float]], body: EmbeddingsBody, model: str, tokens: int) -> dict[str, Any]:
    """The answer in the words of the OpenAI API."""
    shown = [_base64(vector) for vector in vectors] if body.encoding_format == "base64" else vectors
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(shown)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: list[float]) -> str:
    """As its clients unpack it: 32-bit floats, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
