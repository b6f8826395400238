"""What a template says of its engine beside the lines of the Compose file: all that the controller has to know."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

BY_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
BY_ID = re.compile(r"sha256:[0-9a-f]{64}")
# GGUF's way to name the parts of one model.
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.)")

# What an engine may ask to have otherwise. Privileges, namespaces of the host, ports and mounts are not among them.
Line: TypeAlias = Literal[
    "user",
    "read_only",
    "cap_drop",
    "cap_add",
    "security_opt",
    "pids_limit",
    "init",
    "tmpfs",
    "shm_size",
    "ulimits",
    "group_add",
    "devices",
]


class Relaxation(BaseModel):
    """A line of the hardening that the engine's image needs otherwise, and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: Any
    why: Annotated[str, Field(min_length=10)]


class Engine(BaseModel):
    """The facts of one engine: `{% set engine = {…} %}` in its template."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    own: bool = False
    """Our runner: it speaks the native API too, takes its settings from the environment alone, and is built here."""
    image: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Where the server listens inside its container."""
    ready: Annotated[str, Field(pattern=r"^/[!-~]*$")] = "/health"
    """The path that answers 200 once the model serves."""
    routes: list[str] = []
    """What it serves of the OpenAI API; our runner serves all of it."""
    loads: str | None = None
    """Which file of the source is loaded, such as `*.gguf`; None where the server is given the whole folder."""
    overhead_mib: Annotated[int, Field(ge=0)] = 1024
    """Memory beside weights and KV cache."""
    relaxed: dict[Line, Relaxation] = {}

    @model_validator(mode="after")
    def _foreign_is_bounded(self) -> Engine:
        if not self.own and not self.routes:
            raise ValueError('routes: name what the server serves, such as ["/v1/chat/completions"]')
        if not self.own and self.image is not None and not is_pinned(self.image):
            raise ValueError("image: a tag may mean another image tomorrow; write name@sha256:…")
        return self

    def loaded(self, names: Collection[str]) -> str | None:
        """The one file among these that the server is told to load, or its first part; None when it is not one."""
        if self.loads is None:
            return None
        found = sorted(n for n in names if fnmatch(n.lower(), self.loads) and not n.lower().startswith("mmproj"))
        return found[0] if len({_PART.sub("", name) for name in found}) == 1 else None

    def relaxations(self) -> list[dict[str, str]]:
        """What this engine's containers have otherwise than all others, and why."""
        return [{"what": f"{line}: {json.dumps(r.to)}", "why": r.why} for line, r in self.relaxed.items()]


def is_pinned(image: str) -> bool:
    """Whether the reference means the same image for ever: by digest, or by the id of an image on this machine."""
    return bool(BY_DIGEST.fullmatch(image) or BY_ID.fullmatch(image))
