"""The input of chat templates, and what their text shows."""

from __future__ import annotations

import pytest

from runner.engine import Constraints, GenerationRequest, Message, PromptInvalid, Tool, ToolCall
from runner.tokenizer.chat_messages import template_messages, template_tools, tool_syntax, uses_template


@pytest.mark.parametrize(
    ("request_", "has_template", "expected"),
    [
        (GenerationRequest(prompt="hi"), True, True),
        (GenerationRequest(prompt="hi"), False, False),
        (GenerationRequest(prompt="hi", raw=True), True, False),
        (GenerationRequest(messages=(Message(role="user", content="hi"),)), True, True),
    ],
)
def test_a_raw_prompt_and_a_model_without_a_template_use_none(
    request_: GenerationRequest, has_template: bool, expected: bool
) -> None:
    """Only a prompt can go to the model without the template."""
    assert expected == uses_template(request_, has_template=has_template)


def test_messages_without_a_template_are_refused() -> None:
    """The refusal names the parameter and says what to send instead."""
    with pytest.raises(PromptInvalid, match="send a prompt") as excinfo:
        uses_template(GenerationRequest(messages=(Message(role="user", content="hi"),)), has_template=False)
    assert "messages" == excinfo.value.param


def test_calls_and_answers_have_the_form_of_templates() -> None:
    """Arguments are objects, and a tool's answer has the tool's name."""
    call = ToolCall(id="1", name="f", arguments={"a": None})
    messages = (
        Message(role="user", content="hi"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="done", tool_call_id="1"),
    )
    function = {"name": "f", "arguments": {"a": None}}
    assert [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "content": "done", "tool_call_id": "1", "name": "f"},
    ] == template_messages(GenerationRequest(messages=messages))
    assert [{"role": "user", "content": "hi"}] == template_messages(GenerationRequest(prompt="hi"))


def test_tools_have_the_form_of_templates() -> None:
    """Each has a name, a description and a schema; without tools there is nothing."""
    tool = Tool(name="f", description="does", parameters={"type": "object"})
    function = {"name": "f", "description": "does", "parameters": {"type": "object"}}
    assert [{"type": "function", "function": function}] == template_tools(
        GenerationRequest(constraints=Constraints(tools=(tool,)))
    )
    assert template_tools(GenerationRequest()) is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", None),
        ('{% if tools %}{{ tools | tojson }} write <tool_call>\\n{\\"name\\": …}</tool_call>{% endif %}', "hermes"),
        ("{% if tools is not none %}[AVAILABLE_TOOLS]{{ tools }}{% endif %}[TOOL_CALLS]", "mistral"),
        ('{%- if tools is defined %}{"name": function, "parameters": dictionary}{% endif %}', "llama"),
        ('{% if tools %}\\"parameters\\": …{% endif %}', "llama"),
        ("{% if tools %}call:{{ tools }}{% endif %}", None),
        ("These are mytools <tool_call>", None),
    ],
)
def test_the_template_shows_how_the_model_writes_calls(template: str, expected: str | None) -> None:
    """A template that never reads the tools has no syntax, whatever marks it has; nor has an unknown form."""
    assert expected == tool_syntax(template)
