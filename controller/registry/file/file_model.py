"""The shape of models.yaml as pydantic classes: every key, its rule, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from controller.registry.file.rules import choice, duration, flag, number, one_or_many, size, text, whole
from controller.registry.source_ref import FORMS, MAX_SOURCE_LENGTH, SourceRef, parse_revision, parse_source
from controller.system.sizes import MIB, TIB

ID_PATTERN = r"^(?!.*\.\.)[a-z0-9][a-z0-9._-]{0,62}$"

MODEL_ID = text(
    "up to 63 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit, without '..'",
    longest=63,
    pattern=ID_PATTERN,
)
ALIAS = text(
    "up to 128 letters, digits, '.', '_', '-', ':' and '/', beginning with a letter or digit, without '..' and '//'",
    longest=128,
    pattern=r"^(?!.*(?:\.\.|//))[A-Za-z0-9](?:[A-Za-z0-9._:/-]{0,126}[A-Za-z0-9._-])?$",
)
IDLE_TIMEOUT = duration(
    1, 30 * 86_400, example="15m", why="a model needs a second between two requests", zero="never stop"
)
START_TIMEOUT = duration(
    1, 6 * 3600, example="120s", why="a start takes at least a second, and has failed if hours pass without progress"
)
MAX_WAIT = duration(0, 3600, example="60s", why="clients give up sooner")
MIN_RESIDENCY = duration(0, 3600, example="10s", why="other models wait for this long")
BUDGET = size(64 * MIB, 64 * TIB, example="8g", why="no model fits in less, no machine has more", word="auto")
MEMORY = size(16 * MIB, 64 * TIB, example="4g", why="no model starts in less, no machine has more")


def _env_name(name: str) -> str:
    if name.startswith("ORCHESTRAR_"):
        raise ValueError("names that begin with ORCHESTRAR_ are Orchestrar's own; write another name")
    if name.startswith("HF_"):
        raise ValueError("HF_ names are set by Orchestrar, and no token enters a container; remove it")
    return name


ENV_NAME = text(
    "letters, digits and '_', not beginning with a digit",
    longest=128,
    pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    parse=_env_name,
    editor_pattern=r"^(?!ORCHESTRAR_|HF_)[A-Za-z_][A-Za-z0-9_]*$",
)
SOURCE = text(
    f"one of {FORMS}", longest=MAX_SOURCE_LENGTH, parse=parse_source, editor_pattern=r"^(?:pypi|hf|file|https)://.+$"
)
STOP = text('text to stop at, such as "\\n\\n"', longest=256, pattern=r"^[\s\S]+$")
IMAGE = text(
    "an image's name, such as orchestrar-runner:latest",
    longest=255,
    pattern=r"^[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?::[0-9]{1,5}(?=/))?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$",
)


def _close_keys(schema: dict[str, Any]) -> None:
    # pydantic's own schema allows keys that do not match the pattern; editors should mark them.
    schema["additionalProperties"] = False


class FilePart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class DefaultsPart(FilePart):
    """Times for every model that does not set its own."""

    idle_timeout: Annotated[float, IDLE_TIMEOUT] = Field(
        default="15m", validate_default=True, description="A model stops this long after its last request. 0 = never."
    )
    start_timeout: Annotated[float, START_TIMEOUT] = Field(
        default="120s",
        validate_default=True,
        description="A start fails after this long without any progress (progress extends it).",
    )
    max_wait: Annotated[float, MAX_WAIT] = Field(
        default="60s",
        validate_default=True,
        description="The longest that a request waits for its model, queue and start together.",
    )
    min_residency: Annotated[float, MIN_RESIDENCY] = Field(
        default="10s", validate_default=True, description="A model that just became ready keeps its place this long."
    )


class ResourcesPart(FilePart):
    """What the model's container may use."""

    cpus: Annotated[float, number(0.1, 1024, example=2, why="a model needs at least a tenth of a core")] = Field(
        default=2.0, description="Processor cores."
    )
    memory: Annotated[int | None, MEMORY] = Field(
        default=None, description="Memory limit (k, m, g, t are powers of 1024). Unset: estimated from the weights."
    )
    gpus: Annotated[int, whole(0, 64, example=1, why="a machine has at most 64")] = Field(
        default=0, description="Number of GPUs."
    )


class GenerationPart(FilePart):
    """Parameters for requests that do not set their own."""

    max_tokens: Annotated[int | None, whole(1, 1_000_000, example=256, why="an answer has at least one token")] = Field(
        default=None, description="The longest answer, in tokens."
    )
    temperature: Annotated[float | None, number(0, 2, example=0.7, why="the API allows 0 to 2")] = Field(
        default=None, description="0 always takes the likeliest token; higher is more varied."
    )
    top_p: Annotated[float | None, number(0.0001, 1, example=0.9, why="it is a share of the probability")] = Field(
        default=None, description="Samples from the likeliest tokens that hold this share of the probability."
    )
    top_k: Annotated[int | None, whole(0, 1_000_000, example=50, why="it counts tokens")] = Field(
        default=None, description="Samples from this many of the likeliest tokens. 0 = all."
    )
    stop: Annotated[
        tuple[str, ...], one_or_many(STOP, most=8, write='a text or a list of texts, such as ["\\n\\n"]')
    ] = Field(default=(), description="Text, or up to 8 texts, at which the answer ends.")
    seed: Annotated[int | None, whole(0, 2**63 - 1, example=42, why="it has 63 bits")] = Field(
        default=None, description="Makes sampling repeatable."
    )


class ModelPart(FilePart):
    """One model."""

    source: Annotated[SourceRef, SOURCE] = Field(description=f"Where the model's files come from: {FORMS}.")
    engine: Annotated[
        str,
        text("auto, or the name of a file in templates/engines", longest=63, editor_pattern=r"^[a-z0-9][a-z0-9._-]*$"),
    ] = Field(default="auto", description="What serves the model: auto, or the name of a file in templates/engines.")
    aliases: tuple[Annotated[str, ALIAS], ...] = Field(
        default=(), description="Other names of the model, unique in the file, such as Qwen/Qwen3-0.6B or llama3.2:1b."
    )
    task: Annotated[str, choice("chat", "completion", "embedding")] = Field(
        default="chat", description="What the model is for."
    )
    preload: Annotated[bool, flag()] = Field(default=False, description="Start with the controller.")
    pinned: Annotated[bool, flag()] = Field(default=False, description="Never stopped to make room for others.")
    revision: Annotated[
        str | None, text("a branch, a tag or a commit hash, such as main", longest=200, parse=parse_revision)
    ] = Field(default=None, description="Branch, tag or commit of an hf:// source (or write hf://owner/name@revision).")
    sha256: Annotated[
        str | None,
        text("the file's 64 hexadecimal digits, in quotes", longest=64, pattern=r"^[0-9a-fA-F]{64}$", parse=str.lower),
    ] = Field(default=None, description="Checksum of a single file; required for https:// sources.")
    port: Annotated[int | None, whole(1024, 65535, example=8001, why="ports below 1024 belong to the system")] = Field(
        default=None, description="Port on 127.0.0.1. Unset: chosen from 8001 up, and kept."
    )
    dtype: Annotated[str, choice("auto", "bfloat16", "float16", "float32")] = Field(
        default="auto", description="Number format of the weights while serving."
    )
    context_length: Annotated[
        int | None, whole(16, 1 << 24, example=4096, why="it counts the tokens of prompt and answer")
    ] = Field(default=None, description="Longest prompt and answer together, in tokens. Unset: the model's own.")
    chat_template: Annotated[
        str | None,
        text("the path of a Jinja file, from the folder of this one", longest=1024, pattern=r"(?s).+"),
    ] = Field(
        default=None,
        description="Path, from this file's folder, of a Jinja chat template instead of the model's own.",
    )
    max_concurrency: Annotated[int | None, whole(1, 1024, example=8, why="it counts requests served at once")] = Field(
        default=None, description="Requests served at the same time. Unset: as many as suit the engine."
    )
    max_queue: Annotated[int, whole(0, 100_000, example=64, why="it counts requests that wait")] = Field(
        default=64, description="Requests that may wait for a free place."
    )
    generation: GenerationPart = Field(default_factory=GenerationPart)
    resources: ResourcesPart = Field(default_factory=ResourcesPart)
    env: dict[Annotated[str, ENV_NAME], Annotated[str, text('text in quotes, such as "1"', longest=32_768)]] = Field(
        default_factory=dict,
        description="Environment of the container; values are text. ORCHESTRAR_* and HF_* are reserved.",
        json_schema_extra=_close_keys,
    )
    image: Annotated[str | None, IMAGE] = Field(
        default=None,
        description="Image instead of the engine's own: by digest or by id, unless the engine is Orchestrar's runner.",
    )
    args: tuple[Annotated[str, text('text in quotes, such as "--flag"', longest=4096)], ...] = Field(
        default=(), description="Further command line arguments of the engine."
    )
    isolation: Annotated[str, choice("default")] = Field(
        default="default", description="How the container is isolated."
    )
    idle_timeout: Annotated[float | None, IDLE_TIMEOUT] = Field(
        default=None, description="Instead of defaults.idle_timeout. 0 = never stop."
    )
    start_timeout: Annotated[float | None, START_TIMEOUT] = Field(
        default=None, description="Instead of defaults.start_timeout."
    )
    max_wait: Annotated[float | None, MAX_WAIT] = Field(default=None, description="Instead of defaults.max_wait.")
    min_residency: Annotated[float | None, MIN_RESIDENCY] = Field(
        default=None, description="Instead of defaults.min_residency."
    )


class ModelsFile(FilePart):
    """Orchestrar's model registry."""

    defaults: DefaultsPart = Field(default_factory=DefaultsPart)
    memory_budget: Annotated[int | None, BUDGET] = Field(
        default="auto",
        validate_default=True,
        description="Memory for all models together. auto: min(80 % of the engine's, what is free + what models hold).",
    )
    models: dict[Annotated[str, MODEL_ID], ModelPart] = Field(
        description="The models, each under its id.", json_schema_extra=_close_keys
    )
