"""Pulls: all that a model's start needs made present, told at its end or as it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

from flask import Response, g, request

from controller.api.dispatch import EVENT_STREAM, stream_response
from controller.api.errors import public
from controller.api.services import Services
from controller.api.views import preparing, pulled
from controller.error_bodies import envelope
from controller.errors import ModelNotFound, OrchestrarError
from controller.registry import ModelSpec
from controller.supervisor import ModelView
from controller.supervisor.backend import PreparationProgress


class PullFormat(Protocol):
    """How one pull is told to its client."""

    stream_type: str

    def progress(self, progress: PreparationProgress) -> bytes:
        """How far it is."""

    def silence(self) -> bytes:
        """That it still goes on."""

    def done(self, view: ModelView) -> bytes:
        """That all is here."""

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        """That it failed, and why."""


class NativeEvents:
    """Server-sent events."""

    stream_type = f"{EVENT_STREAM}; charset=utf-8"

    def progress(self, progress: PreparationProgress) -> bytes:
        return _event({**preparing(progress), "total_bytes": progress.total_bytes})

    def silence(self) -> bytes:
        return b":\n\n"

    def done(self, view: ModelView) -> bytes:
        return _event({"done": True, **pulled(view)})

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        return _event(envelope(error, request_id))


def resolve_for_pull(resolve: Callable[[str], ModelSpec], name: str) -> ModelSpec:
    """The model; ModelNotFound says that no other can be had by a pull."""
    try:
        return resolve(name)
    except ModelNotFound as exc:
        message = f"{exc.message}; only models of models.yaml can be pulled, add it there first"
        raise ModelNotFound(message, param=exc.param, details=exc.details) from None


def pull(services: Services, model_id: str, *, wait: bool) -> tuple[ModelView, bool]:
    """The model as it is then, and whether all is here; with `wait` it is, or what kept it from that is raised."""
    with services.proxy.place(), services.leaving_client(request.environ) as token:
        under_way = services.supervisor.pull(model_id, token=token)
        if wait:
            for _ in under_way:
                pass
        return services.supervisor.view(model_id), under_way.is_over


def pull_streamed(services: Services, model_id: str, wording: PullFormat) -> Response:
    """The pull as it goes on. What fails before there is anything to tell is raised, and answered as an error."""
    return stream_response(_Progress(services, model_id, wording, g.request_id), wording.stream_type)


class _Progress(Iterator[bytes]):
    """The body of a streamed pull. A class for the same reason as `relay.EventStream`."""

    def __init__(self, services: Services, model_id: str, wording: PullFormat, request_id: str) -> None:
        self._services = services
        self._model_id = model_id
        self._wording = wording
        self._request_id = request_id
        self._ended = False
        self._held = ExitStack()
        try:
            self._held.enter_context(services.proxy.place())
            token = self._held.enter_context(services.leaving_client(request.environ))
            self._pull = services.supervisor.pull(model_id, token=token)
            self._first: bytes | None = self._next()
        except BaseException:
            self.close()
            raise

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._ended:
            raise StopIteration
        try:
            return self._next()
        except OrchestrarError as exc:
            self.close()
            return self._wording.error(public(exc), self._request_id)

    def close(self) -> None:
        """Stop following it; the pull itself goes on. Idempotent."""
        self._ended = True
        self._held.close()

    def _next(self) -> bytes:
        try:
            progress = next(self._pull)
        except StopIteration:
            self.close()
            return self._wording.done(self._services.supervisor.view(self._model_id))
        return self._wording.silence() if progress is None else self._wording.progress(progress)


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
