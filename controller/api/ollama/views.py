"""The routes under `/api`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from flask import Blueprint, Response, jsonify, request

from controller import __version__
from controller.api import pulls as pulling
from controller.api import tasks
from controller.api.bodies import read_body
from controller.api.body import raw_body
from controller.api.dispatch import AnswerFormat, by_name, relay
from controller.api.ollama import catalogue
from controller.api.ollama.answers import OllamaWording
from controller.api.ollama.bodies import ChatBody, EmbedBody, EmbeddingsBody, GenerateBody, NamedBody, PullBody
from controller.api.ollama.embeddings import EmbeddingsWording, EmbedWording
from controller.api.ollama.progress import SUCCESS, StatusLines
from controller.api.ollama.requests import CHAT, EMBEDDINGS, chat_request, embed_request, generate_request
from controller.api.services import services
from controller.api.tasks import require
from controller.errors import ModelNotFound
from controller.registry import ModelSpec

blueprint = Blueprint("ollama", __name__, url_prefix="/api")

# Clients ask for it to know what they may use; it is the version of Ollama whose routes these are.
OLLAMA_VERSION = "0.6.4"


@blueprint.get("/version")
def version() -> Response:
    """Which Ollama this is like, and what it is."""
    return jsonify({"version": OLLAMA_VERSION, "orchestrar": __version__})


@blueprint.get("/tags")
def tags() -> Response:
    """The models that there are, running or not."""
    models = services().registry.models.values()
    return jsonify({"models": [catalogue.tags_row(spec, services().facts(spec.id)) for spec in models]})


@blueprint.get("/ps")
def ps() -> Response:
    """The models that run."""
    now = datetime.now(timezone.utc)
    views = [view for view in services().supervisor.snapshot() if view.state in catalogue.RUNNING]
    return jsonify({"models": [catalogue.ps_row(view, services().facts(view.spec.id), now) for view in views]})


@blueprint.post("/show")
def show() -> Response:
    """What is known of one model."""
    spec = _resolve(read_body(NamedBody, raw_body()).model)
    return jsonify(catalogue.shown(spec, services().facts(spec.id)))


@blueprint.post("/chat")
def chat() -> Response:
    """The next turn of a conversation; without messages, loading or unloading."""
    body = read_body(ChatBody, raw_body())
    wording = OllamaWording(body.model, is_chat=True)

    def asked(spec: ModelSpec, left_s: float | None) -> Response:
        if not body.messages:
            return _load(spec, body.keep_alive, wording.empty("load"), wording.empty("unload"), left_s)
        require(tasks.CHAT, spec, body.model, param="model")
        return _ask(spec, CHAT, chat_request(body, spec), body.keep_alive, wording, left_s)

    return by_name(_resolve, body.model, asked)


@blueprint.post("/generate")
def generate() -> Response:
    """An answer to a prompt; without one, loading or unloading."""
    body = read_body(GenerateBody, raw_body())
    wording = OllamaWording(body.model, is_chat=False)

    def asked(spec: ModelSpec, left_s: float | None) -> Response:
        if not body.prompt:
            return _load(spec, body.keep_alive, wording.empty("load"), wording.empty("unload"), left_s)
        require(tasks.TEXT, spec, body.model, param="model")
        path, for_runner = generate_request(body, spec)
        return _ask(spec, path, for_runner, body.keep_alive, wording, left_s)

    return by_name(_resolve, body.model, asked)


@blueprint.post("/embed")
def embed() -> Response:
    """Vectors for texts."""
    body = read_body(EmbedBody, raw_body())
    return _embed(body, EmbedWording(body.model), {"model": body.model, "embeddings": []})


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """A vector for one text, as older clients ask for it."""
    older = read_body(EmbeddingsBody, raw_body())
    body = EmbedBody(model=older.model, input=older.prompt, keep_alive=older.keep_alive)
    return _embed(body, EmbeddingsWording(), {"embedding": []})


@blueprint.post("/pull")
def pull() -> Response:
    """Make present all that a model's start needs."""
    body = read_body(PullBody, raw_body())
    spec = pulling.resolve_for_pull(_resolve, body.model)
    if body.stream is not False:
        digest = catalogue.digest(spec, services().facts(spec.id))
        return pulling.pull_streamed(services(), spec.id, StatusLines(digest))
    pulling.pull(services(), spec.id, wait=True)
    return jsonify(SUCCESS)


def _resolve(name: str) -> ModelSpec:
    """The model; a tag says nothing here, and `latest` is what clients add when there is none."""
    try:
        return services().registry.resolve(name.removesuffix(":latest"))
    except ModelNotFound as exc:
        message = f"model '{name}' not found; known models: {', '.join(exc.details['known'])}"
        raise ModelNotFound(message, param="model", details=exc.details) from None


def _ask(
    spec: ModelSpec,
    path: str,
    asked: dict[str, Any],
    keep_alive_s: float | None,
    wording: AnswerFormat,
    left_s: float | None,
) -> Response:
    streamed = bool(asked.get("stream"))
    raw = json.dumps(asked).encode()
    return relay(
        services(), spec, path, raw, stream=streamed, wording=wording, left_s=left_s, keep_alive_s=keep_alive_s
    )


def _embed(body: EmbedBody, wording: AnswerFormat, nothing: dict[str, Any]) -> Response:
    def asked(spec: ModelSpec, left_s: float | None) -> Response:
        if not body.input:
            return _load(spec, body.keep_alive, nothing, nothing, left_s)
        require(tasks.EMBEDDINGS, spec, body.model, param="model")
        return _ask(spec, EMBEDDINGS, embed_request(body, spec), body.keep_alive, wording, left_s)

    return by_name(_resolve, body.model, asked)


def _load(
    spec: ModelSpec,
    keep_alive_s: float | None,
    loaded: dict[str, Any],
    unloaded: dict[str, Any],
    left_s: float | None,
) -> Response:
    """A request without input starts the model, or with a `keep_alive` of 0 stops it when nobody uses it."""
    supervisor = services().supervisor
    with services().proxy.place(), services().leaving_client(request.environ) as token:
        if keep_alive_s == 0:
            supervisor.expire(spec.id)
            return jsonify(unloaded)
        supervisor.run(spec.id, wait=True, max_wait_s=left_s, token=token, keep_alive_s=keep_alive_s)
        return jsonify(loaded)
