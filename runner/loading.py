"""Loads the engine in a thread of its own, and knows how far it is: what `/health` tells."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable

from runner.engine import Capabilities, Embedder, Engine, EngineError, GenerationRequest, PartialSampling, Phase
from runner.engines.job import Job

log = logging.getLogger("runner")

# Between an engine's breakdown and the process's end: the requests that it met are answered in this time.
LAST_WORDS_S = 1.0


class Loader:
    """Ready only once a real token was generated, or a text embedded. Its attributes may be read by any thread."""

    def __init__(
        self,
        engine: Engine | Embedder,
        *,
        on_failure: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase: Phase = "importing"
        self.phases_s: dict[str, float] = {}
        self.load_s: float | None = None
        self.capabilities: Capabilities | None = None
        self.failure: str | None = None
        self.done = threading.Event()
        # Set when the engine has its library, or has failed.
        self.imported = threading.Event()
        self._engine = engine
        self._failing = threading.Lock()
        self._on_failure = on_failure
        self._clock = clock

    def start(self) -> None:
        """Begins to load; returns at once. `on_failure` gets one sentence if it fails, or if the engine later does."""
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def is_ready(self) -> bool:
        return self.capabilities is not None

    def _run(self) -> None:
        try:
            self._load()
        except EngineError as error:
            self._fail(str(error))
        except Exception as error:  # The thread's outermost loop; the process must say what was thrown and end.
            log.debug("load failed", exc_info=True)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.imported.set()
            self.done.set()

    def _load(self) -> None:
        started_s = self._clock()
        marks = {"importing": started_s}

        def on_phase(phase: Phase) -> None:
            marks[phase] = self._clock()
            self.phase = phase
            if phase != "importing":
                self.imported.set()

        self._engine.load(on_phase)
        on_phase("warming")
        self._warm()
        ended_s = self._clock()
        loading_s = marks.get("loading", marks["warming"])
        self.phases_s = {
            "import_s": round(loading_s - started_s, 3),
            "load_s": round(marks["warming"] - loading_s, 3),
            "first_token_s": round(ended_s - marks["warming"], 3),
        }
        self.load_s = round(ended_s - started_s, 3)
        # Last, since it is what makes `is_ready` true.
        self.capabilities = self._engine.capabilities()
        log.info("ready load_s=%s %s %s", self.load_s, self.phases_s, self.capabilities)

    def _warm(self) -> None:
        if isinstance(self._engine, Embedder):
            self._engine.embed(self._engine.tokenize(["Hello"], truncate=True))
            return
        sampling = PartialSampling(max_tokens=1, temperature=0.0)
        request = self._engine.encode(GenerationRequest(prompt="Hello", raw=True, sampling=sampling))
        job = Job(request)
        self._engine.submit(request, job)
        job.whole_text()
        if job.completion_tokens < 1:
            raise EngineError("the model generated no token")

    def fail_after_last_words(self, reason: str) -> None:
        """Ends the process soon, since the engine can serve no more; what it met is answered before."""
        with self._failing:
            if self.failure is None:
                self.failure = reason
                threading.Timer(LAST_WORDS_S, self._fail, (reason,)).start()

    def _fail(self, message: str) -> None:
        self.failure = message
        log.error("cannot serve: %s", message)
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        self._on_failure(message)
