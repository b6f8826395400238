"""The body of `POST /v1/embeddings`: what a client may want to have embedded, and how it wants to be told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator

from runner.api.bodies.native import StrictBody, checked, read_object

# OpenAI's own bound, which its clients know.
MAX_INPUTS = 2048
MAX_TOKEN = 2**31 - 1


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, a list of texts, the tokens of a text, or a list of those: as a list in each case."""
    many = value if isinstance(value, list) and not _are_tokens(value) else [value]
    if len(many) > MAX_INPUTS:
        raise ValueError(f"has {len(many)} texts; send at most {MAX_INPUTS} at once")
    if not many or "" in many or [] in many:
        raise ValueError("is empty, or holds a text that is; leave that out")
    if all(isinstance(one, str) for one in many):
        _check_characters(many)
        return tuple(many)
    if all(isinstance(one, list) and _are_tokens(one) for one in many):
        return tuple(tuple(one) for one in many)
    raise ValueError("is no text, list of texts, list of token numbers or list of those lists")


def _check_characters(texts: list[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate); write whole ones") from None


def _are_tokens(value: list[Any]) -> bool:
    # To Python, True is a number too.
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
    """The body, or Refused with the parameter at fault."""
    return checked(EmbeddingsBody, read_object(data))
