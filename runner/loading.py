"""Loads the engine in a thread of its own, and tracks its progress for `/health`."""

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

# Between the engine's failure and the end of the process: time to answer the requests that it affects.
LAST_WORDS_S = 1.0


class Loader:
    """Ready only once the model has generated a token or embedded a text. Any thread may read its attributes."""

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
        # Set when loading has succeeded or failed.
        self.load_end = threading.Event()
        # Set when the engine has imported its library or has failed.
        self.import_end = threading.Event()
        self._engine = engine
        self._failure_lock = threading.Lock()
        self._on_failure = on_failure
        self._clock = clock

    def start(self) -> None:
        """Start loading; return at once. `on_failure` gets one sentence if loading fails, or the engine fails later."""
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def is_ready(self) -> bool:
        """Tell whether the model can serve."""
        return self.capabilities is not None

    def _run(self) -> None:
        try:
            self._load()
        except EngineError as error:
            self._fail(str(error))
        except Exception as error:  # The thread's outermost handler: the process must report the error and end.
            log.debug("could not load the model", exc_info=True)
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.import_end.set()
            self.load_end.set()

    def _load(self) -> None:
        started_s = self._clock()
        marks = {"importing": started_s}

        def on_phase(phase: Phase) -> None:
            marks[phase] = self._clock()
            self.phase = phase
            if phase != "importing":
                self.import_end.set()

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
        # Last, since it makes `is_ready` true.
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
            raise EngineError("the model loaded but generated no token; choose another model")

    def fail_after_last_words(self, reason: str) -> None:
        """End the process soon, since the engine can no longer serve; there is time to answer the affected requests."""
        with self._failure_lock:
            if self.failure is None:
                self.failure = reason
                threading.Timer(LAST_WORDS_S, self._fail, (reason,)).start()

    def _fail(self, message: str) -> None:
        self.failure = message
        log.error("cannot serve: %s", message)
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        self._on_failure(message)
