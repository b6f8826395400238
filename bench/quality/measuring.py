"""Runs the parts of the measurement in the runner's images, without network, and combines their figures."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.composition import compose_deployment, read_registry
from controller.deployment.engine_templates import read_engines
from controller.deployment.preparation import Preparation
from controller.docker.service import DockerService
from controller.registry import DeployedModels
from controller.settings import ROOT, Settings
from controller.sources import SourceStore

TEXT = Path(__file__).with_name("text.txt")
MAX_TOKENS = 16
DEADLINE_S = 900
OPENVINO_IMAGE, TRANSFORMERS_IMAGE = "orchestrar-runner:openvino", "orchestrar-runner:latest"


@dataclass(frozen=True, kw_only=True)
class PreparedModel:
    """A GGUF file, and the volume with what the openvino engine loads."""

    gguf: Path
    volume: str


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How the engine compares. `perplexity` is a ratio to that of the dequantised source in float32."""

    alone: int
    together: int
    same_prompts: int
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`perplexity` is the source's; the others are ratios to it: of the engine's weights in transformers, and of what
    the library's own GGUF reader makes."""

    prompts: int
    text_tokens: int
    same_text_tokens: bool
    perplexity: float
    engine_weights: float
    library_reader: float | None
    engine: Figures


def prepared_model(settings: Settings, model_id: str) -> PreparedModel:
    """Return the model, downloaded and prepared if necessary. Raises OrchestrarError."""
    spec = read_registry(settings).resolve(model_id)
    docker = DockerService(project=settings.project, compose_dir=settings.compose_dir)
    engines = read_engines(settings.templates_dir)
    deployment = compose_deployment(settings, DeployedModels(read_registry(settings)), docker, engines)
    deployment.write()
    deployment.prepare(spec.id, lambda _progress: None, lambda: False)
    store = SourceStore(settings.data_dir / "sources")
    preparation = Preparation(store=store, docker=docker, engines=engines, facts_dir=settings.data_dir / "prepared")
    source = preparation.find_source(spec)
    volume = preparation.volume(spec, source)
    assert source is not None
    assert volume is not None
    gguf = source.path if source.path.is_file() else next(source.path.glob("*.gguf"))
    return PreparedModel(gguf=gguf, volume=volume)


def compare(model: PreparedModel, prompts: Sequence[str], *, with_library_reader: bool = False) -> Comparison:
    """Compare the engine with `model.generate` on the same weights, and perplexities with the source's."""
    task = {
        "prompts": prompts,
        "text": TEXT.read_text(encoding="utf-8"),
        "max_tokens": MAX_TOKENS,
    }
    with _volume() as weights:
        _run(OPENVINO_IMAGE, "weights", model, weights, {})
        expected = _run(TRANSFORMERS_IMAGE, "reference", model, weights, task)
        engine = _run(OPENVINO_IMAGE, "answers", model, weights, task)
        text = {"text": expected["text"]}
        library = _run(OPENVINO_IMAGE, "library_reader", model, weights, text) if with_library_reader else None
    source = expected["perplexity"]
    return Comparison(
        prompts=len(prompts),
        text_tokens=len(expected["text"]),
        same_text_tokens=engine["text"] == expected["text"],
        perplexity=source,
        engine_weights=expected["perplexity_of_engine_weights"] / source,
        library_reader=library and library / source,
        engine=_figures(expected, engine),
    )


def _figures(expected: dict[str, Any], engine: dict[str, Any]) -> Figures:
    return Figures(
        alone=_equal(expected["answers"], engine["alone"]),
        together=_equal(expected["answers"], engine["together"]),
        same_prompts=_equal(expected["prompts"], engine["prompts"]),
        perplexity=engine["perplexity"] / expected["perplexity"],
    )


def _equal(expected: list[list[int]], actual: list[list[int]]) -> int:
    return sum(one == other for one, other in zip(expected, actual, strict=True))


def _run(image: str, part: str, model: PreparedModel, weights: str, task: dict[str, Any]) -> Any:
    # As root, which may read any folder; it has no network, and nothing of the host to write to.
    name = f"orchestrar-quality-{uuid.uuid4().hex[:8]}"
    run = (
        "docker",
        "run",
        "--rm",
        "--interactive",
        "--network=none",
        "--user=0",
        "--env=OMP_NUM_THREADS=1",
        f"--name={name}",
    )
    mounts = (
        f"{ROOT / 'bench'}:/opt/orchestrar/bench:ro",
        f"{model.gguf.parent}:/source:ro",
        f"{model.volume}:/prepared:ro",
        f"{weights}:/weights",
    )
    volumes = [f"--volume={mount}" for mount in mounts]
    command = [*run, *volumes, image, "python", "-m", f"bench.quality.inside.{part}"]
    try:
        process = subprocess.run(
            command, input=json.dumps(task), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    finally:
        # The container outlives a client that is killed at the deadline.
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=60, check=False)
    if process.returncode:
        raise RuntimeError(f"{part} failed in {image}: {process.stderr}")
    lines = process.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


@contextmanager
def _volume() -> Iterator[str]:
    name = f"orchestrar-quality-{uuid.uuid4().hex[:8]}"
    subprocess.run(["docker", "volume", "create", name], check=True, capture_output=True, timeout=60)
    try:
        yield name
    finally:
        subprocess.run(["docker", "volume", "rm", "-f", name], check=True, capture_output=True, timeout=60)
