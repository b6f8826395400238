"""Why a model's preparation failed: its container's own sentence, or what Docker knows of the container's end. Pure."""

from __future__ import annotations

import signal

from controller.deployment.conversion_log import last_error, last_words
from controller.docker.container import Container
from controller.errors import ModelUnfit, PreparationFailed
from controller.supervisor.failures.card import failure_card
from controller.system.sizes import MIB

# A shell's and Docker's exit code for a process that a signal ended is this plus the signal's number.
_BY_SIGNAL = 128
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


def preparation_failure(container: Container, lines: list[str]) -> PreparationFailed:
    """Return the error of a prepare container that has ended with this log; its details are the failure card."""
    report = last_error(lines)
    if report is not None:
        sentence, is_unfit = report
        details = failure_card("preparing", container, log=lines).as_details()
        message = f"preparing {container.model_id} failed: {sentence}"
        if is_unfit:
            return ModelUnfit(message, reason=sentence, details=details)
        return PreparationFailed(message, details=details)
    what, fix = _end_without_report(container, lines)
    card = failure_card("preparing", container, log=lines, fix=fix)
    return PreparationFailed(f"preparing {container.model_id} failed: {what}; {fix}", details=card.as_details())


def _end_without_report(container: Container, lines: list[str]) -> tuple[str, str]:
    """Return what happened and what to do, if the process could not say so itself."""
    if container.oom_killed:
        limit = f"{container.memory_limit_bytes // MIB}m"
        return (
            f"it ran out of memory (its limit is {limit})",
            f"stop other models and programs to free memory; if this machine has more than {limit} free, raise "
            f"`mem_limit` and `memswap_limit` of the service `{container.service}` in compose/compose.override.yaml",
        )
    code = container.exit_code or 0
    if code - _BY_SIGNAL in _CRASHES:
        name = signal.Signals(code - _BY_SIGNAL).name
        return (
            f"its process crashed ({name}) and could not say why",
            "a library may not bear this file or this processor; choose another form of the model, or another engine",
        )
    if code in (_BY_SIGNAL + signal.SIGKILL, _BY_SIGNAL + signal.SIGTERM):
        return "its container was killed from outside (`docker kill`, or the machine ran out of memory)", "try again"
    words = last_words(lines)
    said = f"its last words were: {words}" if words else "it wrote no reason"
    return f"it ended with exit code {code}, and {said}", "details.log has the end of its log"
