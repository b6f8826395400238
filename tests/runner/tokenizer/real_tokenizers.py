"""Models' own tokenizers, and what llama.cpp's converter writes into a GGUF file for them."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import Tokenizer, pre_tokenizers

from runner.tokenizer.chat_template import ChatTemplate
from runner.tokenizer.folder import read_json, read_template

_TYPES = {"normal": 1, "unknown": 2, "control": 3, "user_defined": 4, "unused": 5, "byte": 6}


@dataclass(frozen=True)
class OwnTokenizer:
    """A tokenizer in the library for which its model was published. `decode` leaves special tokens out."""

    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    metadata: dict[str, Any]
    special_names: Sequence[str]
    template: ChatTemplate | None = None


def from_json(path: Path, pre: str | None) -> OwnTokenizer:
    """Return the tokenizer of a tokenizer.json, with what is beside it; without `pre` it is SentencePiece's."""
    content = json.loads(path.read_text(encoding="utf-8"))
    library = Tokenizer.from_file(str(path))
    config = read_json(path.with_name("tokenizer_config.json"))
    named = {name: config.get(f"{name}_token") for name in ("bos", "eos")}
    names = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items() if token}
    ids = {f"tokenizer.ggml.{name}_token_id": library.token_to_id(token) for name, token in names.items()}
    return OwnTokenizer(
        lambda text: library.encode(text, add_special_tokens=False).ids,
        lambda tokens: str(library.decode(tokens, skip_special_tokens=True)),
        gguf_metadata(content, pre=pre) | ids | _templates(config),
        [token["content"] for token in content["added_tokens"]],
        read_template(path.parent, config, {f"{name}_token": token for name, token in names.items()}),
    )


def _templates(config: dict[str, Any]) -> dict[str, str]:
    """Return the chat templates as llama.cpp's converter writes them."""
    template, key = config.get("chat_template"), "tokenizer.chat_template"
    if isinstance(template, list):
        return {key if one["name"] == "default" else f"{key}.{one['name']}": one["template"] for one in template}
    return {key: template} if template else {}


def from_word_pieces(path: Path) -> OwnTokenizer:
    """Return the tokenizer of a BERT model's tokenizer.json."""
    content = json.loads(path.read_text(encoding="utf-8"))
    library = Tokenizer.from_file(str(path))
    library.no_padding()
    library.no_truncation()
    special = [token["content"] for token in content["added_tokens"]]
    names = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    tokens = [name if name in special else name[2:] if name.startswith("##") else f"▁{name}" for name in names]
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_TYPES["control" if name in special else "normal"] for name in names],
    }
    return OwnTokenizer(
        lambda text: library.encode(text, add_special_tokens=False).ids,
        lambda tokens: str(library.decode(tokens, skip_special_tokens=True)),
        metadata,
        special,
    )


def from_ranks(path: Path, pre: str, *, pattern: str, special: Sequence[str], is_composed: bool) -> OwnTokenizer:
    """Return the tokenizer of a `.tiktoken` file: for each token its bytes in base 64, and its rank."""
    lines = [line.split() for line in path.read_bytes().splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special_ids = {name: len(ranks) + place for place, name in enumerate(special)}
    library = tiktoken.Encoding(pre, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_ids)

    def encode(text: str) -> list[int]:
        return library.encode(unicodedata.normalize("NFC", text) if is_composed else text, allowed_special="all")

    def decode(tokens: Sequence[int]) -> str:
        return library.decode([token for token in tokens if token < len(ranks)])

    letters = {token: _letters(token) for token in ranks}
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*(letters[token] for token in sorted(ranks, key=ranks.__getitem__)), *special],
        "tokenizer.ggml.token_type": [_TYPES["normal"]] * len(ranks) + [_TYPES["control"]] * len(special),
        "tokenizer.ggml.merges": [f"{letters[left]} {letters[right]}" for left, right in _merges(ranks)],
    }
    return OwnTokenizer(encode, decode, metadata, special)


def gguf_metadata(content: dict[str, Any], *, pre: str | None) -> dict[str, Any]:
    """Return what llama.cpp's converter writes for this tokenizer.json."""
    vocabulary = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content["added_tokens"]}}
    size = 1 + max(vocabulary.values())
    tokens, types = [f"[PAD{number}]" for number in range(size)], [_TYPES["unused"]] * size
    for token, number in vocabulary.items():
        tokens[number], types[number] = token, _TYPES["normal"]
        if pre is None and token.startswith("<0x") and len(token) == 6:
            types[number] = _TYPES["byte"]
    for token in content["added_tokens"]:
        types[token["id"]] = _TYPES["control" if token["special"] else "user_defined"]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if pre is None else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }
    if pre is None:
        unknown = content["model"]["unk_token"]
        types[vocabulary[unknown]] = _TYPES["unknown"]
        metadata["tokenizer.ggml.unknown_token_id"] = vocabulary[unknown]
        metadata["tokenizer.ggml.scores"] = _scores(content["model"], size)
        metadata["tokenizer.ggml.add_space_prefix"] = "Prepend" in json.dumps(content["normalizer"])
    else:
        merges = content["model"]["merges"]
        metadata["tokenizer.ggml.pre"] = pre
        metadata["tokenizer.ggml.merges"] = [one if isinstance(one, str) else " ".join(one) for one in merges]
    return metadata


def _scores(model: dict[str, Any], size: int) -> list[float]:
    """Return scores by which SentencePiece merges in the order of the merges: the earlier, the higher."""
    order: dict[str, int] = {}
    for place, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        order.setdefault(left + right, place)
    scores = [0.0] * size
    for token, number in model["vocab"].items():
        scores[number] = -float(order.get(token, len(model["merges"])))
    return scores


def _letters(token: bytes) -> str:
    """Return a token as byte-level vocabularies write it."""
    return "".join(_LETTERS[byte] for byte in token)


def _byte_letters() -> dict[int, str]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    as_themselves = {ord(letter): letter for letter in alphabet if ord(letter) < 256}
    others = [byte for byte in range(256) if byte not in as_themselves]
    return as_themselves | dict(zip(others, (letter for letter in alphabet if ord(letter) >= 256), strict=True))


_LETTERS = _byte_letters()


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return every way to put a token together from two others, in the order of the tokens' ranks."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges
