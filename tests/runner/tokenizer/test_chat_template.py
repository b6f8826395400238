"""Chat templates: rendered as transformers does, in a sandbox, within bounds."""

from __future__ import annotations

import pytest

from runner.engine import Constraints, GenerationRequest, Message, PromptInvalid, Tool
from runner.tokenizer.chat_template import ChatTemplate

HELLO = GenerationRequest(messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hello")))
CHATML = """{%- for message in messages %}
    <|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def render(source: str, request: GenerationRequest = HELLO, **special_tokens: str) -> str:
    return ChatTemplate(source, special_tokens).render(request)


def test_blocks_leave_no_lines_and_no_indentation() -> None:
    """A line with only a block leaves nothing, as in transformers (`trim_blocks`, `lstrip_blocks`)."""
    source = "{% for message in messages %}\n    {% if true %}\n{{ message.role }}\n    {% endif %}\n{% endfor %}"
    assert "system\nuser\n" == render(source)


def test_templates_see_special_tokens_and_the_turns() -> None:
    """`bos_token` and the like have the model's text; the answer's turn is opened."""
    assert "<s>Be brief." == render("{{ bos_token }}{{ messages[0]['content'] }}", bos_token="<s>")
    assert render(CHATML).endswith("<|im_start|>assistant\n")


def test_json_is_written_without_escapes_for_html() -> None:
    """`tojson` leaves `<`, `&` and letters of all languages as they are, and keeps the order of keys."""
    tool = Tool(name="f", description="a < b & é", parameters={"z": 1, "a": 2})
    request = GenerationRequest(messages=HELLO.messages, constraints=Constraints(tools=(tool,)))
    assert '"a < b & é", "parameters": {"z": 1, "a": 2}' in render("{{ tools | tojson }}", request)


def test_requests_with_tools_use_the_template_for_them() -> None:
    """Some models have a second template for tools."""
    template = ChatTemplate("plain", {}, with_tools="{{ tools | length }} tools")
    tool = Tool(name="f", description="", parameters={})
    request = GenerationRequest(messages=HELLO.messages, constraints=Constraints(tools=(tool,)))
    assert ("plain", "1 tools") == (template.render(HELLO), template.render(request))


def test_loop_controls_and_the_mark_of_answers_are_known() -> None:
    """Templates may use `break`, and mark the model's turns for training."""
    turn = "{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}{{ m.role }}{% endgeneration %}"
    source = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    assert "system" == render(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ messages[0].content.missing.deeper }}", "has no attribute"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 'a' * 100000000 }}", "too often"),
        ("{{ 10 ** 100000 }}", "power"),
        ("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}", "steps"),
        ("{% for i in range(1000) %}{{ 'a' * 100000 }}{% endfor %}", "characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_what_a_template_may_not_do_is_the_requests_error(source: str, reason: str) -> None:
    """A template that refuses the messages, leaves the sandbox or grows beyond its bounds ends in a PromptInvalid."""
    with pytest.raises(PromptInvalid, match=reason):
        render(source)


def test_a_broken_template_is_refused_with_its_line() -> None:
    """The model's file is at fault, so this is no request's error."""
    with pytest.raises(ValueError, match="line 2"):
        ChatTemplate("{# fine #}\n{% if %}", {})
