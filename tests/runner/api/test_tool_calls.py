"""Tool calls in a model's text: each form, among other text, wherever the text is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.api.tool_calls import Call, ToolCallParser

NAMES = ("get_weather", "add")
WEATHER = Call("get_weather", '{"city": "Paris"}')
ADD = Call("add", '{"a": 1, "b": [2, {"c": "}]\\""}]}')


def hermes(call: Call) -> str:
    return f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>'


def bare(call: Call, key: str = "parameters") -> str:
    return f'{{"name": "{call.name}", "{key}": {call.arguments}}}'


def parse(pieces: list[str], names: tuple[str, ...] = NAMES) -> list[str | Call]:
    """Return all events of a text in these pieces, with neighbouring texts joined."""
    parser = ToolCallParser(names)
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.flush()
    merged_events: list[str | Call] = []
    for event in events:
        if isinstance(event, str) and merged_events and isinstance(merged_events[-1], str):
            merged_events[-1] += event
        elif event != "":
            merged_events.append(event)
    return merged_events


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, <b>you</b> [TO] {x}.", ["Hello, <b>you</b> [TO] {x}."]),
        ("", []),
        (" \n", [" \n"]),
        (hermes(WEATHER), [WEATHER]),
        (f"Let me see.\n{hermes(WEATHER)}\n{hermes(ADD)}\n", ["Let me see.\n", WEATHER, ADD]),
        (f"{hermes(ADD)} and then?", [ADD, " and then?"]),
        (f"\n{hermes(ADD)}", [ADD]),
        (f"<tool_call>[{bare(WEATHER, 'arguments')}, {bare(ADD, 'arguments')}]</tool_call>", [WEATHER, ADD]),
        (f"<tool_call>{bare(WEATHER)}", [WEATHER]),
        (f"<tool_call>{bare(WEATHER)} more", [WEATHER, " more"]),
        ('<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', [Call("unknown", "{}")]),
        ('<tool_call>{"name": "add", "arg', ['<tool_call>{"name": "add", "arg']),
        ('<tool_call>{"name": 5}</tool_call>', ['<tool_call>{"name": 5}</tool_call>']),
        (
            '<tool_call>{"name": "add", "arguments": {"a": NaN}}',
            ['<tool_call>{"name": "add", "arguments": {"a": NaN}}'],
        ),
        (f"<tool_call>no, {hermes(ADD)}", ["<tool_call>no, ", ADD]),
        (bare(WEATHER), [WEATHER]),
        (f"{bare(WEATHER)}; {bare(ADD)}", [WEATHER, ADD]),
        (f"[{bare(WEATHER, 'arguments')}]", [WEATHER]),
        (f"<|python_tag|>{bare(ADD)}", [ADD]),
        ("<|python_tag|>print(1)", ["<|python_tag|>print(1)"]),
        ('{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}', [Call("add", '{"a": 1}')]),
        ('{"name": "John", "parameters": {}}', ['{"name": "John", "parameters": {}}']),
        ('{"name": "add"}', ['{"name": "add"}']),
        ('{"city": "Paris"}', ['{"city": "Paris"}']),
        ("[1, 2]", ["[1, 2]"]),
        (f"Here: {bare(ADD)}", [f"Here: {bare(ADD)}"]),
        (f"[TOOL_CALLS][{bare(ADD, 'arguments')}, {bare(WEATHER, 'arguments')}]", [ADD, WEATHER]),
        (f"[TOOL_CALLS] add[ARGS]{ADD.arguments}[TOOL_CALLS]get_weather{WEATHER.arguments}", [ADD, WEATHER]),
        ("[TOOL_CALLS] what now?", ["[TOOL_CALLS] what now?"]),
        (f"<tool_call>{'[' * 5000}", [f"<tool_call>{'[' * 5000}"]),
        (f"<tool_call>{'[' * 50_000}{']' * 50_000}", [f"<tool_call>{'[' * 50_000}{']' * 50_000}"]),
    ],
)
def test_the_parser_finds_calls_in_each_form(text: str, expected: list[str | Call]) -> None:
    """Complete calls are taken out of the text; anything else, even an incomplete call, stays in it."""
    assert expected == parse([text])


PARTS = st.sampled_from(
    [hermes(WEATHER), hermes(ADD), bare(WEATHER), f"[{bare(ADD)}]", "[TOOL_CALLS]", "add[ARGS]", '{"a": 1}', '{"na',
     "<tool_call>", "</tool_call>", "<|python_tag|>", "<tool_", "[TOOL", '{"name": "add"', " \n", ";", "text", '"',
     "\\", "{", "}", "["]
)  # fmt: skip


@given(st.lists(PARTS, max_size=6).map("".join), st.data())
def test_any_cut_gives_the_same(text: str, data: st.DataObject) -> None:
    """Wherever a text is cut, its texts and calls are the same as without cuts."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse([text]) == parse(pieces) == parse(list(text))


@given(st.lists(PARTS, max_size=6).map("".join))
def test_nothing_is_lost(text: str) -> None:
    """Text outside calls is kept, in order; arguments are JSON objects."""
    rest = text
    for event in parse([text]):
        if isinstance(event, str):
            at = rest.find(event)
            assert at >= 0
            rest = rest[at + len(event) :]
        else:
            assert isinstance(json.loads(event.arguments), dict)


def test_only_a_possible_call_is_held_back() -> None:
    """Other text is returned at once, and only a possible beginning of a mark is held back."""
    parser = ToolCallParser(NAMES)
    assert ["Hello "] == parser.feed("Hello ")
    assert ["world "] == parser.feed("world <tool")
    assert ["<tools>"] == parser.feed("s>")
    assert [] == parser.feed("<tool_call>")
    assert [] == parser.feed(' {"name": "add", "arguments": {')
    assert [Call("add", "{}")] == parser.feed("}}</tool_call>")
    answer = ToolCallParser(NAMES)
    assert [] == answer.feed('{"')
    assert ['{"city'] == answer.feed("city")


def test_the_number_of_calls_is_bounded() -> None:
    """Anything after the last allowed call is left out, be it in the same list or later."""
    both = f"[{bare(WEATHER)}, {bare(ADD)}]"
    for text in (f"<tool_call>{both}</tool_call>", f"{hermes(WEATHER)}\n{hermes(ADD)} more", both):
        parser = ToolCallParser(NAMES, 1)
        assert [WEATHER] == [event for char in text for event in parser.feed(char)] + parser.flush()
