"""Pulls: fetch all that a model's start needs, and report that at its end or as it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

from flask import Response, g, request

from controller.api.dispatch import stream_response
from controller.api.errors import public
from controller.api.services import Services
from controller.api.translation import sse
from controller.api.views import preparing, pull_row
from controller.error_bodies import envelope
from controller.errors import ModelNotFound, OrchestrarError
from controller.registry import ModelSpec
from controller.supervisor import ModelView
from controller.supervisor.backend import PreparationProgress


class PullFormat(Protocol):
    """The form in which a client gets the progress of one pull."""

    stream_type: str

    def progress(self, progress: PreparationProgress) -> bytes:
        """Return how far it is."""

    def silence(self) -> bytes:
        """Return what shows that it still goes on."""

    def success(self, view: ModelView) -> bytes:
        """Return what says that all is here."""

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        """Return what says that it failed, and why."""


class NativeEvents:
    """Server-sent events."""

    stream_type = sse.CONTENT_TYPE

    def progress(self, progress: PreparationProgress) -> bytes:
        return _event({**preparing(progress), "total_bytes": progress.total_bytes})

    def silence(self) -> bytes:
        return sse.COMMENT

    def success(self, view: ModelView) -> bytes:
        return _event({"done": True, **pull_row(view)})

    def error(self, error: OrchestrarError, request_id: str) -> bytes:
        return _event(envelope(error, request_id))


def resolve_for_pull(resolve: Callable[[str], ModelSpec], name: str) -> ModelSpec:
    """Return the model of this name; ModelNotFound says that no other can be pulled."""
    try:
        return resolve(name)
    except ModelNotFound as exc:
        message = f"{exc.message}; only models of models.yaml can be pulled, add it there first"
        raise ModelNotFound(message, param=exc.param, details=exc.details) from None


def pull(services: Services, model_id: str, *, wait: bool) -> tuple[ModelView, bool]:
    """Return the model's state, and whether all is here; with `wait` it is, or what prevented it is raised."""
    with services.proxy.place(), services.leaving_client(request.environ) as token:
        progress = services.supervisor.pull(model_id, token=token)
        if wait:
            for _ in progress:
                pass
        return services.supervisor.view(model_id), progress.is_over


def pull_streamed(services: Services, model_id: str, pull_format: PullFormat) -> Response:
    """Return the pull as it goes on. If it fails before its first report, the error is raised instead."""
    return stream_response(_Progress(services, model_id, pull_format, g.request_id), pull_format.stream_type)


class _Progress(Iterator[bytes]):
    """The body of a streamed pull. A class for the same reason as `event_stream.EventStream`."""

    def __init__(self, services: Services, model_id: str, pull_format: PullFormat, request_id: str) -> None:
        self._services = services
        self._model_id = model_id
        self._format = pull_format
        self._request_id = request_id
        self._is_closed = False
        self._resources = ExitStack()
        try:
            self._resources.enter_context(services.proxy.place())
            token = self._resources.enter_context(services.leaving_client(request.environ))
            self._pull = services.supervisor.pull(model_id, token=token)
            self._first: bytes | None = self._next()
        except BaseException:
            self.close()
            raise

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._is_closed:
            raise StopIteration
        try:
            return self._next()
        except OrchestrarError as exc:
            self.close()
            return self._format.error(public(exc), self._request_id)

    def close(self) -> None:
        """Stop following the pull, which itself goes on. Idempotent."""
        self._is_closed = True
        self._resources.close()

    def _next(self) -> bytes:
        try:
            progress = next(self._pull)
        except StopIteration:
            self.close()
            return self._format.success(self._services.supervisor.view(self._model_id))
        return self._format.silence() if progress is None else self._format.progress(progress)


def _event(value: dict[str, Any]) -> bytes:
    return sse.event(json.dumps(value))
