from __future__ import annotations

from pathlib import Path

import pytest

from runner.engine import EngineError, PartialSampling
from runner.settings import RunnerSettings, read_settings


def test_the_environment_becomes_settings() -> None:
    """Each variable of the contract has its field; half a core still counts as one."""
    settings = read_settings(
        {
            "ORCHESTRAR_MODEL_ID": "m",
            "ORCHESTRAR_MODEL_PATH": "/model/weights",
            "ORCHESTRAR_CPUS": "1.5",
            "ORCHESTRAR_DTYPE": "float16",
            "ORCHESTRAR_CONTEXT_LENGTH": "512",
            "ORCHESTRAR_TASK": "completion",
            "ORCHESTRAR_GENERATION": '{"max_tokens": 9, "stop": ["x"]}',
            "ORCHESTRAR_MAX_CONCURRENCY": "3",
            "ORCHESTRAR_CHAT_TEMPLATE": "/chat-template/own.jinja",
        }
    )
    assert settings == RunnerSettings(
        model_id="m",
        model_path=Path("/model/weights"),
        cpus=2,
        dtype="float16",
        context_length=512,
        chat_template=Path("/chat-template/own.jinja"),
        task="completion",
        generation=PartialSampling(max_tokens=9, stop=("x",)),
        max_concurrency=3,
    )


def test_an_empty_context_length_is_the_models_own() -> None:
    """Compose cannot leave a variable out, so an empty one means "not set"."""
    settings = read_settings({"ORCHESTRAR_CONTEXT_LENGTH": "", "ORCHESTRAR_GENERATION": "", "ORCHESTRAR_CPUS": "2"})
    assert (None, PartialSampling(), 2) == (settings.context_length, settings.generation, settings.cpus)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ORCHESTRAR_CPUS", "many"),
        ("ORCHESTRAR_CPUS", "nan"),
        ("ORCHESTRAR_CONTEXT_LENGTH", "-1"),
        ("ORCHESTRAR_DTYPE", "int3"),
        ("ORCHESTRAR_TASK", "sing"),
        ("ORCHESTRAR_GENERATION", "{"),
        ("ORCHESTRAR_GENERATION", "[]"),
        ("ORCHESTRAR_GENERATION", '{"mood": 1}'),
    ],
)
def test_the_error_names_a_wrong_variable(name: str, value: str) -> None:
    """The one sentence in the log says which variable to change."""
    with pytest.raises(EngineError, match=name):
        read_settings({name: value})
