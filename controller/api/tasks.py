"""What a model is asked for must be what it is for: told before it is started."""

from __future__ import annotations

from dataclasses import dataclass

from controller.errors import TaskUnsupported
from controller.registry import ModelSpec


@dataclass(frozen=True)
class Use:
    """Something that models of some tasks can be asked for, and how one of another task declines."""

    tasks: frozenset[str]
    refusal: str


CHAT = Use(frozenset({"chat"}), "is no chat model and takes no messages")
TEXT = Use(frozenset({"chat", "completion"}), "generates no text")
EMBEDDINGS = Use(frozenset({"embedding"}), "makes no embeddings")

_ROUTES = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "embedding": "/v1/embeddings"}


def require(use: Use, spec: ModelSpec, name: str, *, param: str) -> None:
    """Raises TaskUnsupported, with the name that the client wrote, unless the model is for this."""
    if spec.task not in use.tasks:
        other = " or ".join(f"`task: {task}`" for task in sorted(use.tasks))
        raise TaskUnsupported(
            f"{name} {use.refusal}: its task in models.yaml is {spec.task}; ask it by {_ROUTES[spec.task]}, "
            f"or a model with {other}",
            param=param,
        )
