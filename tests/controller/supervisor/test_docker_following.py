"""Docker's events: news cause a look, and what we did ourselves costs nothing."""

from __future__ import annotations

import pytest

from controller.docker.events import Event
from controller.errors import DockerUnavailable
from controller.supervisor import DockerEventFollower, State
from controller.supervisor.watching.docker_events import LOOK_AGAIN_S
from tests.controller.supervisor.house import House, lease


def event(action: str, container_id: str = "tiny-1", model_id: str = "tiny") -> Event:
    return Event(action=action, container_id=container_id, model_id=model_id)


@pytest.fixture
def looks(house: House) -> list[str]:
    """List the models that Docker was asked about since the model became ready."""
    lease(house).release()
    model_ids: list[str] = []
    find = house.backend.find

    def noting_find(model_id: str) -> object:
        model_ids.append(model_id)
        return find(model_id)

    house.backend.find = noting_find  # type: ignore[assignment, method-assign]
    return model_ids


@pytest.fixture
def follower(house: House) -> DockerEventFollower:
    return DockerEventFollower(house.supervisor, clock=house.clock)


def test_a_death_is_noticed(house: House, follower: DockerEventFollower, looks: list[str]) -> None:
    """All events of one action cause one look, after which the model is stopped."""
    house.backend.end("tiny-1", exit_code=137)
    for action in ("kill", "die", "stop"):
        follower.note(event(action))
    follower.work()
    assert looks == ["tiny"]
    assert house.state() is State.STOPPED
    follower.work()
    assert looks == ["tiny"]


@pytest.mark.parametrize(
    "old_event", [event("start"), event("die", "older"), event("destroy", "older"), event("kill"), event("unpause")]
)
def test_what_is_known_costs_nothing(follower: DockerEventFollower, looks: list[str], old_event: Event) -> None:
    """Events of our own starts and of containers long gone cause no look at Docker."""
    follower.note(old_event)
    follower.work()
    assert looks == []


@pytest.mark.parametrize("news", [event("die"), event("destroy"), event("pause"), event("start", "by-hand")])
def test_what_is_news_causes_a_look(follower: DockerEventFollower, looks: list[str], news: Event) -> None:
    """The end or pause of the serving container, and the start of another one, cause a look."""
    follower.note(news)
    follower.work()
    assert looks == ["tiny"]


def test_a_start_by_hand_is_adopted(house: House, follower: DockerEventFollower, looks: list[str]) -> None:
    """A container of a model at rest that a user starts is adopted without a request."""
    house.supervisor.stop("tiny")
    calls = list(house.backend.calls)
    house.backend.containers["tiny-1"] = house.backend.up("tiny")
    follower.note(event("start", "tiny-2"))
    follower.work()
    assert house.state_after_start() is State.READY
    assert house.backend.calls == [*calls, "up tiny"]


def test_an_event_in_the_middle_of_a_start_is_kept(
    house: House, follower: DockerEventFollower, looks: list[str]
) -> None:
    """An event that cannot be judged yet is judged when the start is over."""
    house.supervisor.stop("tiny")
    looks.clear()
    house.backend.up_gate.clear()
    house.backend.up_reached.clear()
    waiting = house.later(lease, house)
    assert house.backend.up_reached.wait(10)
    follower.note(event("die", "tiny-2"))
    follower.work()
    house.backend.up_gate.set()
    waiting.result(10).release()
    looks.clear()
    house.backend.end("tiny-2", exit_code=1)
    follower.work()
    assert looks == ["tiny"]
    assert house.state() is State.STOPPED


def test_a_gap_causes_a_look_at_all(house: House) -> None:
    """If events may have been missed, all models are looked at, and the callback runs again until it succeeds."""
    callbacks: list[str] = []
    lease(house).release()
    house.backend.end("tiny-1", exit_code=0)

    def succeed_the_second_time() -> bool:
        callbacks.append("back")
        return len(callbacks) == 2

    follower = DockerEventFollower(house.supervisor, succeed_the_second_time, clock=house.clock)
    follower.note_gap()
    follower.work()
    assert house.state() is State.STOPPED
    assert callbacks == ["back"]
    for _ in range(2):
        house.clock.advance(LOOK_AGAIN_S)
        follower.work()
    assert callbacks == ["back", "back"]


def test_a_docker_that_is_away_is_no_fault(house: House, follower: DockerEventFollower, looks: list[str]) -> None:
    """A look that fails leaves everything as it is, for the next regular look."""

    def away(model_id: str) -> None:
        raise DockerUnavailable("not there")

    house.backend.find = away  # type: ignore[method-assign]
    follower.note(event("die"))
    follower.work()
    assert house.state() is State.READY


def test_events_of_unknown_models_are_ignored(follower: DockerEventFollower, looks: list[str]) -> None:
    """A container of a model that is not in models.yaml causes no look."""
    follower.note(event("die", "x", "gone"))
    follower.work()
    assert looks == []


def test_the_thread_follows_and_ends(house: House) -> None:
    """Events are handled soon after they come, by a thread that ends at `close`."""
    lease(house).release()
    house.backend.end("tiny-1", exit_code=0)
    follower = DockerEventFollower(house.supervisor)
    follower.start()
    follower.note(event("die"))
    slot = house.slot()
    with slot.on_change:
        assert slot.on_change.wait_for(lambda: slot.state is State.STOPPED, 10)
    follower.close()
