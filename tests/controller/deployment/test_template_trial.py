"""A user's own chat template is tried before a model starts, in a process that is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.deployment import template_trial
from controller.deployment.template_trial import problem_of, render_problem

GOOD = """{# Written as models' own are. #}
{% for message in messages %}
    {%- if message.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}
{{ bos_token + message.role }}: {% generation %}{{ message.content | trim }}{% endgeneration %}
    {%- if loop.last %}{% break %}{% endif %}
{% endfor %}
{% if tools %}{{ tools | tojson(indent=4) }}{% endif %}
{{ strftime_now('%Y') }}{% if add_generation_prompt %}assistant:{% endif %}
"""


def test_a_template_as_models_have_it_is_fine(tmp_path: Path) -> None:
    """Loop controls, marks of answers, special tokens, dates and refusals of other turns are no problem."""
    path = tmp_path / "own.jinja"
    path.write_text(GOOD)
    assert problem_of(path, "good") is None


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{# fine #}\n{{ messages\n}", "line 3: unexpected '}'"),
        ("\n\n{{ messages | shout }}", "line 3: No filter named 'shout'."),
        ("{% for m in messages %}\n{{ raise_exception('no such turns') }}{% endfor %}", "line 2: no such turns"),
        ("{% macro f(m) %}\n{{ m.x.y }}{% endmacro %}\n{{ f(messages[0]) }}", "line 2: 'dict object' has no attribute"),
        ("{{ messages[0].role }}", "it leaves out what the user wrote"),
        ("{{ messages.__class__.__mro__ }}", "line 1: access to attribute '__class__'"),
    ],
)
def test_what_is_wrong_is_asked_with_its_line(source: str, problem: str) -> None:
    """A template that is not valid, that refuses a user's turn, or that loses its text."""
    assert (render_problem(source) or "").startswith(problem)


def test_a_template_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has a second of a processor here; the controller's own memory and threads are not touched."""
    monkeypatch.setattr(template_trial, "DEADLINE_S", 1.5)
    path = tmp_path / "own.jinja"
    path.write_text("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ messages }}")
    assert "it takes more than 5 s" in (problem_of(path, "slow") or "")


def test_a_template_that_takes_all_memory_is_ended(tmp_path: Path) -> None:
    """The message has its line, since Python notices."""
    path = tmp_path / "own.jinja"
    path.write_text("{{ messages }}\n{{ 'a' | center(10 ** 11) }}")
    assert "line 2: MemoryError" == problem_of(path, "large")
