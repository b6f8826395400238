"""The OpenAI API. The controller reads which model is asked, and no more; the rest is between client and runner."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from controller.api.bodies import EmbeddingsBody, OpenAIBody, raw_body, read_body
from controller.api.dispatch import (
    CHAT,
    TEXT,
    VECTORS,
    ModelRequest,
    TaskRule,
    Unchanged,
    forward_to_model,
)
from controller.api.services import services
from controller.api.translation.to_openai import UpstreamRequest
from controller.errors import ModelNotFound
from controller.registry import ModelSpec

blueprint = Blueprint("openai", __name__, url_prefix="/v1")


@blueprint.get("/models")
def models() -> Response:
    """List all configured models, running or not."""
    return jsonify({"object": "list", "data": [_model(model_id) for model_id in services().registry.models]})


@blueprint.get("/models/<path:name>")
def model(name: str) -> Response:
    """Show one model, by id or alias."""
    _resolve(name)
    return jsonify(_model(name))


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """Continue a conversation."""
    return _forward(CHAT)


@blueprint.post("/completions")
def completions() -> Response:
    """Continue a text."""
    return _forward(TEXT)


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """Make vectors of texts."""
    return _forward(VECTORS, EmbeddingsBody)


def _forward(task_rule: TaskRule, kind: type[OpenAIBody] = OpenAIBody) -> Response:
    """Send the request unchanged to the same path of its model's runner, which repeats the name that the client
    wrote."""
    raw = raw_body()
    body = read_body(kind, raw)
    model_request = ModelRequest(
        name=body.model,
        param="model",
        task_rule=task_rule,
        upstream=UpstreamRequest(path=request.path, body=raw),
        answer_format=Unchanged(),
        stream=bool(body.stream),
    )
    return forward_to_model(model_request, _resolve)


def _resolve(name: str) -> ModelSpec:
    try:
        return services().registry.resolve(name)
    except ModelNotFound as exc:
        # Here the field has another name.
        raise ModelNotFound(exc.message, param="model", details=exc.details) from None


def _model(name: str) -> dict[str, Any]:
    # When a model was made is unknown, but clients expect the key.
    return {"id": name, "object": "model", "created": 0, "owned_by": "orchestrar"}
