"""Folders that the `transformers` engine cannot serve exactly, each refused with the name of what it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.docker.inside import TESTS, run_in_image

pytestmark = [pytest.mark.timeout(600)]

IMAGE = "orchestrar-runner:latest"


@pytest.fixture(scope="module")
def sentences() -> dict[str, dict[str, str | None]]:
    """Return for each kind why it was refused; None for those that load."""
    options = ("--user=0", "--memory=2g", TESTS)
    result: Any = run_in_image(IMAGE, "python", "-m", "tests.docker.kind_cases", options=options)
    return dict(result)


@pytest.mark.parametrize("kind", ["llama", "tied", "extra head", "text of gemma3", "text of qwen3_5"])
def test_what_is_whole_loads(sentences: dict[str, dict[str, str | None]], kind: str) -> None:
    """A head that no layer uses does no harm, and the text of some models with images is computed exactly."""
    assert sentences["text"][kind] is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bias", "leaves out model.layers.0.self_attn.q_proj.bias"),
        ("absent norm", "the files hold no model.layers.1.input_layernorm.weight"),
        ("no config", "has no config.json"),
        ("broken config", "config.json cannot be read"),
        ("no type", "names no `model_type`"),
        ("unknown", "does not know the model type novel"),
        ("own code", "novel needs code of its own (`auto_map` in config.json), which is never run"),
        ("t5", "t5 is an encoder-decoder model"),
        ("whisper", "whisper is an encoder-decoder model"),
        ("llava", "llava is a model for more than text (vision_config), which is not served; its text part is of the "),
        ("mllama", "mllama is a model for more than text (vision_config)"),
        ("clip", "clip_text_model generates no text in transformers"),
    ],
)
def test_what_is_not_served_is_named(sentences: dict[str, dict[str, str | None]], kind: str, expected: str) -> None:
    """No weights with random numbers in their places, and no remedy that is about something else."""
    assert expected in str(sentences["text"][kind])


def test_vectors_have_the_same_rules(sentences: dict[str, dict[str, str | None]]) -> None:
    """Encoders and decoders load without heads that vectors do not need; models with images do not."""
    vectors = sentences["vectors"]
    assert (None, None) == (vectors["bert"], vectors["llama"])
    assert "clip is a model for more than text" in str(vectors["clip"])
