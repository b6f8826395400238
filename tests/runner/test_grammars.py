"""The grammars that a library knows: each compiled once, never beside a request that joins."""

from __future__ import annotations

import threading

import pytest

from runner.engine import PromptInvalid
from runner.engines.grammars import BYTES_PER_COUNTED, FULL_BYTES, Grammars
from runner.grammar_rules import Grammar

DEADLINE_S = 20


class Compiler:
    """Takes note of what it is given; each waits for a permit if there is a gate."""

    def __init__(self, gate: threading.Semaphore | None = None) -> None:
        self.gate = gate
        self.begun = threading.Semaphore(0)
        self.compiled: list[str] = []

    def __call__(self, text: str) -> None:
        self.begun.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=DEADLINE_S)
        if "broken" in text:
            raise RuntimeError("in grammar.cc:7: line 1: no such rule")
        self.compiled.append(text)


def in_threads(*targets: object) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    return threads


def joined(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(DEADLINE_S)
    return not any(thread.is_alive() for thread in threads)


def test_each_is_compiled_once() -> None:
    """Many requests with one grammar at once cost one compilation."""
    compiler = Compiler(threading.Semaphore(0))
    grammars = Grammars(compiler)
    threads = in_threads(*[lambda: grammars.compile(Grammar("a"))] * 5)
    assert compiler.begun.acquire(timeout=DEADLINE_S)
    assert compiler.gate is not None
    compiler.gate.release(5)
    assert joined(threads)
    grammars.compile(Grammar("b"))
    assert ["a", "b"] == compiler.compiled


def test_nothing_is_compiled_while_a_request_joins() -> None:
    """A new grammar waits for those that join, and who joins waits for what is being compiled."""
    compiler = Compiler(threading.Semaphore(0))
    grammars = Grammars(compiler)
    with grammars.joining(), grammars.joining():
        threads = in_threads(lambda: grammars.compile(Grammar("a")))
        assert not compiler.begun.acquire(timeout=0.05)
    assert compiler.begun.acquire(timeout=DEADLINE_S)
    inside = threading.Event()

    def join() -> None:
        with grammars.joining():
            inside.set()

    threads += in_threads(join)
    assert not inside.wait(0.05)
    assert compiler.gate is not None
    compiler.gate.release()
    assert inside.wait(DEADLINE_S)
    assert joined(threads)


def test_a_grammar_that_fails_is_the_clients() -> None:
    """It is refused with the library's reason, without its place in the source; the next one is compiled."""
    compiler = Compiler()
    grammars = Grammars(compiler)
    for _ in range(2):
        with pytest.raises(PromptInvalid, match="compiled: no such rule") as caught:
            grammars.compile(Grammar("broken"))
        assert ("invalid_schema", "response_format") == (caught.value.code, caught.value.param)
    grammars.compile(Grammar("good"))
    assert ["good"] == compiler.compiled


def test_they_fill_a_bounded_memory() -> None:
    """What is known, and what failed, counts until there is no more room."""
    grammars = Grammars(Compiler())
    assert not grammars.is_full()
    for number in range(FULL_BYTES // (100 * BYTES_PER_COUNTED)):
        grammars.compile(Grammar(f"{number}", counted=100))
        grammars.compile(Grammar(f"{number}", counted=100))
    assert not grammars.is_full()
    with pytest.raises(PromptInvalid):
        grammars.compile(Grammar("broken", counted=100))
    assert grammars.is_full()
