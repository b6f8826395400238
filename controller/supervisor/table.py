"""The records of all models; a reload adds some and removes others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

from controller.docker.container import Container
from controller.errors import ModelNotFound
from controller.registry import ModelSpec
from controller.supervisor.slot import Slot
from controller.supervisor.states import State


class SlotTable:
    """All records. An iteration sees the table as it was at its beginning: a change makes a new one. Thread-safe."""

    def __init__(self, lock: threading.Lock, resting_state: Callable[[str], State]) -> None:
        self._lock = lock
        self._resting_state = resting_state
        self._slots: dict[str, Slot] = {}

    def __getitem__(self, model_id: str) -> Slot:
        slot = self._slots.get(model_id)
        if slot is None:
            raise ModelNotFound(f"{model_id} was removed from models.yaml", param="model_id")
        return slot

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._slots

    def values(self) -> Collection[Slot]:
        """Return the records in the registry's order."""
        return self._slots.values()

    def serving(self) -> list[Container]:
        """Return the containers of ready models. With the lock held."""
        return [s.container for s in self._slots.values() if s.container is not None and s.state is State.READY]

    def replace(self, specs: Iterable[ModelSpec]) -> None:
        """Have one record for each of these entries, in this order; records that stay keep all but their entry.

        Called without the lock. The caller has stopped models that are removed, and closed them to requests.
        """
        specs = list(specs)
        fresh = {
            spec.id: Slot(spec, threading.Condition(self._lock), self._resting_state(spec.id))
            for spec in specs
            if spec.id not in self._slots
        }
        with self._lock:
            for spec in specs:
                slot = self._slots.get(spec.id)
                if slot is not None and slot.spec != spec:
                    slot.change_entry(spec)
            self._slots = {spec.id: self._slots.get(spec.id) or fresh[spec.id] for spec in specs}
