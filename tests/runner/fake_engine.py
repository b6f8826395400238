"""Engines without a model: the test scripts their output, and a gate can hold back each word."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from runner.engine import (
    Capabilities,
    EncodedRequest,
    FinishReason,
    GenerationRequest,
    PartialSampling,
    Phase,
    Piece,
    PieceReceiver,
    PromptInvalid,
    ToolSyntax,
)
from runner.engines.sampling_defaults import resolve_sampling
from tests.runner.one_at_a_time import OneAtATime

CONTEXT_LENGTH = 100


class Gate(Protocol):
    """A semaphore or the like."""

    def acquire(self, *, timeout: float) -> bool: ...


class FakeEngine:
    """Echoes the prompt's words. `gate` lets one word through per permit; None lets all through.

    It records requests that use its `grammars` and `tool_syntax`, but does nothing about them.
    """

    def __init__(self, *, gate: Gate | None = None, load_gate: threading.Event | None = None) -> None:
        self.gate = gate
        self.load_gate = load_gate
        self.load_error: Exception | None = None
        self.fail_after: int | None = None
        self.failure_reason: str | None = None
        self.prompts: list[str] = []
        self.grammars = False
        self.tool_syntax: ToolSyntax | None = None
        self.requests: list[GenerationRequest] = []
        self.ends = threading.Semaphore(0)
        self.starts = threading.Semaphore(0)
        self.queue = OneAtATime(self.generate)

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        on_phase("importing")
        on_phase("loading")
        if self.load_gate is not None:
            self.load_gate.wait(20)
        if self.load_error is not None:
            raise self.load_error

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        text = request.prompt if request.prompt is not None else request.messages[-1].content
        tokens = tuple(text.encode())
        if len(tokens) >= CONTEXT_LENGTH:
            raise PromptInvalid(f"The prompt has {len(tokens)} tokens, but the context is {CONTEXT_LENGTH}.",
                                code="context_length_exceeded")  # fmt: skip
        self.requests.append(request)
        sampling = resolve_sampling(request.sampling, PartialSampling())
        return EncodedRequest(prompt_tokens=tokens, sampling=sampling, grammar=request.grammar)

    def submit(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        self.queue.submit(request, receiver)

    def generate(self, request: EncodedRequest, is_cancelled: Callable[[], bool]) -> Iterator[Piece]:
        text = bytes(request.prompt_tokens).decode()
        self.prompts.append(text)
        self.starts.release()
        try:
            yield from self._words(text.split(" "), request.sampling.max_tokens, is_cancelled)
        finally:
            self.ends.release()

    def _words(self, words: Sequence[str], most: int, is_cancelled: Callable[[], bool]) -> Iterator[Piece]:
        last = min(len(words), most)
        for count, word in enumerate(words[:last], start=1):
            while self.gate is not None and not self.gate.acquire(timeout=0.01):
                if is_cancelled():
                    yield Piece(text="", completion_tokens=count - 1, finish_reason="cancelled")
                    return
            if self.fail_after is not None and count > self.fail_after:
                raise RuntimeError("the fake failed")
            reason: FinishReason | None = None if count < last else ("stop" if last == len(words) else "length")
            yield Piece(text=word + " ", completion_tokens=count, finish_reason=reason)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="fake",
            device="none",
            dtype="none",
            context_length=CONTEXT_LENGTH,
            concurrency=1,
            grammars=self.grammars,
            tool_syntax=self.tool_syntax,
        )

    def failure(self) -> str | None:
        return self.failure_reason

    def cache_use(self) -> float | None:
        return None

    def close(self) -> None:
        return None


class FakeEmbedder:
    """The vector of a text is its length and its first token; a token is a byte below 200."""

    def __init__(self, *, gate: Gate | None = None) -> None:
        self.gate = gate
        self.error: Exception | None = None
        self.failure_reason: str | None = None
        self.batches: list[list[str]] = []
        self.starts = threading.Semaphore(0)

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        on_phase("loading")

    def tokenize(self, inputs: Sequence[str | tuple[int, ...]], *, truncate: bool) -> list[tuple[int, ...]]:
        texts = [tuple(one.encode()) if isinstance(one, str) else one for one in inputs]
        if any(token >= 200 for tokens in texts for token in tokens):
            raise PromptInvalid("This model has no token 200.", param="input")
        return [tokens[:CONTEXT_LENGTH] if truncate else tokens for tokens in texts]

    def embed(self, batch: Sequence[tuple[int, ...]]) -> list[list[float]]:
        self.batches.append([bytes(tokens).decode() for tokens in batch])
        self.starts.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=20), "the test forgot this batch"
        if self.error is not None:
            raise self.error
        return [[float(len(tokens)), tokens[0] / 256] for tokens in batch]

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="fake", device="none", dtype="none", context_length=CONTEXT_LENGTH, concurrency=1, dimensions=2
        )

    def failure(self) -> str | None:
        return self.failure_reason

    def close(self) -> None:
        return None
