"""Puts changed entries of models.yaml into force: removed models are drained and stopped, changed ones restarted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from controller.docker.container import Container
from controller.errors import OrchestrarError
from controller.registry import ModelSpec
from controller.supervisor.clock import Clock
from controller.supervisor.lifecycle import STOP_AGAIN_AFTER_S, Lifecycle
from controller.supervisor.refusals import shutting_down
from controller.supervisor.slot import Slot, SlotTable
from controller.supervisor.starts.attempt import Attempt

log = logging.getLogger(__name__)

# For a container's own SIGTERM and its SIGKILL, after the grace of its requests.
LEAVE_S = 5.0


class ConfigChange:
    """Changes of all models; `lock` is the supervisor's. The caller makes one change at a time."""

    def __init__(self, slots: SlotTable, life: Lifecycle, clock: Clock, lock: threading.Lock, drain_s: float) -> None:
        self._slots = slots
        self._life = life
        self._clock = clock
        self._lock = lock
        self._drain_s = drain_s
        # Closed to requests here, until they are gone or reopened.
        self._closed_slots: list[Slot] = []
        # Models of the changes under way that still hold a port that another model gets.
        self._on_ports: set[Slot] = set()

    def change(self, models: Mapping[str, ModelSpec], *, remade: Collection[str]) -> None:
        """Work by these entries from now on. Models in `remade` that run are drained, stopped and started again.

        Requests wait meanwhile. Returns once that is under way; the caller has dropped removed models before (`drop`).
        """
        with self._lock:
            had_port = {port: slot for slot in (self._slots[name] for name in remade) if (port := _port_of(slot))}
        self._slots.replace(models.values())
        with self._lock:
            self._closed_slots.clear()
            outdated = [(slot, slot.attempt, slot.container) for slot in (self._slots[name] for name in remade)]
            before_it = {slot: had_port.get(slot.spec.port or 0, slot) for slot, _, _ in outdated}
            self._on_ports |= {holder for slot, holder in before_it.items() if holder is not slot}
        for slot, attempt, container in outdated:
            name, work = f"remake {slot.spec.id}", (slot, attempt, container, before_it[slot])
            threading.Thread(target=self._remake, args=work, name=name, daemon=True).start()

    def drop(self, model_ids: Collection[str]) -> None:
        """Drain and stop models that are removed; returns when they have stopped. They refuse requests until they are
        gone (`change`) or stay after all (`reopen`).

        Raises like `Supervisor.stop`; then all of them stay.
        """
        slots = [self._slots[model_id] for model_id in model_ids]
        try:
            with ThreadPoolExecutor(max(len(slots), 1), thread_name_prefix="drop") as pool:
                list(pool.map(self._drop, slots))
        except BaseException:
            self.reopen()
            raise

    def reopen(self) -> None:
        """Let dropped models that are not gone accept requests again: the next one starts the model."""
        with self._lock:
            for slot in self._closed_slots:
                slot.open_to_requests()
            self._closed_slots.clear()

    def _drop(self, slot: Slot) -> None:
        with self._lock:
            if slot in self._closed_slots:
                return
            while True:
                if self._life.is_closing:
                    raise shutting_down()
                if slot.close_to_requests():
                    break
                # A user's stop or deletion is under way, which opens it again.
                self._clock.wait(slot.on_change, None)
            self._closed_slots.append(slot)
        self._life.cancel(slot, within_s=self._drain_s)
        self._life.retire(slot, drain_s=self._drain_s)

    def _remake(self, slot: Slot, attempt: Attempt | None, outdated: Container | None, before_it: Slot) -> None:
        """End what the model was before the change, and start what its entry says now; the body of a thread.

        A model that cannot be stopped serves on, and is tried again later. `before_it` had the port that this one gets.
        """
        try:
            self._end_and_start(slot, attempt, outdated, before_it)
        finally:
            self._release_port(slot)

    def _end_and_start(self, slot: Slot, attempt: Attempt | None, outdated: Container | None, before_it: Slot) -> None:
        outdated_id = outdated.id if outdated is not None else None
        serves = outdated is not None
        is_claimed = attempt is not None and self._life.supersede(slot, attempt)
        if attempt is not None:
            outdated_id, serves = attempt.container_id, not attempt.only_prepares
        while is_claimed or self._claim(slot, outdated_id, serves=serves):
            is_claimed = False
            try:
                self._life.retire(
                    slot,
                    drain_s=self._drain_s,
                    is_claimed=True,
                    before_rest=lambda: self._change_ports(slot, before_it),
                )
            except OrchestrarError as exc:
                log.warning("%s: could not be stopped to be restarted: %s", slot.spec.id, exc.message)
                self._release_port(slot)
                self._wait_for_next_try(slot)
            else:
                return

    def _claim(self, slot: Slot, outdated_id: str | None, *, serves: bool) -> bool:
        """Claim the model while it is, or may be, what it was before; False once it is not any more.

        It is started again only if it `serves`.
        """
        with self._lock:
            while (slot.is_retiring or slot.attempt is not None) and not self._life.is_closing:
                self._clock.wait(slot.on_change, None)
            return not self._life.is_closing and slot.claim_if_outdated(outdated_id, serves=serves)

    def _change_ports(self, slot: Slot, before_it: Slot) -> None:
        """Release the old port and wait for the new one, for little more than its model has to release it."""
        self._release_port(slot)
        with self._lock:
            until = self._clock.monotonic() + self._drain_s + LEAVE_S
            while before_it in self._on_ports and not self._life.is_closing:
                if (left_s := until - self._clock.monotonic()) <= 0:
                    return
                self._clock.wait(before_it.on_change, left_s)

    def _release_port(self, slot: Slot) -> None:
        """Mark the old port as released and wake models that wait for it."""
        with self._lock:
            self._on_ports.discard(slot)
            slot.on_change.notify_all()

    def _wait_for_next_try(self, slot: Slot) -> None:
        with self._lock:
            until = self._clock.monotonic() + STOP_AGAIN_AFTER_S
            while (left_s := until - self._clock.monotonic()) > 0 and not self._life.is_closing:
                self._clock.wait(slot.on_change, left_s)


def _port_of(slot: Slot) -> int | None:
    """Return the host port of the container that runs, or may."""
    return slot.spec.port if slot.container is None else slot.container.port
