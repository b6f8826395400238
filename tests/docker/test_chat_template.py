"""A user's own chat template, on our engine and on llama.cpp, with real weights."""

from __future__ import annotations

import pytest
import yaml

from tests.docker.conftest import NewHouse
from tests.docker.house import House
from tests.docker.real_models import copy_downloads, greedy_answer, shipped_entry

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

COUNTING = "One, two, three, four,"


@pytest.fixture(scope="module")
def house(new_house: NewHouse) -> House:
    """Return the default model with a template that writes only what the user did, on two engines."""
    source = shipped_entry()["source"]
    engines = ("openvino", "llamacpp")
    models = {name: {"source": source, "engine": name, "chat_template": "bare.jinja"} for name in engines}
    house = new_house(lambda _folder: yaml.safe_dump({"defaults": {"max_wait": "300s"}, "models": models}))
    (house.folder / "bare.jinja").write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    copy_downloads(house)
    house.start()
    return house


@pytest.mark.parametrize("engine", ["openvino", "llamacpp"])
def test_a_chat_is_written_by_the_users_template(house: House, engine: str) -> None:
    """The model continues the bare text, which with its own template it would answer; so the prompt is short, too."""
    answer = greedy_answer(house, engine, prompt=COUNTING, max_tokens=4)
    assert "five" in answer["text"]
    assert answer["usage"]["prompt_tokens"] < 12
