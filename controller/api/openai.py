"""The OpenAI API. The controller reads which model is asked, and no more; the runner speaks the rest."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from controller.api.bodies import EmbeddingsBody, OpenAIBody, read_body
from controller.api.body import raw_body
from controller.api.dispatch import AsItCame, by_name, relay
from controller.api.services import services
from controller.api.tasks import CHAT, EMBEDDINGS, TEXT, Use, require
from controller.errors import ModelNotFound
from controller.registry import ModelSpec

blueprint = Blueprint("openai", __name__, url_prefix="/v1")


@blueprint.get("/models")
def models() -> Response:
    """The models that there are, running or not."""
    return jsonify({"object": "list", "data": [_model(model_id) for model_id in services().registry.models]})


@blueprint.get("/models/<name>")
def model(name: str) -> Response:
    """One model, by id or alias."""
    _resolve(name)
    return jsonify(_model(name))


@blueprint.post("/chat/completions")
def chat_completions() -> Response:
    """The next turn of a conversation."""
    return _pass_on(CHAT)


@blueprint.post("/completions")
def completions() -> Response:
    """What follows a text."""
    return _pass_on(TEXT)


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """The vectors of texts."""
    return _pass_on(EMBEDDINGS, EmbeddingsBody)


def _pass_on(use: Use, kind: type[OpenAIBody] = OpenAIBody) -> Response:
    """The request as it came, to the same path of its model's runner, which repeats the name that the client wrote."""
    raw = raw_body()
    body = read_body(kind, raw)

    def asked(spec: ModelSpec, left_s: float | None) -> Response:
        require(use, spec, body.model, param="model")
        return relay(services(), spec, request.path, raw, stream=bool(body.stream), wording=AsItCame(), left_s=left_s)

    return by_name(_resolve, body.model, asked)


def _resolve(name: str) -> ModelSpec:
    try:
        return services().registry.resolve(name)
    except ModelNotFound as exc:
        # Here the field has another name.
        raise ModelNotFound(exc.message, param="model", details=exc.details) from None


def _model(name: str) -> dict[str, Any]:
    # When a model was made is not known; clients want the key all the same.
    return {"id": name, "object": "model", "created": 0, "owned_by": "orchestrar"}
