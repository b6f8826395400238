"""The native REST API."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from controller import __version__
from controller.api import pulls as pulling
from controller.api.bodies import InferenceBody, ModelBody, PullBody, RunBody, read_body
from controller.api.body import raw_body
from controller.api.dispatch import by_name
from controller.api.inference import ask
from controller.api.services import services
from controller.api.tasks import CHAT, TEXT, require
from controller.api.views import model_row, plan_body, pulled, seconds, status_row
from controller.errors import BodyInvalid
from controller.registry import ModelSpec
from controller.supervisor import ModelView, State
from controller.supervisor.metrics import CONTENT_TYPE

blueprint = Blueprint("native", __name__)


@blueprint.get("/")
def index() -> Response:
    """What there is."""
    rules = [rule for rule in current_app.url_map.iter_rules() if rule.endpoint != "static"]
    routes = sorted(
        f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    )
    return jsonify({"name": "orchestrar", "version": __version__, "routes": routes})


@blueprint.get("/health")
def health() -> Response:
    """Liveness of the controller, and whether Docker answers; never waits for Docker."""
    docker = services().docker_health.report()
    config = _config()
    status = "ok" if docker["ok"] and config["ok"] else "degraded"
    return jsonify({"status": status, "docker": docker, "config": config, "version": __version__})


def _config() -> dict[str, Any]:
    """Whether models.yaml as it is now is in force, and what keeps it from that."""
    problems = services().reloader.problems
    return {"ok": not problems, "problems": list(problems)}


@blueprint.get("/models")
def models() -> Response:
    """The registry, with each model's state."""
    rows = [model_row(view) for view in services().supervisor.snapshot()]
    return jsonify({"models": rows, "config": _config()})


@blueprint.post("/reload")
def reload() -> Response:
    """Work by models.yaml as it is now, or, with `dry_run=1`, tell what that would change."""
    dry_run = request.args.get("dry_run", "").lower() in ("1", "true", "yes")
    with services().proxy.kept_place():
        changes = services().reloader.reload(dry_run=dry_run)
    return jsonify({"dry_run": dry_run, **asdict(changes)})


@blueprint.get("/status")
def status() -> Response:
    """What runs now, and what it uses."""
    engines = services().engines
    rows = [status_row(view, engines[view.spec.engine]) for view in services().supervisor.snapshot()]
    used_bytes = sum(row["memory_bytes"] or 0 for row in rows)
    return jsonify({"models": rows, "memory": {"used_bytes": used_bytes}})


@blueprint.get("/metrics")
def metrics() -> Response:
    """What is counted, for Prometheus."""
    return Response(services().supervisor.metrics.text(), content_type=CONTENT_TYPE)


@blueprint.get("/plan")
def plan() -> Response:
    """What a start of a model would come to now: what it needs, what there is, and which models would go for it."""
    name = request.args.get("model_id", "")
    if not name:
        raise BodyInvalid("say which model: GET /plan?model_id=…", param="model_id")
    spec = services().registry.resolve(name)
    with services().proxy.kept_place():
        return jsonify(plan_body(services().supervisor.plan(spec.id)))


@blueprint.post("/run")
def run() -> tuple[Response, int]:
    """Start a model; waits until it is ready unless told not to."""
    body = read_body(RunBody, raw_body())
    with services().proxy.place(), services().leaving_client(request.environ) as token:

        def started(spec: ModelSpec, left_s: float | None) -> ModelView:
            return services().supervisor.run(spec.id, wait=body.wait, max_wait_s=left_s, token=token)

        view = by_name(services().registry.resolve, body.model_id, started)
    answer = {
        "model_id": view.spec.id,
        "state": view.state.value,
        "port": view.port,
        "url": f"http://127.0.0.1:{view.port}",
    }
    return jsonify({**answer, "start_s": seconds(view.start_s)}), 200 if view.state is State.READY else 202


@blueprint.post("/stop")
def stop() -> Response:
    """Drain and stop a model; it starts again with the next request."""
    body = read_body(ModelBody, raw_body())
    spec = services().registry.resolve(body.model_id)
    with services().proxy.kept_place():
        services().supervisor.stop(spec.id)
    return jsonify({"model_id": spec.id, "state": State.STOPPED.value})


@blueprint.post("/pull")
def pull() -> Response | tuple[Response, int]:
    """Make present all that a model's start needs, and start nothing."""
    body = read_body(PullBody, raw_body())
    spec = pulling.resolve_for_pull(services().registry.resolve, body.model_id)
    if body.stream:
        return pulling.pull_streamed(services(), spec.id, pulling.NativeEvents())
    view, is_over = pulling.pull(services(), spec.id, wait=body.wait)
    return jsonify(pulled(view)), 200 if is_over else 202


@blueprint.delete("/models/<name>/files")
def delete_files(name: str) -> Response:
    """Remove a stopped model's downloads and prepared volumes; the next request makes them anew."""
    spec = services().registry.resolve(name)
    with services().proxy.kept_place():
        return jsonify({"model_id": spec.id, "freed_bytes": services().supervisor.delete_files(spec.id)})


@blueprint.post("/inference")
def inference() -> Response:
    """Ask a model, started first where needed."""
    body = read_body(InferenceBody, raw_body())

    def asked(spec: ModelSpec, left_s: float | None) -> Response:
        require(TEXT if body.messages is None else CHAT, spec, body.model_id, param="model_id")
        return ask(services(), spec, body, left_s)

    return by_name(services().registry.resolve, body.model_id, asked)
