"""Which grammars an engine's library knows: each compiled once, apart from the batch, within bounds of memory."""

from __future__ import annotations

from collections.abc import Callable

from runner.engine import EncodedRequest, EngineError, Grammar, Piece, PieceReceiver, PromptInvalid
from runner.engines.openvino.fair_lock import FairLock

# Seen with xgrammar and the 49,152 tokens of SmolLM2-135M: 50 to 120 bytes for each character of a grammar's text, and
# 50 kB for each character that it counts.
BYTES_PER_CHARACTER = 120
BYTES_PER_COUNTED_CHARACTER = 50_000
FULL_BYTES = 64 * 1024 * 1024


class GrammarRefused(Exception):
    """The library says that this grammar is none; its text is the library's reason."""


class GrammarCache:
    """Thread-safe. `compile_text` makes the library know a grammar, for good.

    It raises GrammarRefused, which is the request's fault, and EngineError, which is not.
    """

    def __init__(self, compile_text: Callable[[str], None]) -> None:
        self._compile_text = compile_text
        self._known: set[str] = set()
        self._bytes = 0
        self._lock = FairLock()

    def is_full(self) -> bool:
        """Whether those known take as much memory as they may."""
        return self._bytes >= FULL_BYTES

    def compile(self, grammar: Grammar) -> None:
        """Makes a grammar known; returns at once where it is. Blocks for milliseconds, for a dear one seconds.

        Raises PromptInvalid for a grammar that the library refuses, EngineError where its compiler fails.
        """
        if grammar.text in self._known:
            return
        with self._lock.alone():
            if grammar.text in self._known:
                return
            # Counted even if it fails: nobody knows what was kept.
            self._bytes += (
                BYTES_PER_CHARACTER * len(grammar.text) + BYTES_PER_COUNTED_CHARACTER * grammar.counted_characters
            )
            try:
                self._compile_text(grammar.text)
            except GrammarRefused as error:
                raise PromptInvalid(
                    f"The grammar of this request cannot be compiled: {error}.",
                    code="invalid_schema",
                    param="response_format",
                ) from None
            self._known.add(grammar.text)

    def submit(
        self, request: EncodedRequest, receiver: PieceReceiver, submit: Callable[[EncodedRequest, PieceReceiver], None]
    ) -> None:
        """Lets a request with a grammar join; nothing is compiled until its first token. Blocks as `compile` does."""
        assert request.grammar is not None
        # Once more: since the request was encoded, the library may have been loaded anew.
        self.compile(request.grammar)
        self._lock.share()
        joining = _Joining(receiver, self._lock.unshare)
        try:
            submit(request, joining)
        except EngineError:
            joining.leave()
            raise


class _Joining:
    """See `runner.engine.PieceReceiver`. Tells when its request has joined, or will not."""

    def __init__(self, receiver: PieceReceiver, on_joined: Callable[[], None]) -> None:
        self._receiver = receiver
        self._on_joined = on_joined
        self._is_joining = True
        self.begin = receiver.begin
        self.is_cancelled = receiver.is_cancelled

    def put(self, piece: Piece) -> None:
        self.leave()
        self._receiver.put(piece)

    def fail(self, error: EngineError) -> None:
        self.leave()
        self._receiver.fail(error)

    def leave(self) -> None:
        if self._is_joining:
            self._is_joining = False
            self._on_joined()
