"""Run in the openvino image: the memory of an engine after its load, after long requests, and after a rest."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.engine import EngineError, GenerationRequest, PartialSampling, Phase, Piece
from runner.engines.memory import anonymous_bytes
from runner.engines.openvino.engine import OpenVinoEngine
from runner.settings import RunnerSettings

MODEL = Path("/prepared/weights")
QUESTION = "What is the capital of France?"
LONG = 20
LONG_WORDS = 250
REST_S = 2.0
DEADLINE_S = 60.0


class Engine(OpenVinoEngine):
    """Counts its loads and signals each."""

    def __init__(self, settings: RunnerSettings) -> None:
        super().__init__(settings, reload_after_s=REST_S)
        self.loads = 0
        self.loading = threading.Semaphore(0)

    def _load(self, on_phase: Callable[[Phase], None]) -> None:
        self.loads += 1
        self.loading.release()
        super()._load(on_phase)


class Sink:
    """Collects an answer and waits for its end."""

    def __init__(self) -> None:
        self.text = ""
        self.error: EngineError | None = None
        self.is_over = threading.Event()

    def begin(self) -> None: ...

    def put(self, piece: Piece) -> None:
        self.text += piece.text
        if piece.finish_reason is not None:
            self.is_over.set()

    def fail(self, error: EngineError) -> None:
        self.error = error
        self.is_over.set()

    def is_cancelled(self) -> bool:
        return False

    def whole(self) -> str:
        assert self.is_over.wait(DEADLINE_S), "the answer did not end"
        assert self.error is None, self.error
        return self.text


def ask(engine: Engine, prompt: str) -> Sink:
    sampling = PartialSampling(max_tokens=16, temperature=0)
    sink = Sink()
    engine.submit(engine.encode(GenerationRequest(prompt=prompt, sampling=sampling)), sink)
    return sink


def measure() -> dict[str, Any]:
    """Return the bytes in the order of time, and the answers before a rest, during it and after it."""
    settings = RunnerSettings(model_id="model", model_path=MODEL, cpus=2, max_concurrency=LONG, context_length=2048)
    engine = Engine(settings)
    engine.load(lambda _phase: None)
    assert engine.loading.acquire(timeout=0)
    answers = [ask(engine, QUESTION).whole()]
    loaded_bytes = anonymous_bytes()
    time.sleep(2 * REST_S)
    loads_unused = engine.loads
    for sink in [ask(engine, f"{number} " + "word and " * LONG_WORDS) for number in range(LONG)]:
        sink.whole()
    used_bytes = anonymous_bytes()
    assert engine.loading.acquire(timeout=DEADLINE_S), "the engine never rested"
    failure_meanwhile = engine.failure()
    answers.append(ask(engine, QUESTION).whole())
    answers.append(ask(engine, QUESTION).whole())
    rested_bytes = anonymous_bytes()
    loads = engine.loads
    engine.close()
    return {
        "loaded_bytes": loaded_bytes, "used_bytes": used_bytes, "rested_bytes": rested_bytes, "answers": answers,
        "loads_unused": loads_unused, "loads": loads, "failure": failure_meanwhile,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure()))
