"""The facts that a template states about its engine: all that the controller has to know of it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.registry import ModelSpec
from controller.registry.engine_facts import AutoRule
from controller.registry.spec import Dtype, Task
from controller.sources.weights import gguf_models

BY_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
BY_ID = re.compile(r"sha256:[0-9a-f]{64}")
# How GGUF files that are parts of one model are named.
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.)")

# What an engine may change. Privileges, namespaces of the host, ports and mounts are not among them.
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
    """Another value for a line of the hardening, because the engine's image needs it, and the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: Any
    why: Annotated[str, Field(min_length=10)]


class Build(BaseModel):
    """How the engine's image is built here, under the engine's name.

    Of our own runner: the target of runner/Dockerfile and its wheels. Of another server: the folder in servers/.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    compiler: bool = False
    """Whether the build compiles code, which takes an image with a compiler."""


class Engine(BaseModel):
    """The facts of one engine: `{% set engine = {…} %}` in its template."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    own: bool = False
    """Our runner: it also speaks the native API and takes all its settings from the environment."""
    image: str | None = None
    build: Build | None = None
    """None for an image that is not built here."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Where the server listens inside its container."""
    ready: Annotated[str, Field(pattern=r"^/[!-~]*$")] = "/health"
    """The path that answers 200 once the model serves."""
    routes: list[str] = []
    """The routes of the OpenAI API that it serves; our runner serves all of them."""
    tasks: list[Task] = ["chat", "completion", "embedding"]
    """The values of `task:` that it serves."""
    auto: AutoRule | None = None
    """Which models `engine: auto` gives to it; None if models have to name the engine."""
    chat_template: bool = False
    """Whether it takes a chat template of the user's own, `model.chat_template` of its template."""
    loads: str | None = None
    """Which file of the source is loaded, such as `*.gguf`; None if the server gets the whole folder."""
    converts: list[Annotated[str, Field(pattern=r"^[a-z0-9]+$")]] = []
    """Endings of the files that have to be converted before it can load them, such as `gguf`."""
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = ModelSpec.max_concurrency
    """Requests in flight when models.yaml does not say."""
    overhead_mib: Annotated[int, Field(ge=0)] = 1024
    """Memory beside weights and KV cache: interpreter, libraries, work buffers."""
    keeps_weights: bool = False
    """Whether weights stay in memory as they are in the file, whatever the `dtype`."""
    kv_dtype: Dtype | None = None
    """The number format of the KV cache; None if it is the model's `dtype`."""
    kv_sequences: Annotated[int, Field(ge=1)] | None = None
    """For how many sequences of full length it holds a KV cache; None if for each of `max_concurrency`."""
    relaxations: dict[Line, Relaxation] = Field(default={}, alias="relaxed")
    """The lines of the hardening that its image needs to differ."""

    @model_validator(mode="after")
    def _third_party_is_bounded(self) -> Engine:
        if self.own:
            return self
        if not self.routes:
            raise ValueError('routes: name what the server serves, such as ["/v1/chat/completions"]')
        if self.image is not None and self.build is None and not is_pinned(self.image):
            raise ValueError("image: a tag may mean another image tomorrow; write name@sha256:…")
        for fact in ("converts", "keeps_weights", "kv_dtype", "kv_sequences"):
            if getattr(self, fact):
                raise ValueError(f"{fact}: only our own runner's engines have it; remove it")
        return self

    @property
    def reads_any_weights(self) -> bool:
        """Whether only the engine itself knows which quantised safetensors it reads: a server of another project."""
        return not self.own and self.loads is None

    @property
    def takes_gguf(self) -> bool:
        """Whether the one file that it loads is a GGUF file."""
        return self.loads is not None and fnmatch("model.gguf", self.loads)

    def must_convert(self, names: Collection[str]) -> bool:
        """Tell whether these files have to be converted before the engine can load them."""
        return any(name.lower().endswith(f".{form}") for name in names for form in self.converts)

    def file_to_load(self, names: Collection[str]) -> str | None:
        """Return the one file among these that the server loads, or its first part; None if there is no single one."""
        if self.loads is None:
            return None
        models = set(gguf_models(names))
        files = sorted(n for n in names if fnmatch(n.lower(), self.loads) and (n in models or not _is_gguf(n)))
        return files[0] if len({_PART.sub("", name) for name in files}) == 1 else None

    def describe_relaxations(self) -> list[dict[str, str]]:
        """Return what differs in this engine's containers, and why, for `/status`."""
        return [{"what": f"{line}: {json.dumps(r.to)}", "why": r.why} for line, r in self.relaxations.items()]


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def is_pinned(image: str) -> bool:
    """Tell whether the reference always means the same image: by digest, or by the id of an image on this machine."""
    return bool(BY_DIGEST.fullmatch(image) or BY_ID.fullmatch(image))
