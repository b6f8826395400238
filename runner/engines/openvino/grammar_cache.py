"""The grammars that an engine's library knows: each compiled once, outside the batch, within bounded memory."""

from __future__ import annotations

from collections.abc import Callable

from runner.engine import EncodedRequest, EngineError, Grammar, Piece, PieceReceiver, PromptInvalid
from runner.engines.memory import MIB
from runner.engines.openvino.fair_lock import FairLock

# Measured with xgrammar and the 49,152 tokens of SmolLM2-135M: 50 to 120 bytes for each character of a grammar's text,
# and 50 kB for each character that it counts.
BYTES_PER_CHARACTER = 120
BYTES_PER_COUNTED_CHARACTER = 50_000
FULL_BYTES = 64 * MIB

Submit = Callable[[EncodedRequest, PieceReceiver], None]


class GrammarRefused(Exception):
    """The library refuses this grammar; the text is the library's reason."""


class GrammarCache:
    """Thread-safe. `compile_text` makes the library compile a grammar, and keep it.

    It raises GrammarRefused if the request is at fault, and EngineError if not.
    """

    def __init__(self, compile_text: Callable[[str], None]) -> None:
        self._compile_text = compile_text
        self._texts: set[str] = set()
        self._bytes = 0
        self._lock = FairLock()

    def is_full(self) -> bool:
        """Tell whether the grammars take as much memory as they may."""
        return self._bytes >= FULL_BYTES

    def compile(self, grammar: Grammar) -> None:
        """Compile a grammar unless that was done before. Blocks for milliseconds, or seconds for a costly grammar.

        Raises PromptInvalid if the library refuses the grammar, EngineError if its compiler fails.
        """
        if grammar.text in self._texts:
            return
        with self._lock.exclusive():
            if grammar.text in self._texts:
                return
            # Counted even if it fails: what the library then keeps is unknown.
            self._bytes += BYTES_PER_CHARACTER * len(grammar.text)
            self._bytes += BYTES_PER_COUNTED_CHARACTER * grammar.counted_characters
            try:
                self._compile_text(grammar.text)
            except GrammarRefused as error:
                raise PromptInvalid(
                    f"The engine cannot compile the grammar of this request: {error}.",
                    code="invalid_schema",
                    param="response_format",
                ) from None
            self._texts.add(grammar.text)

    def submit(self, request: EncodedRequest, receiver: PieceReceiver, submit: Submit) -> None:
        """Submit a request with a grammar; compile nothing until its first token. Blocks as `compile` does."""
        assert request.grammar is not None
        # Again, since the library may have been reloaded after the request was encoded.
        self.compile(request.grammar)
        self._lock.acquire_shared()
        joining = _JoiningReceiver(receiver, self._lock.release_shared)
        try:
            submit(request, joining)
        except EngineError:
            joining.end_joining()
            raise


class _JoiningReceiver:
    """Wraps a `runner.engine.PieceReceiver`. Calls `on_joined` once its request has joined the batch, or will not."""

    def __init__(self, receiver: PieceReceiver, on_joined: Callable[[], None]) -> None:
        self._receiver = receiver
        self._on_joined = on_joined
        self._is_joining = True
        self.begin = receiver.begin
        self.is_cancelled = receiver.is_cancelled

    def put(self, piece: Piece) -> None:
        self.end_joining()
        self._receiver.put(piece)

    def fail(self, error: EngineError) -> None:
        self.end_joining()
        self._receiver.fail(error)

    def end_joining(self) -> None:
        if self._is_joining:
            self._is_joining = False
            self._on_joined()
