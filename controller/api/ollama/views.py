"""The routes under `/api`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flask import Blueprint, Response, jsonify, request

from controller import __version__
from controller.api import dispatch, pulls
from controller.api.bodies import raw_body, read_body
from controller.api.dispatch import AnswerFormat, ModelRequest, forward_to_model, start_model, with_model
from controller.api.ollama import catalogue
from controller.api.ollama.answers import OllamaFormat
from controller.api.ollama.bodies import ChatBody, EmbedBody, EmbeddingsBody, GenerateBody, NamedBody, PullBody
from controller.api.ollama.embeddings import EmbeddingsFormat, EmbedFormat
from controller.api.ollama.progress import SUCCESS, StatusLines
from controller.api.ollama.requests import chat_request, embed_request, generate_request
from controller.api.services import services
from controller.errors import ModelNotFound
from controller.registry import ModelSpec

blueprint = Blueprint("ollama", __name__, url_prefix="/api")

# Clients ask for it to know what they may use; it is the version of Ollama whose routes these are.
OLLAMA_VERSION = "0.6.4"


@blueprint.get("/version")
def version() -> Response:
    """Show which version of Ollama this resembles, and our own."""
    return jsonify({"version": OLLAMA_VERSION, "orchestrar": __version__})


@blueprint.get("/tags")
def tags() -> Response:
    """List all configured models, running or not."""
    models = services().registry.models.values()
    return jsonify({"models": [catalogue.tags_row(spec, services().facts(spec.id)) for spec in models]})


@blueprint.get("/ps")
def ps() -> Response:
    """List the running models."""
    now = datetime.now(UTC)
    views = [view for view in services().supervisor.snapshot() if view.state in catalogue.RUNNING]
    return jsonify({"models": [catalogue.ps_row(view, services().facts(view.spec.id), now) for view in views]})


@blueprint.post("/show")
def show() -> Response:
    """Show what is known of one model."""
    spec = _resolve(read_body(NamedBody, raw_body()).model)
    return jsonify(catalogue.show_body(services().supervisor.entry(spec.id), services().facts(spec.id)))


@blueprint.post("/chat")
def chat() -> Response:
    """Continue a conversation; without messages, load or unload the model."""
    body = read_body(ChatBody, raw_body())
    answer_format = OllamaFormat(body.model, is_chat=True)
    if not body.messages:
        return _load(body.model, body.keep_alive, answer_format.empty("load"), answer_format.empty("unload"))
    model_request = ModelRequest(
        name=body.model,
        param="model",
        task_rule=dispatch.CHAT,
        upstream=partial(chat_request, body),
        answer_format=answer_format,
        stream=body.is_streamed,
        keep_alive_s=body.keep_alive,
    )
    return forward_to_model(model_request, _resolve)


@blueprint.post("/generate")
def generate() -> Response:
    """Answer a prompt; without one, load or unload the model."""
    body = read_body(GenerateBody, raw_body())
    answer_format = OllamaFormat(body.model, is_chat=False)
    if not body.prompt:
        return _load(body.model, body.keep_alive, answer_format.empty("load"), answer_format.empty("unload"))
    model_request = ModelRequest(
        name=body.model,
        param="model",
        task_rule=dispatch.TEXT,
        upstream=partial(generate_request, body),
        answer_format=answer_format,
        stream=body.is_streamed,
        keep_alive_s=body.keep_alive,
    )
    return forward_to_model(model_request, _resolve)


@blueprint.post("/embed")
def embed() -> Response:
    """Make vectors of texts."""
    body = read_body(EmbedBody, raw_body())
    return _embed(body, EmbedFormat(body.model), {"model": body.model, "embeddings": []})


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """Make a vector of one text, as older clients ask for it."""
    old_body = read_body(EmbeddingsBody, raw_body())
    body = EmbedBody(model=old_body.model, input=old_body.prompt, keep_alive=old_body.keep_alive)
    return _embed(body, EmbeddingsFormat(), {"embedding": []})


@blueprint.post("/pull")
def pull() -> Response:
    """Fetch all that a model's start needs."""
    body = read_body(PullBody, raw_body())
    spec = pulls.resolve_for_pull(_resolve, body.model)
    if body.stream is not False:
        digest = catalogue.digest(spec, services().facts(spec.id))
        return pulls.pull_streamed(services(), spec.id, StatusLines(digest))
    pulls.pull(services(), spec.id, wait=True)
    return jsonify(SUCCESS)


def _resolve(name: str) -> ModelSpec:
    """Return the model of this name. Clients add the tag `latest` to names without one."""
    registry = services().registry
    try:
        with suppress(ModelNotFound):
            return registry.resolve(name)
        return registry.resolve(name.removesuffix(":latest"))
    except ModelNotFound as exc:
        message = f"model '{name}' not found; known models: {', '.join(exc.details['known'])}"
        raise ModelNotFound(message, param="model", details=exc.details) from None


def _embed(body: EmbedBody, answer_format: AnswerFormat, no_vectors: dict[str, Any]) -> Response:
    if not body.input:
        return _load(body.model, body.keep_alive, no_vectors, no_vectors)
    model_request = ModelRequest(
        name=body.model,
        param="model",
        task_rule=dispatch.VECTORS,
        upstream=partial(embed_request, body),
        answer_format=answer_format,
        keep_alive_s=body.keep_alive,
    )
    return forward_to_model(model_request, _resolve)


def _load(
    name: str, keep_alive_s: float | None, load_answer: dict[str, Any], unload_answer: dict[str, Any]
) -> Response:
    """Start the model, as a request without input does; with a `keep_alive` of 0 stop it once no request uses it."""
    if keep_alive_s == 0:
        with_model(_resolve, name, _unload)
        return jsonify(unload_answer)
    with_model(_resolve, name, partial(start_model, wait=True, keep_alive_s=keep_alive_s))
    return jsonify(load_answer)


def _unload(spec: ModelSpec, _: float | None) -> None:
    with services().proxy.place(), services().leaving_client(request.environ):
        services().supervisor.expire(spec.id)
