"""`POST /inference`: one answer whole, or as server-sent events."""

from __future__ import annotations

from typing import Any

from flask import Response

from controller.api.bodies import InferenceBody
from controller.api.dispatch import AsItCame, as_json, relay
from controller.api.services import Services
from controller.proxy.forwarding import Answer, Waited
from controller.registry import ModelSpec


def ask(services: Services, spec: ModelSpec, body: InferenceBody, left_s: float | None) -> Response:
    """The model's answer, with the model's id and what it had to be waited for; `left_s` as in `relay`."""
    return relay(
        services,
        spec,
        "/inference",
        body.for_runner(),
        stream=body.stream,
        wording=_Native(spec.id),
        left_s=left_s,
        keep_alive_s=body.keep_alive,
    )


class _Native(AsItCame):
    def __init__(self, model_id: str) -> None:
        self._model_id = model_id

    def whole(self, answer: Answer) -> bytes:
        found = answer.read_object()
        timings = _timings(found.get("timings"), answer.waited)
        return as_json({**found, "model_id": self._model_id, "timings": timings})


def _timings(told: Any, waited: Waited) -> dict[str, Any]:
    """The runner's, with what only the controller knows: the wait for the model counts in every time."""
    timings = dict(told) if isinstance(told, dict) else {}
    for name in ("ttft_s", "total_s"):
        if isinstance(timings.get(name), (int, float)):
            timings[name] = round(timings[name] + waited.start_s + waited.queue_s, 4)
    return {"queue_s": round(waited.queue_s, 4), "start_s": round(waited.start_s, 4), **timings}
