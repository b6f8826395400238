"""What an engine is to the server: the protocol, and the values that pass through it.

An engine knows tokens and text, not HTTP. All of this imports without the engines' libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

FinishReason = Literal["stop", "length", "cancelled"]
# In which form a model was trained to write calls of tools.
ToolSyntax = Literal["hermes", "llama", "mistral"]
Phase = Literal["importing", "loading", "warming"]


@dataclass(frozen=True)
class Grammar:
    """EBNF whose texts come from the rule `root`; `counted` characters of strings make it dear to compile."""

    text: str
    counted: int = 0


class EngineError(Exception):
    """A failure that a person can act on; its text is one sentence, fit to be shown."""


class PromptInvalid(EngineError):
    """The client's prompt cannot be used: too long, empty, or refused by the model's chat template."""

    def __init__(self, message: str, *, code: str = "invalid_body", param: str = "prompt") -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a tool in an earlier turn."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """What the model called, in a turn of its own."""
    tool_call_id: str | None = None
    """The call that a tool's turn answers."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """Something that the model may call; `parameters` is the JSON schema of the arguments."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What an answer is held to."""

    schema: Any = None
    """The JSON schema of the answer; None for free text."""
    tools: tuple[Tool, ...] = ()
    """What the model may call."""
    must_call: tuple[str, ...] = ()
    """Names of tools, one of which it has to call."""
    parallel_calls: bool = False
    """Whether it may call several where it is held to calls."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose tokens. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 switch those filters off."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class PartialSampling:
    """Parameters that someone asked for; None means "not said, ask the next one"."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What a client wants: exactly one of `prompt` and `messages`. `raw` bypasses the chat template."""

    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    raw: bool = False
    sampling: PartialSampling = PartialSampling()
    constraints: Constraints = field(default_factory=Constraints)
    grammar: Grammar | None = None
    """What the constraints come to; for engines whose capabilities have `grammars`."""


@dataclass(frozen=True, kw_only=True)
class EncodedRequest:
    """A request in tokens, checked against the context; `sampling.max_tokens` fits what the prompt leaves."""

    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    grammar: Grammar | None = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some text, and the number of tokens generated so far. The last piece alone has a `finish_reason`."""

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a loaded engine is: known after `load`."""

    engine: str
    device: str
    dtype: str
    context_length: int
    concurrency: int
    """How many requests advance at once; the others wait their turn."""
    dimensions: int | None = None
    """The length of an embedder's vectors."""
    grammars: bool = False
    """Whether it holds an answer to a request's grammar."""
    tool_syntax: ToolSyntax | None = None
    """How the model writes calls of tools; None where its chat template knows none."""


class Sink(Protocol):
    """Who wants a generation. The engine's thread calls it, which computes for others too: nothing here may block."""

    def begin(self) -> None:
        """The request's turn has come."""

    def put(self, piece: Piece) -> None:
        """Some text, or with a `finish_reason` the end. What this raises costs this request alone."""

    def fail(self, error: EngineError) -> None:
        """The end: no more pieces come. Raises nothing."""

    def is_cancelled(self) -> bool:
        """Asked before each token: whether nobody wants the rest."""


class Lifecycle(Protocol):
    """How a model comes and goes, whatever it makes. `load` comes first."""

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        """Returns when the model is in memory. Blocks for seconds; raises EngineError with one sentence."""

    def capabilities(self) -> Capabilities: ...

    def failure(self) -> str | None:
        """Why the engine can serve no more; None while it can. Quick, callable by any thread."""

    def close(self) -> None:
        """Frees the model; nothing may be called afterwards."""


class Engine(Lifecycle, Protocol):
    """A model that generates text. `encode` and `submit` may be called by any thread."""

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """The request in tokens; quick, but for a grammar that is new. Raises PromptInvalid."""

    def submit(self, request: EncodedRequest, sink: Sink) -> None:
        """Begins a generation, at once or when its turn comes, and returns. Raises EngineError when it cannot.

        `sink` gets its pieces in order from a thread of the engine's, and one end: a last piece (with the reason
        `cancelled` where the sink said so) or a failure.
        """

    def cache_use(self) -> float | None:
        """The share of the KV cache that requests hold, from 0 to 1; None where it is not known."""


@runtime_checkable
class Embedder(Lifecycle, Protocol):
    """A model that makes vectors. `tokenize` may be called by any thread, `embed` by `concurrency` threads."""

    def tokenize(self, inputs: Sequence[str | tuple[int, ...]], *, truncate: bool) -> list[tuple[int, ...]]:
        """Each text in tokens; tokens are taken as they are. `truncate` cuts what is longer than the context.

        Raises PromptInvalid for a token that the model does not have.
        """

    def embed(self, batch: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """One vector for each, in one computation, padded to the longest: the caller bounds the batch."""
