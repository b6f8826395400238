"""What the server expects of an engine: the protocols, and the values that pass through them.

An engine knows tokens and text, not HTTP. This module imports none of the engines' libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

FinishReason = Literal["stop", "length", "cancelled"]
# The form in which a model was trained to write tool calls.
ToolSyntax = Literal["hermes", "llama", "mistral"]
Phase = Literal["importing", "loading", "warming"]


@dataclass(frozen=True)
class Grammar:
    """EBNF that starts at the rule `root`; the cost of compiling it grows with `counted_characters` of its strings."""

    text: str
    counted_characters: int = 0


class EngineError(Exception):
    """A failure that a user can act on; its text is one sentence that may be shown."""


class ModelUnfit(EngineError):
    """This engine cannot serve this model exactly; another one may."""


class PromptInvalid(EngineError):
    """The client's prompt cannot be used: it is too long or empty, or the model's chat template refuses it."""

    def __init__(self, message: str, *, code: str = "invalid_body", param: str = "prompt") -> None:
        super().__init__(message)
        self.code = code
        self.param = param


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A tool call in an earlier turn."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls that the model made in this turn."""
    tool_call_id: str | None = None
    """The call that this turn of a tool answers."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that the model may call; `parameters` is the JSON schema of the arguments."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What an answer must keep to."""

    schema: Any = None
    """The JSON schema of the answer; None for free text."""
    tools: tuple[Tool, ...] = ()
    """The tools that the model may call."""
    must_call: tuple[str, ...] = ()
    """Names of tools; the model must call one of them."""
    parallel_calls: bool = False
    """Whether the model may make several calls when it must call."""


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
    """Parameters from one source; None means "not set here, use the next source"."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A client's request: exactly one of `prompt` and `messages`. `raw` bypasses the chat template."""

    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    raw: bool = False
    sampling: PartialSampling = PartialSampling()
    constraints: Constraints = field(default_factory=Constraints)
    grammar: Grammar | None = None
    """The grammar of the constraints; only for engines whose capabilities include `grammars`."""


@dataclass(frozen=True, kw_only=True)
class EncodedRequest:
    """A request in tokens that fits the context: `sampling.max_tokens` is at most the room after the prompt."""

    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    grammar: Grammar | None = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some text, and the number of tokens generated so far. Only the last piece has a `finish_reason`."""

    text: str
    completion_tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a loaded engine can do; known after `load`."""

    engine: str
    device: str
    dtype: str
    context_length: int
    concurrency: int
    """How many requests advance at once; others wait."""
    dimensions: int | None = None
    """The length of an embedder's vectors."""
    grammars: bool = False
    """Whether the engine can keep an answer to a request's grammar."""
    tool_syntax: ToolSyntax | None = None
    """How the model writes tool calls; None if its chat template supports none."""


class PieceReceiver(Protocol):
    """What gets the pieces of a generation. The engine's one thread calls it: no method may block."""

    def begin(self) -> None:
        """Note that the engine has started on the request."""

    def put(self, piece: Piece) -> None:
        """Take some text, or, with a `finish_reason`, the end. An exception raised here fails only this request."""

    def fail(self, error: EngineError) -> None:
        """Take the failure that ends the generation: no more pieces follow. Never raises."""

    def is_cancelled(self) -> bool:
        """Tell whether the client no longer wants the rest; the engine asks before each token."""


class Lifecycle(Protocol):
    """Loading and closing, for models of any kind. Call `load` first."""

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        """Load the model into memory. Blocks for seconds; raises EngineError with one sentence."""

    def capabilities(self) -> Capabilities:
        """Return what the loaded model can do."""

    def failure(self) -> str | None:
        """Tell why the engine can no longer serve; None while it can. Quick; any thread may call it."""

    def close(self) -> None:
        """Free the model; call nothing afterwards."""


class Engine(Lifecycle, Protocol):
    """A model that generates text. Any thread may call `encode` and `submit`."""

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """Return the request in tokens. Quick, except for a new grammar. Raises PromptInvalid."""

    def submit(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        """Queue a generation and return at once. Raises EngineError if the engine cannot take it.

        A thread of the engine gives `receiver` the pieces in order, then one end: a last piece (with the reason
        `cancelled` if the receiver was cancelled) or a failure.
        """

    def cache_use(self) -> float | None:
        """Return the share of the KV cache in use, from 0 to 1; None if unknown."""


@runtime_checkable
class Embedder(Lifecycle, Protocol):
    """A model that makes vectors. Any thread may call `tokenize`, and `concurrency` threads may call `embed`."""

    def tokenize(self, inputs: Sequence[str | tuple[int, ...]], *, truncate: bool) -> list[tuple[int, ...]]:
        """Return the tokens of each text; token inputs stay as they are. `truncate` cuts each to the context's length.

        Raises PromptInvalid for a token that the model does not have.
        """

    def embed(self, batch: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Return one vector for each, computed in one pass and padded to the longest: the caller bounds the batch."""
