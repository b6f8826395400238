"""The grammars that a library knows: each compiled once, and never while a request joins."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from runner.engine import EncodedRequest, EngineError, Grammar, Piece, PieceReceiver, PromptInvalid, Sampling
from runner.engines.job import Job
from runner.engines.openvino.grammar_cache import BYTES_PER_COUNTED_CHARACTER, FULL_BYTES, GrammarCache, GrammarRefused
from runner.engines.openvino.grammar_compiler import compile_error

DEADLINE_S = 20


class Compiler:
    """Records its grammars; each waits for a permit if there is a gate."""

    def __init__(self, gate: threading.Semaphore | None = None) -> None:
        self.gate = gate
        self.starts = threading.Semaphore(0)
        self.texts: list[str] = []

    def __call__(self, text: str) -> None:
        self.starts.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=DEADLINE_S)
        if "broken" in text:
            raise GrammarRefused("no such rule")
        if "unlucky" in text:
            raise EngineError("the compiler has no memory")
        self.texts.append(text)


def in_threads(*targets: object) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    return threads


def have_ended(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(DEADLINE_S)
    return not any(thread.is_alive() for thread in threads)


def test_each_grammar_is_compiled_once() -> None:
    """Many simultaneous requests with one grammar cost one compilation."""
    compiler = Compiler(threading.Semaphore(0))
    grammars = GrammarCache(compiler)
    threads = in_threads(*[lambda: grammars.compile(Grammar("a"))] * 5)
    assert compiler.starts.acquire(timeout=DEADLINE_S)
    assert compiler.gate is not None
    compiler.gate.release(5)
    assert have_ended(threads)
    grammars.compile(Grammar("b"))
    assert ["a", "b"] == compiler.texts


class Loop:
    """Takes requests and does nothing with them; the test acts for it."""

    def __init__(self) -> None:
        self.receivers: list[PieceReceiver] = []

    def submit(self, request: EncodedRequest, receiver: PieceReceiver) -> None:
        self.receivers.append(receiver)


def request(text: str) -> EncodedRequest:
    sampling = Sampling(max_tokens=1, temperature=0, top_p=1, top_k=0)
    return EncodedRequest(prompt_tokens=(1,), sampling=sampling, grammar=Grammar(text))


PIECE = Piece(text="x", completion_tokens=1)
END: list[Callable[[PieceReceiver], None]] = [
    lambda receiver: receiver.put(PIECE),
    lambda receiver: receiver.fail(EngineError("no room")),
]


@pytest.mark.parametrize("first", END, ids=["token", "failure"])
def test_nothing_is_compiled_while_a_request_joins(first: Callable[[PieceReceiver], None]) -> None:
    """A new grammar waits until all joining requests have their first token, or will not get one."""
    compiler, loop = Compiler(), Loop()
    grammars = GrammarCache(compiler)
    for _ in range(2):
        grammars.submit(request("a"), Job(request("a")), loop.submit)
    assert compiler.starts.acquire(timeout=DEADLINE_S)
    threads = in_threads(lambda: grammars.compile(Grammar("b")))
    first(loop.receivers[0])
    assert not compiler.starts.acquire(timeout=0.05)
    first(loop.receivers[1])
    assert compiler.starts.acquire(timeout=DEADLINE_S)
    assert have_ended(threads)


def test_no_request_joins_during_a_compilation() -> None:
    """A request waits for a running compilation even if its own grammar is known."""
    compiler, loop = Compiler(threading.Semaphore(1)), Loop()
    grammars = GrammarCache(compiler)
    grammars.compile(Grammar("a"))
    assert compiler.starts.acquire(timeout=DEADLINE_S)
    threads = in_threads(lambda: grammars.compile(Grammar("b")))
    assert compiler.starts.acquire(timeout=DEADLINE_S)
    threads += in_threads(lambda: grammars.submit(request("a"), Job(request("a")), loop.submit))
    threads[1].join(0.05)
    assert [] == loop.receivers
    assert compiler.gate is not None
    compiler.gate.release()
    assert have_ended(threads)
    assert 1 == len(loop.receivers)


def test_a_joining_request_gets_its_own_pieces() -> None:
    """Pieces, the end and a cancellation pass between the request's receiver and the batch."""
    loop, job = Loop(), Job(request("a"))
    GrammarCache(Compiler()).submit(request("a"), job, loop.submit)
    (receiver,) = loop.receivers
    receiver.begin()
    receiver.put(PIECE)
    receiver.put(Piece(text="y", completion_tokens=2, finish_reason="stop"))
    assert ("xy", "stop") == (job.whole_text(), job.finish_reason)
    assert job.queue_s is not None
    leaver = Job(request("a"))
    GrammarCache(Compiler()).submit(request("a"), leaver, loop.submit)
    leaver.cancel()
    assert loop.receivers[1].is_cancelled()


def test_a_refused_request_does_not_block_compilations() -> None:
    """A request that the engine refuses at once does not count as joining."""

    def refuse(_request: EncodedRequest, _receiver: PieceReceiver) -> None:
        raise EngineError("closed")

    grammars = GrammarCache(Compiler())
    with pytest.raises(EngineError, match="closed"):
        grammars.submit(request("a"), Job(request("a")), refuse)
    assert have_ended(in_threads(lambda: grammars.compile(Grammar("b"))))


def test_a_refused_grammar_is_the_clients_fault() -> None:
    """The refusal has the library's reason; the next grammar is compiled."""
    compiler = Compiler()
    grammars = GrammarCache(compiler)
    for _ in range(2):
        with pytest.raises(PromptInvalid, match="cannot compile the grammar of this request: no such rule") as excinfo:
            grammars.compile(Grammar("broken"))
        assert ("invalid_schema", "response_format") == (excinfo.value.code, excinfo.value.param)
    grammars.compile(Grammar("good"))
    assert ["good"] == compiler.texts


def test_a_compiler_that_fails_is_not_the_clients_fault() -> None:
    """A failure on our side is not a refusal of the request, and the next attempt compiles again."""
    compiler = Compiler()
    grammars = GrammarCache(compiler)
    for tries in (1, 2):
        with pytest.raises(EngineError, match="no memory") as excinfo:
            grammars.compile(Grammar("unlucky"))
        assert not isinstance(excinfo.value, PromptInvalid)
        assert compiler.starts.acquire(timeout=0), tries


XGRAMMAR = "[00:26:28] /build/_deps/xgrammar-src/cpp/grammar_parser.cc:552: EBNF parser error at line 1, column 10: "
FILE = (
    "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'path' failed:\nCould not open the file: xgrammar.xml\n"
)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError(XGRAMMAR + 'Rule "nosuch" is not defined\n'), GrammarRefused, 'Rule "nosuch" is not defined'),
        (RuntimeError(FILE), EngineError, "RuntimeError: Exception from"),
        (PermissionError("setpriority"), EngineError, "PermissionError: setpriority"),
    ],
)
def test_only_the_grammar_reader_refuses_grammars(error: Exception, kind: type[Exception], words: str) -> None:
    """An error from the library's grammar reader is the grammar's fault; any other is the engine's, in full."""
    result = compile_error(error)
    assert type(result) is kind
    assert words in str(result)
    assert kind is EngineError or words == str(result)


def test_grammars_fill_a_bounded_memory() -> None:
    """Compiled and failed grammars count until there is no more room."""
    grammars = GrammarCache(Compiler())
    assert not grammars.is_full()
    for number in range(FULL_BYTES // (100 * BYTES_PER_COUNTED_CHARACTER)):
        grammars.compile(Grammar(f"{number}", counted_characters=100))
        grammars.compile(Grammar(f"{number}", counted_characters=100))
    assert not grammars.is_full()
    with pytest.raises(PromptInvalid):
        grammars.compile(Grammar("broken", counted_characters=100))
    assert grammars.is_full()
