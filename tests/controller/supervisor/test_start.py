"""Starts: one for all requests that wait, and every way in which it can end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controller.docker.container import Container
from controller.errors import (
    ImageMissing,
    OrchestrarError,
    StartFailed,
)
from controller.supervisor import State, Supervisor, lifecycle
from tests.controller.supervisor.house import House, error_of, lease
from tests.fakes import HANG_S, FakeBackend, make_container


class TestStart:
    def test_first_requests_share_one_start(self, house: House) -> None:
        """Fifty simultaneous first requests cause one `up`, and each of them gets a lease."""
        house.backend.up_gate.clear()
        requests = [house.later(lambda: lease(house).release()) for _ in range(50)]
        house.clock.until_waiting(50)
        assert house.supervisor.view("tiny").waiting == 50
        house.backend.up_gate.set()
        for request in requests:
            request.result(HANG_S)
        assert house.backend.calls == ["up tiny"]
        assert house.supervisor.view("tiny").in_flight == 0

    def test_a_ready_model_is_leased_at_once(self, house: House) -> None:
        """The second request starts nothing and has waited for no start."""
        lease(house).release()
        assert lease(house).start_s == 0.0
        assert house.backend.calls == ["up tiny"]

    def test_a_lease_of_a_ready_model_costs_no_thread(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request for a ready model does not even prepare an attempt to start it."""
        lease(house).release()
        monkeypatch.setattr(lifecycle, "Attempt", None)
        lease(house).release()

    def test_models_start_independently(self, house: House) -> None:
        """A model whose start hangs keeps no other model from starting."""
        house.backend.up_gate.clear()
        stuck = house.later(lease, house)
        assert house.backend.up_reached.wait(HANG_S)
        house.backend.containers["by-hand"] = make_container("other", id="by-hand")
        assert house.supervisor.acquire("other").container_id == "by-hand"
        house.backend.up_gate.set()
        stuck.result(HANG_S)

    def test_all_waiters_hear_why_a_start_failed(self, house: House) -> None:
        """A failed start fails every request that waited for it, once; a request after its back-off tries again."""
        house.backend.up_gate.clear()
        house.backend.up_error = StartFailed("no such image")
        requests = [house.later(lease, house) for _ in range(5)]
        house.clock.until_waiting(5)
        house.backend.up_gate.set()
        assert {error_of(request).message for request in requests} == {"no such image"}
        assert house.state() is State.FAILED
        house.backend.up_error = None
        house.clock.advance(2)
        lease(house).release()
        assert house.backend.calls == ["up tiny", "up tiny"]

    def test_a_resumed_container_needs_no_up(self, house: House) -> None:
        """If the backend can start the ended container again, that is the whole start."""
        container = make_container("tiny", status="exited", exit_code=0)
        house.backend.containers[container.id] = container
        house.backend.resumable["tiny"] = container.id
        assert lease(house).container_id == container.id
        assert house.backend.calls == ["resume tiny"]

    def test_a_start_is_shown_by_phase(self, house: House) -> None:
        """Docker's time until the container ran, the process's own time, and the phases that the model reports."""

        def slow_up(container: Container) -> Container:
            house.clock.advance(2.0)
            return container

        def probe(port: int, path: str) -> Any:
            house.clock.advance(4.0)
            return FakeBackend.probe(house.backend, port, path)

        house.backend.after_up = slow_up
        supervisor = Supervisor(house.specs, house.backend, probe, clock=house.clock)
        supervisor.acquire("tiny").release()
        assert supervisor.view("tiny").phases == {"docker_s": 2.0, "process_s": 3.0, "load_s": 1.0}
        assert supervisor.view("tiny").start_s == 6.0

    def test_an_adopted_model_shows_only_its_own_phases(self, house: House) -> None:
        """A start by another process did not take our time."""
        house.backend.containers["by-hand"] = make_container("tiny", id="by-hand")
        lease(house).release()
        assert house.supervisor.view("tiny").phases == {"load_s": 1.0}

    def test_an_exit_while_starting_ends_the_wait(self, house: House) -> None:
        """A container that ends before it is ready fails the start with its exit code and its last log lines."""
        house.backend.ready = False
        house.backend.after_up = lambda c: replace(c, status="exited", exit_code=3)
        with pytest.raises(StartFailed) as failure:
            lease(house)
        assert failure.value.details["exit_code"] == 3
        assert failure.value.details["log"] == ["the last line"]
        assert "out of memory" not in failure.value.message

    def test_out_of_memory_needs_evidence(self, house: House) -> None:
        """Docker's OOM flag puts the limit and the way to raise it into the failure card."""
        house.backend.ready = False
        house.backend.after_up = lambda c: replace(c, status="exited", exit_code=137, oom_killed=True)
        with pytest.raises(StartFailed, match="ran out of memory while starting, at its limit of 1024m") as failure:
            lease(house)
        assert failure.value.details["fix"] == "raise its resources.memory above 1024m in models.yaml"

    def test_a_silent_start_is_given_up(self, house: House) -> None:
        """A start without any progress for `start_timeout` is stopped and fails."""
        house.backend.ready = False
        with pytest.raises(StartFailed, match="made no progress for 120 s"):
            house.supervisor.acquire("tiny", max_wait_s=1e6)
        assert house.backend.calls == ["up tiny", "stop tiny-1"]

    def test_progress_extends_the_start(self, house: House) -> None:
        """A start that enters a new phase gets the whole `start_timeout` again."""
        started_at = house.clock.monotonic()
        house.backend.ready = False

        def probe(port: int, path: str) -> Any:
            elapsed_s = house.clock.monotonic() - started_at
            house.backend.phase = f"loading {elapsed_s // 100}"
            house.backend.ready = elapsed_s > 500
            return FakeBackend.probe(house.backend, port, path)

        supervisor = Supervisor(house.specs, house.backend, probe, clock=house.clock)
        supervisor.acquire("tiny", max_wait_s=1e6).release()
        assert house.clock.monotonic() - started_at > 500

    def test_no_download_without_the_image(self, house: House) -> None:
        """A model whose image is missing says so before its files are fetched; no start fetches an image."""
        house.backend.prepared_models = set()
        house.backend.image_error = ImageMissing("its image is missing")
        with pytest.raises(ImageMissing):
            house.supervisor.acquire("tiny")
        assert house.backend.calls == []
        assert house.supervisor.view("tiny").state is State.FAILED
        house.backend.image_error = None
        house.supervisor.acquire("tiny").release()
        assert house.backend.calls == ["prepare tiny", "up tiny"]

    def test_an_image_of_this_checkout_is_built_by_the_start(self, house: House) -> None:
        """A model whose files are here and whose image is not: the start makes what is missing, and goes on."""
        house.backend.up_error = ImageMissing("its image is missing", is_built_here=True)
        house.backend.on_prepare = lambda *_: setattr(house.backend, "up_error", None)
        house.supervisor.acquire("tiny").release()
        assert house.backend.calls == ["up tiny", "prepare tiny", "up tiny"]

    def test_a_fault_of_ours_frees_the_waiters(self, house: House) -> None:
        """A bug in a start ends the waiters' wait with an error instead of leaving them for ever."""

        def fault(container: Container) -> Container:
            raise ZeroDivisionError

        house.backend.after_up = fault
        with pytest.raises(OrchestrarError, match="ZeroDivisionError"):
            lease(house)
        assert house.state() is State.FAILED

    def test_an_emptied_volume_is_prepared_again(self, house: House) -> None:
        """A runner that finds its volume unprepared (exit 78) makes the start prepare once more, then it works."""
        house.backend.ready = False

        def first_then_ready(container: Any) -> Any:
            if container.id == "tiny-1":
                return replace(container, status="exited", exit_code=78)
            house.backend.ready = True
            return container

        house.backend.after_up = first_then_ready
        lease(house).release()
        assert house.backend.calls == ["up tiny", "prepare tiny", "up tiny"]
