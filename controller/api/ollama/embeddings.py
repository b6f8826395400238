"""Embeddings of the OpenAI API in Ollama's form. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from controller.api.dispatch import Unchanged, as_json
from controller.api.ollama.answers import Times, object_in
from controller.errors import UpstreamInvalid
from controller.proxy.forwarding import Answer, WaitTimes


class EmbedFormat(Unchanged):
    """The answer to `POST /api/embed`, whose vectors have the length 1."""

    def __init__(self, model: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._started_at = clock()

    def whole(self, answer: Answer) -> bytes:
        return as_json(self.translate(answer.read_object(), answer.wait_times))

    def translate(self, answer: dict[str, Any], wait_times: WaitTimes) -> dict[str, Any]:
        """Translate embeddings of the OpenAI API. Raises UpstreamInvalid for what is none."""
        vectors = [_unit(vector) for vector in _vectors(answer)]
        tokens = object_in(answer, "usage").get("prompt_tokens")
        times = Times(total_s=self._clock() - self._started_at, load_s=wait_times.total_s)
        count = {} if tokens is None else {"prompt_eval_count": tokens}
        return {"model": self._model, "embeddings": vectors, **times.durations(), **count}


class EmbeddingsFormat(Unchanged):
    """The answer to the older `POST /api/embeddings`, whose one vector is unchanged."""

    def whole(self, answer: Answer) -> bytes:
        (vector,) = _vectors(answer.read_object())[:1] or [[]]
        return as_json({"embedding": vector})


def _vectors(answer: dict[str, Any]) -> list[list[float]]:
    try:
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        vectors = [[float(value) for value in row["embedding"]] for row in rows]
    except (KeyError, OverflowError, TypeError, ValueError) as exc:
        raise UpstreamInvalid("the model's answer has embeddings of no known shape") from exc
    if not all(math.isfinite(value) for vector in vectors for value in vector):
        raise UpstreamInvalid("the model's answer has embeddings that are no numbers")
    return vectors


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector] if length else vector
