"""The bytes of each token, read from a tokenizer's own description."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_table(description: str) -> list[bytes] | None:
    """Return the bytes of each token of a tokenizer.json; None if a token's text depends on its neighbours.

    Special tokens have none. Other added tokens go through the decoder, too, as in the library.
    """
    content = json.loads(description)
    model, decoder = content["model"], content.get("decoder") or {}
    kinds = {step["type"] for step in decoder.get("decoders", [decoder]) if step}
    if model.get("type") not in ("BPE", "Unigram"):
        return None
    if kinds == {"ByteLevel"}:
        to_bytes: Callable[[str], bytes] = _ByteLetters()
    elif "ByteFallback" in kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        to_bytes = _SentencePieces(_replacements(decoder))
    else:
        return None
    added = content.get("added_tokens") or []
    vocabulary: Mapping[str, int] = model["vocab"]
    if model["type"] == "Unigram":
        vocabulary = {token: number for number, (token, _score) in enumerate(model["vocab"])}
    size = 1 + max([*vocabulary.values(), *(token["id"] for token in added)], default=-1)
    table = [b""] * size
    for token, number in vocabulary.items():
        table[number] = to_bytes(token)
    for token in added:
        table[token["id"]] = b"" if token["special"] else to_bytes(token["content"])
    return table


def _replacements(decoder: Mapping[str, Any]) -> list[tuple[str, str]]:
    steps = decoder.get("decoders", [decoder])
    return [(step["pattern"]["String"], step["content"]) for step in steps if step["type"] == "Replace"]


class _ByteLetters:
    """Byte-level tokens write each byte as a letter (GPT-2's `bytes_to_unicode`)."""

    def __init__(self) -> None:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in set(printable)]
        self._bytes = {chr(byte): byte for byte in printable}
        self._bytes |= {chr(256 + place): byte for place, byte in enumerate(others)}

    def __call__(self, token: str) -> bytes:
        try:
            return bytes([self._bytes[letter] for letter in token])
        except KeyError:
            # Not made of such letters: the library shows the token as it is.
            return token.encode()


class _SentencePieces:
    """SentencePiece's tokens are text with a mark for spaces, or `<0xNN>` for one byte."""

    def __init__(self, replacements: list[tuple[str, str]]) -> None:
        self._replacements = replacements

    def __call__(self, token: str) -> bytes:
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        for mark, text in self._replacements:
            token = token.replace(mark, text)
        return token.encode()
