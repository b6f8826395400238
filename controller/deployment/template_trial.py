"""Tries whether a chat template writes a user's turn: `python -m controller.deployment.template_trial FILE`.

A template is a program, often from elsewhere. So it runs in a sandbox, and in a process of its own with limits: it can
neither take the controller's memory nor hold one of its threads.
"""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import traceback
from datetime import datetime
from pathlib import Path

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from controller.registry.file.template_files import EXTENSIONS

# A busy machine may give it little of a processor.
DEADLINE_S = 60.0
_CPU_S = 5
_MEMORY_BYTES = 1 << 30
_CHECKOUT = Path(__file__).resolve().parents[2]
_TURN = "Hello"
# Templates add them to texts, so they must be texts.
_SPECIAL_TOKENS = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}


@functools.lru_cache(maxsize=256)
def problem_of(path: Path, _sha256: str) -> str | None:
    """Return why the template in this file cannot be used, with its line; None if it writes a user's turn.

    Each content, by its hash, is tried once.
    """
    command = [sys.executable, "-m", "controller.deployment.template_trial", str(path)]
    try:
        result = subprocess.run(
            command, cwd=_CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=True
        )
        problem = json.loads(result.stdout)["problem"]
    except (subprocess.SubprocessError, ValueError, KeyError):
        return f"it takes more than {_CPU_S} s of a processor, or more than {_MEMORY_BYTES >> 20} MiB"
    return None if problem is None else " ".join(str(problem).split())


def render_problem(source: str) -> str | None:
    """Return the same for a template's text. It runs in this process."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS)
    environment.globals.update(raise_exception=_raise_exception, strftime_now=datetime.now().strftime)
    messages = [{"role": "user", "content": _TURN}]
    try:
        template = environment.from_string(source)
        text = template.render(_SPECIAL_TOKENS, messages=messages, tools=None, add_generation_prompt=True)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except Exception as error:  # A template may raise whatever Python raises.
        return f"line {_line(error)}: {str(error) or type(error).__name__}"
    return None if _TURN in text else "it leaves out what the user wrote"


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _line(error: Exception) -> int | str:
    """Return the template's line at which it failed."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else "?"


def main() -> None:
    """Print the problem of the file named on the command line, as JSON."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        problem = render_problem(Path(sys.argv[1]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"it cannot be read: {error}"
    print(json.dumps({"problem": problem}))


if __name__ == "__main__":
    main()
