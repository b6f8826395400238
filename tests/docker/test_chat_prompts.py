"""Chat prompts are those of transformers' `apply_chat_template`, with the templates of real models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.docker.inside import TESTS, run_in_image
from tests.runner.tokenizer.packages import llama_cpp_models, npm_models

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]

IMAGE = "orchestrar-runner:latest"
# Packages with a chat template, also with several: Command R+ has one of its own for tools.
NPM = ("qwen3", "llama3_1", "deepseek_v3", "gemma3", "mistral_nemo", "command_r_plus")
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CONVERSATIONS = 10


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """Return for each template the prompts that differ, and how many are equal or refused by both."""
    sources = {path.stem: path.read_text(encoding="utf-8") for path in llama_cpp_models().glob("templates/*.jinja")}
    configs = {name: {**SPECIAL_TOKENS, "chat_template": source} for name, source in sources.items()}
    configs |= {name: json.loads((npm_models(name) / "tokenizer_config.json").read_text("utf-8")) for name in NPM}
    command = ("python", "-m", "tests.docker.chat_prompt_cases")
    outcomes: dict[str, Any] = run_in_image(IMAGE, *command, options=["--user=0", TESTS], document=configs)
    return outcomes


def test_every_prompt_is_that_of_transformers(outcomes: dict[str, Any]) -> None:
    """System turns, several turns, tools, calls and results: the same text, or refused by both."""
    assert len(outcomes) >= 75
    assert {} == {name: outcome["differing"] for name, outcome in outcomes.items() if outcome["differing"]}
    assert sum(outcome["equal"] for outcome in outcomes.values()) >= 700


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("qwen3", 0),
        ("mistral_nemo", 0),
        ("openai-gpt-oss-120b", 0),
        ("google-gemma-4-31B-it", 0),
        # Two calls in one turn.
        ("meta-llama-Llama-3.1-8B-Instruct", 1),
        # A turn of a tool.
        ("gemma3", 3),
        # Tools: its template for them reads another form than transformers gives.
        ("command_r_plus", 5),
    ],
)
def test_a_template_refuses_what_it_has_no_form_for(name: str, refused: int, outcomes: dict[str, Any]) -> None:
    """The figures beside the equality show that the prompts are there: a template that always fails would be equal."""
    assert (CONVERSATIONS - refused, refused) == (outcomes[name]["equal"], outcomes[name]["refused"])
