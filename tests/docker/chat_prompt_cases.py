"""Run in the transformers image: render conversations with our chat template and by `apply_chat_template`.

The input is `{name: a model's tokenizer_config.json}`. The output is, for each name, which prompts differ (ours and
theirs), and how many are equal or refused by both.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from runner.engine import Constraints, GenerationRequest, Message, PromptInvalid, Tool, ToolCall
from runner.tokenizer import ModelTokenizer, load_tokenizer

Turn = dict[str, Any]
Tools = list[dict[str, Any]] | None
USER: Turn = {"role": "user", "content": 'What\'s the weather in Zürich?\n  <b>"now"</b> & later '}
SYSTEM: Turn = {"role": "system", "content": "You are a *helpful* assistant.\n\nSay “hi”."}
ANSWER: Turn = {"role": "assistant", "content": "It is sunny. 🙂\n"}
AGAIN: Turn = {"role": "user", "content": "And in 東京?"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "The city's name, e.g. Zürich"},
        "unit": {"type": "string", "enum": ["°C", "°F"]},
        "days": {"type": "integer"},
    },
    "required": ["city"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": text, "parameters": schema}}
    for name, text, schema in (
        ("get_weather", "Tells the <weather> & more.", SCHEMA),
        ("now", "Tells the time.", {"type": "object", "properties": {}}),
    )
]


def call(number: int, name: str, arguments: dict[str, Any]) -> Turn:
    return {"id": f"callnr{number:03}", "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER, TIME = call(1, "get_weather", {"city": "Zürich", "unit": "°C", "days": 2}), call(2, "now", {})
CALLS: Turn = {"role": "assistant", "content": "", "tool_calls": [WEATHER]}
TWO_CALLS: Turn = {"role": "assistant", "content": "Let me see.", "tool_calls": [WEATHER, TIME]}
RESULT: Turn = {
    "role": "tool",
    "content": '{"sky": "sunny", "°C": 21}',
    "tool_call_id": WEATHER["id"],
    "name": "get_weather",
}
SECOND_RESULT: Turn = {"role": "tool", "content": "12:00", "tool_call_id": TIME["id"], "name": "now"}

CONVERSATIONS: dict[str, tuple[list[Turn], Tools]] = {
    "one turn": ([USER], None),
    "a system turn": ([SYSTEM, USER], None),
    "several turns": ([USER, ANSWER, AGAIN], None),
    "several turns after a system turn": ([SYSTEM, USER, ANSWER, AGAIN, ANSWER, USER], None),
    "an answer comes last": ([SYSTEM, USER, ANSWER], None),
    "tools": ([USER], TOOLS),
    "tools after a system turn": ([SYSTEM, USER], TOOLS),
    "a call and its result": ([USER, CALLS, RESULT], TOOLS),
    "two calls and their results": ([SYSTEM, USER, TWO_CALLS, RESULT, SECOND_RESULT], TOOLS),
    "an answer after calls": ([SYSTEM, USER, CALLS, RESULT, ANSWER, AGAIN], TOOLS),
}


def main() -> None:
    """Print the differences for all templates."""
    print(json.dumps({name: compared(config) for name, config in json.load(sys.stdin).items()}))


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the differing prompts of one template, and how many are equal or refused by both."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        byte_tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        ours, theirs = load_tokenizer(folder, has_chat=True), PreTrainedTokenizerFast.from_pretrained(folder)
        pairs = {name: (our_prompt(ours, *case), their_prompt(theirs, *case)) for name, case in CONVERSATIONS.items()}
    return {
        "differing": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        "equal": sum(ours == theirs is not None for ours, theirs in pairs.values()),
        "refused": sum(ours is theirs is None for ours, theirs in pairs.values()),
    }


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer with a token for each byte, from which every text comes back."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def our_prompt(tokenizer: ModelTokenizer, turns: list[Turn], tools: Tools) -> str | None:
    """Return the prompt of a request with these turns; None if it is refused."""
    request = GenerationRequest(
        messages=tuple(map(message, turns)),
        constraints=Constraints(tools=tuple(Tool(**tool["function"]) for tool in tools or ())),
    )
    try:
        tokens = tokenizer.encode(request)
    except PromptInvalid:
        return None
    detokenizer = tokenizer.detokenizer()
    return "".join(map(detokenizer.feed, tokens)) + detokenizer.flush()


def their_prompt(tokenizer: Any, turns: list[Turn], tools: Tools) -> str | None:
    """Return transformers' prompt; None if the template refuses the turns."""
    try:
        text: str = tokenizer.apply_chat_template(turns, tools=tools, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError, LookupError):
        return None
    return text


def message(turn: Turn) -> Message:
    """Return a turn as our routes pass it on."""
    calls = tuple(ToolCall(id=call["id"], **call["function"]) for call in turn.get("tool_calls", ()))
    return Message(role=turn["role"], content=turn["content"], tool_calls=calls, tool_call_id=turn.get("tool_call_id"))


if __name__ == "__main__":
    main()
