"""The native REST API."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from controller import __version__
from controller.api import pulls
from controller.api.bodies import InferenceBody, ModelBody, PullBody, RunBody, raw_body, read_body
from controller.api.dispatch import (
    CHAT,
    TEXT,
    ModelRequest,
    Unchanged,
    as_json,
    forward_to_model,
    start_model,
    with_model,
)
from controller.api.paths import INFERENCE
from controller.api.services import services
from controller.api.translation.to_openai import UpstreamRequest
from controller.api.views import model_row, plan_body, pull_row, seconds, status_row
from controller.errors import BodyInvalid
from controller.proxy.forwarding import Answer, WaitTimes
from controller.supervisor import State
from controller.supervisor.metrics import CONTENT_TYPE

blueprint = Blueprint("native", __name__)


@blueprint.get("/")
def index() -> Response:
    """List the routes."""
    rules = [rule for rule in current_app.url_map.iter_rules() if rule.endpoint != "static"]
    routes = sorted(
        f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    )
    return jsonify({"name": "orchestrar", "version": __version__, "routes": routes})


@blueprint.get("/health")
def health() -> Response:
    """Show that the controller lives, and whether Docker answers; never wait for Docker."""
    docker = services().docker_health.report()
    config = _config()
    status = "ok" if docker["ok"] and config["ok"] else "degraded"
    return jsonify({"status": status, "docker": docker, "config": config, "version": __version__})


def _config() -> dict[str, Any]:
    """Tell whether models.yaml as it is now is in force, and what keeps it from that."""
    problems = services().reloader.problems
    return {"ok": not problems, "problems": list(problems)}


@blueprint.get("/models")
def models() -> Response:
    """List the models of models.yaml with their states."""
    rows = [model_row(view) for view in services().supervisor.snapshot()]
    return jsonify({"models": rows, "config": _config()})


@blueprint.post("/reload")
def reload() -> Response:
    """Apply models.yaml as it is now or, with `dry_run=1`, show what that would change."""
    dry_run = request.args.get("dry_run", "").lower() in ("1", "true", "yes")
    with services().proxy.reserved_place():
        changes = services().reloader.reload(dry_run=dry_run)
    return jsonify({"dry_run": dry_run, **asdict(changes)})


@blueprint.get("/status")
def status() -> Response:
    """Show what runs now, and what it uses."""
    engines = services().engines
    rows = [status_row(view, engines) for view in services().supervisor.snapshot()]
    used_bytes = sum(row["memory_bytes"] or 0 for row in rows)
    return jsonify({"models": rows, "memory": {"used_bytes": used_bytes}})


@blueprint.get("/metrics")
def metrics() -> Response:
    """Export the metrics for Prometheus."""
    return Response(services().supervisor.metrics.text(), content_type=CONTENT_TYPE)


@blueprint.get("/plan")
def plan() -> Response:
    """Show what a start of a model would do now: what it needs, what there is, and which models would be stopped."""
    name = request.args.get("model_id", "")
    if not name:
        raise BodyInvalid("name a model: GET /plan?model_id=…", param="model_id")
    spec = services().registry.resolve(name)
    with services().proxy.reserved_place():
        return jsonify(plan_body(services().supervisor.plan(spec.id)))


@blueprint.post("/run")
def run() -> tuple[Response, int]:
    """Start a model and, by default, wait until it is ready."""
    body = read_body(RunBody, raw_body())
    view = with_model(services().registry.resolve, body.model_id, partial(start_model, wait=body.wait))
    answer = {
        "model_id": view.spec.id,
        "state": view.state.value,
        "port": view.port,
        "url": f"http://127.0.0.1:{view.port}",
    }
    return jsonify({**answer, "start_s": seconds(view.start_s)}), 200 if view.state is State.READY else 202


@blueprint.post("/stop")
def stop() -> Response:
    """Drain and stop a model; the next request starts it again."""
    body = read_body(ModelBody, raw_body())
    spec = services().registry.resolve(body.model_id)
    with services().proxy.reserved_place():
        services().supervisor.stop(spec.id)
    return jsonify({"model_id": spec.id, "state": State.STOPPED.value})


@blueprint.post("/pull")
def pull() -> Response | tuple[Response, int]:
    """Fetch all that a model's start needs, without a start."""
    body = read_body(PullBody, raw_body())
    spec = pulls.resolve_for_pull(services().registry.resolve, body.model_id)
    if body.stream:
        return pulls.pull_streamed(services(), spec.id, pulls.NativeEvents())
    view, is_over = pulls.pull(services(), spec.id, wait=body.wait)
    return jsonify(pull_row(view)), 200 if is_over else 202


@blueprint.delete("/models/<path:name>/files")
def delete_files(name: str) -> Response:
    """Delete a stopped model's downloads and prepared volumes; the next request makes them again."""
    spec = services().registry.resolve(name)
    with services().proxy.reserved_place():
        return jsonify({"model_id": spec.id, "freed_bytes": services().supervisor.delete_files(spec.id)})


@blueprint.post("/inference")
def inference() -> Response:
    """Ask a model, which is started first if needed: one whole answer, or server-sent events."""
    body = read_body(InferenceBody, raw_body())
    model_request = ModelRequest(
        name=body.model_id,
        param="model_id",
        task_rule=TEXT if body.messages is None else CHAT,
        upstream=UpstreamRequest(path=INFERENCE, body=body.for_runner()),
        answer_format=NativeFormat(),
        stream=body.stream,
        keep_alive_s=body.keep_alive,
    )
    return forward_to_model(model_request, services().registry.resolve)


class NativeFormat(Unchanged):
    """The runner's answer; if it is whole, with the model's id and what only the controller knows of its times."""

    def whole(self, answer: Answer) -> bytes:
        body = answer.read_object()
        timings = _timings(body.get("timings"), answer.wait_times)
        return as_json({**body, "model_id": answer.model_id, "timings": timings})


def _timings(runner_timings: Any, wait_times: WaitTimes) -> dict[str, Any]:
    """Return the runner's timings from the client's point of view: the wait for the model counts in each."""
    timings = dict(runner_timings) if isinstance(runner_timings, dict) else {}
    for name in ("ttft_s", "total_s"):
        if isinstance(timings.get(name), (int, float)):
            timings[name] = round(timings[name] + wait_times.total_s, 4)
    return {"queue_s": round(wait_times.queue_s, 4), "start_s": round(wait_times.start_s, 4), **timings}
