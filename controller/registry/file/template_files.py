"""The chat templates that models.yaml names: read, and checked without running them."""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser

from controller.registry.file.checks import Finding
from controller.registry.file.problems import one_line, quoted
from controller.registry.file_watch import stamp_of
from controller.registry.spec import ChatTemplateFile

# The longest templates of published models have 30 KB.
MAX_TEMPLATE_BYTES = 256 * 1024
# The forms of calls that runner/tokenizer/chat_messages recognises in a template.
_FORMS_OF_CALLS = re.compile(r'<tool_call>|\[TOOL_CALLS\]|\\?"parameters\\?"')


class _GenerationTag(Extension):
    """`{% generation %}` marks the model's turns for training; otherwise it is only its content."""

    tags = {"generation"}  # noqa: RUF012  jinja's own attribute

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# What the templates of models may use beside Jinja's own.
EXTENSIONS = (_GenerationTag, loopcontrols)


class _Unfit(Exception):
    """Why a file cannot be a model's chat template, and what to do."""


def read_templates(value: Any, folder: Path) -> tuple[dict[str, ChatTemplateFile], list[Finding]]:
    """Return the chat templates by their models' ids, and what is wrong with those that cannot be used.

    `value` is the file's content, and `folder` where relative paths begin.
    """
    templates: dict[str, ChatTemplateFile] = {}
    findings: list[Finding] = []
    models = value.get("models") if isinstance(value, dict) else None
    for name, part in models.items() if isinstance(models, dict) else ():
        written = part.get("chat_template") if isinstance(part, dict) else None
        if not isinstance(written, str) or not written or "\0" in written:
            continue
        try:
            templates[name] = _read(folder / written)
        except _Unfit as error:
            findings.append((("models", name, "chat_template"), f"{quoted(written)} {error}"))
    return templates, findings


def _read(path: Path) -> ChatTemplateFile:
    # Before the content, so that a change after it is noticed as one.
    stamp = stamp_of(path)
    content = _content(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise _Unfit("holds bytes that are not UTF-8; save it as UTF-8") from None
    _parse(text)
    if not re.search(r"\bmessages\b", text):
        raise _Unfit("is no chat template, since it does not use `messages`; name a Jinja template")
    return ChatTemplateFile(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        has_tools=bool(re.search(r"\btools\b", text) and _FORMS_OF_CALLS.search(text)),
        stamp=stamp,
    )


def _content(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(mode):
            raise _Unfit("is not a regular file; name a file with a Jinja template")
        if not mode & stat.S_IROTH:
            raise _Unfit(f"is not readable for the container's user (uid 10001); make it so: chmod o+r {path}")
        with path.open("rb") as file:
            content = file.read(MAX_TEMPLATE_BYTES + 1)
    except FileNotFoundError:
        raise _Unfit("does not exist; write its path from the folder of this file, or an absolute one") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _Unfit(f"cannot be read ({reason}); name a file that your user may read") from None
    if len(content) > MAX_TEMPLATE_BYTES:
        raise _Unfit(f"is larger than {MAX_TEMPLATE_BYTES >> 10} KiB; name a file with a Jinja template")
    return content


def _parse(text: str) -> None:
    """Raise _Unfit for a template that is not valid. Nothing of it runs: not even its constants are computed."""
    try:
        Environment(autoescape=False, extensions=EXTENSIONS).parse(text)
    except TemplateSyntaxError as error:
        raise _Unfit(f"is no valid template: line {error.lineno}: {one_line(error.message or '', 200)}") from None
    except RecursionError:
        raise _Unfit("is no valid template: it is nested too deeply") from None
