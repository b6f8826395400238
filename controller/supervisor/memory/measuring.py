"""What running models use, and whether they are still what the Compose files say."""

from __future__ import annotations

import threading
from contextlib import suppress

from controller.docker.container import Container
from controller.errors import ModelNotFound
from controller.supervisor.backend import Backend
from controller.supervisor.memory.admission import Admission
from controller.supervisor.slot import Slot, SlotTable


class UsageMeter:
    """Measures all models; `lock` is the supervisor's."""

    def __init__(self, slots: SlotTable, admission: Admission, backend: Backend, lock: threading.Lock) -> None:
        self._slots = slots
        self._admission = admission
        self._backend = backend
        self._lock = lock

    def measure(self) -> None:
        """Do the work of `Supervisor.measure`."""
        with self._lock:
            running = self._slots.serving()
        self._sample(running)
        drifted = self._backend.drifted(running)
        with self._lock:
            for slot in self._slots.values():
                slot.mark_drifted(drifted=slot.spec.id in drifted)
            # What a container of another entry, or image, takes says nothing about the next one.
            peaks = {s.spec.id: s.peak_bytes for s in self._slots.values() if s.usage is not None and not s.drifted}
        for slot in self._slots.values():
            with suppress(ModelNotFound):  # a reload is removing it
                if slot.spec.id in peaks:
                    self._backend.observe(slot.spec.id, peaks[slot.spec.id])
                self.recount(slot)

    def recount(self, slot: Slot) -> None:
        """Count again what a running model takes, now that more is known about it. Called without the lock."""
        container = slot.container
        if container is None:
            return
        need = self._backend.needs(slot.spec.id, limit_bytes=container.memory_limit_bytes)
        with self._lock:
            # If it has ended meanwhile, it holds nothing.
            if slot.recount(need):
                self._admission.nudge()

    def _sample(self, running: list[Container]) -> None:
        usage = self._backend.usage([container.id for container in running])
        with self._lock:
            for slot in self._slots.values():
                slot.measure(usage.get(slot.container.id) if slot.container else None)
