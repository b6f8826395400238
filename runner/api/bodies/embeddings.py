"""The body of `POST /v1/embeddings`: the texts to embed, and the form of the vectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator

from runner.api.bodies.native import StrictBody, read_object, validate

# OpenAI's bound, which its clients know.
MAX_INPUTS = 2048
MAX_TOKEN = 2**31 - 1


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """Return the inputs as a list: a text, a list of texts, the tokens of a text, or a list of those."""
    many = value if isinstance(value, list) and not _are_tokens(value) else [value]
    if len(many) > MAX_INPUTS:
        raise ValueError(f"has {len(many)} texts; send at most {MAX_INPUTS} at once")
    if not many or "" in many or [] in many:
        raise ValueError("is empty or has an empty text; leave that out")
    if all(isinstance(one, str) for one in many):
        _check_characters(many)
        return tuple(many)
    if all(isinstance(one, list) and _are_tokens(one) for one in many):
        return tuple(tuple(one) for one in many)
    raise ValueError("must be a text, a list of texts, a list of token numbers or a list of such lists")


def _check_characters(texts: list[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise ValueError("has half a character (a lone surrogate); write whole characters") from None


def _are_tokens(value: list[Any]) -> bool:
    # In Python, True is a number, too.
    return bool(value) and all(type(one) is int and 0 <= one <= MAX_TOKEN for one in value)


class EmbeddingsBody(StrictBody):
    """`POST /v1/embeddings`."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input: Annotated[tuple[str | tuple[int, ...], ...], PlainValidator(_inputs)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool | None = None


def parse_embeddings_body(data: bytes) -> EmbeddingsBody:
    """Return the body; raise RequestRefused with the parameter at fault."""
    return validate(EmbeddingsBody, read_object(data))
