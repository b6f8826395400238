"""Run in the transformers image: convert tiny random GGUF models; print for each its refusal, or its first tokens."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from runner.convert.to_transformers import convert
from runner.engine import EngineError, GenerationRequest, PartialSampling
from runner.engines.job import Job
from runner.engines.transformers.engine import TransformersEngine
from runner.settings import RunnerSettings
from tests.docker.tiny_ggufs import MODELS, Keys, write_model


def outcome(parameters: Keys) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.gguf"), Path(folder, "target")
        target.mkdir()
        write_model(source, **parameters)
        try:
            convert(source, target, dtype="float32", on_progress=lambda _: None)
        except EngineError as error:
            return f"{type(error).__name__}: {error}"
        engine = TransformersEngine(RunnerSettings(model_id="m", model_path=target, task="completion"))
        engine.load(lambda _phase: None)
        sampling = PartialSampling(max_tokens=4, temperature=0.0)
        request = engine.encode(GenerationRequest(prompt="ab ab", raw=True, sampling=sampling))
        job = Job(request)
        engine.submit(request, job)
        job.whole_text()
        engine.close()
        return f"tokens {[*request.prompt_tokens]} {job.completion_tokens}"


if __name__ == "__main__":
    print(json.dumps({name: outcome(parameters) for name, parameters in MODELS.items()}))
