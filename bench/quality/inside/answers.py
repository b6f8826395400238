"""In the openvino image: the engine's own greedy tokens, alone and together, and its perplexity."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.quality.inside.perplexity import perplexity
from runner.engine import EncodedRequest, EngineError, FinishReason, GenerationRequest, PartialSampling, Piece
from runner.engines.openvino.engine import MODEL_FILE, OpenVinoEngine
from runner.engines.openvino.precision import arithmetic
from runner.engines.token_text import TokenText
from runner.settings import RunnerSettings

MODEL = Path("/prepared/weights")
THREADS = 2


class _KeptText(TokenText):
    """Keeps the tokens, because pieces have only their number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokens: list[int] = []

    def feed(self, tokens: Iterable[int], reason: FinishReason | None) -> Piece | None:
        new = list(tokens)
        self.tokens += new
        return super().feed(new, reason)


class _Engine(OpenVinoEngine):
    def __init__(self, settings: RunnerSettings) -> None:
        super().__init__(settings)
        self.texts: list[_KeptText] = []

    def _text_of(self, request: EncodedRequest) -> TokenText:
        tokenizer = self._require(self._tokenizer)
        text = _KeptText(tokenizer.detokenizer(), stop=request.sampling.stop, eos=tokenizer.ends)
        self.texts.append(text)
        return text


class _Sink:
    def __init__(self) -> None:
        self.error: EngineError | None = None
        self.is_over = threading.Event()

    def begin(self) -> None: ...

    def put(self, piece: Piece) -> None:
        if piece.finish_reason is not None:
            self.is_over.set()

    def fail(self, error: EngineError) -> None:
        self.error = error
        self.is_over.set()

    def is_cancelled(self) -> bool:
        return False


def generate(task: dict[str, Any], *, together: bool) -> dict[str, Any]:
    """Return the tokens of prompts and answers, by an engine whose cache has none of the prompts."""
    settings = RunnerSettings(model_id="model", model_path=MODEL, cpus=THREADS, max_concurrency=32)
    engine = _Engine(settings)
    engine.load(lambda _phase: None)
    sampling = PartialSampling(max_tokens=task["max_tokens"], temperature=0)
    requests = [engine.encode(GenerationRequest(prompt=prompt, sampling=sampling)) for prompt in task["prompts"]]
    sinks = [_Sink() for _ in requests]
    for request, sink in zip(requests, sinks, strict=True):
        engine.submit(request, sink)
        if not together:
            sink.is_over.wait()
    for sink in sinks:
        sink.is_over.wait()
        assert sink.error is None, sink.error
    text = engine.encode(GenerationRequest(prompt=task["text"], raw=True)).prompt_tokens
    engine.close()
    prompts = [request.prompt_tokens for request in requests]
    return {"text": text, "prompts": prompts, "answers": [answer.tokens for answer in engine.texts]}


def measure(task: dict[str, Any]) -> dict[str, Any]:
    alone = generate(task, together=False)
    together = generate(task, together=True)
    properties = {"INFERENCE_NUM_THREADS": THREADS, **arithmetic("auto", has_own_products=True).properties}
    return {
        "text": alone["text"],
        "prompts": alone["prompts"],
        "alone": alone["answers"],
        "together": together["answers"],
        "perplexity": perplexity(MODEL / MODEL_FILE, list(alone["text"]), properties),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
