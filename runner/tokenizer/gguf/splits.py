"""How byte-level BPE tokenizers cut a text into the pieces within which they merge: one row for each kind.

A GGUF file names the kind (`tokenizer.ggml.pre`). The names are llama.cpp's (`src/llama-vocab.cpp`, version 11434); the
patterns are those of the models' own tokenizer.json, which llama.cpp quotes where it had to write another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# English endings after an apostrophe, in both cases.
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SYMBOLS_THEN_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT4 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS_THEN_SPACES}"
_QWEN2 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}|{_SYMBOLS_THEN_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# A word's capitals and small letters, so that "HelloWorld" is two pieces.
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SYMBOLS_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = rf"{_CASED[0]}{_ENDINGS}?|{_CASED[1]}{_ENDINGS}?|\p{{N}}{{1,3}}|{_SYMBOLS_WITH_SLASH}"
_TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SYMBOLS_WITH_SLASH}"
_ASCII_SYMBOL = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3 = (
    rf"{_ASCII_SYMBOL}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHINESE_AND_JAPANESE = r"[一-龥぀-ゟ゠-ヿ]+"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
# The letters with two cases that DeepSeek's first models name one by one.
_DEEPSEEK_LETTERS = (
    "\\s?["
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ"
    "-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼ"
    "ℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)


@dataclass(frozen=True, kw_only=True)
class Split:
    """The patterns are applied one after the other; what one matches is a piece that later ones may cut further."""

    patterns: tuple[str, ...] = ()
    has_gpt2_pattern: bool = False
    """Whether the library's own pattern, which is GPT-2's, comes last."""
    is_composed: bool = False
    """Whether the text is brought to Unicode's composed form (NFC) first."""
    prefers_whole_words: bool = False
    """Whether a piece that is a token is not merged from its parts (`ignore_merges`)."""
    adds_bos: bool = False
    """Whether raw prompts begin with BOS if the file does not say."""
    byte_patterns: tuple[str, ...] = ()
    """Patterns for the pieces after each byte became a letter."""


_DIGITS = r"\p{N}"
# The library's `Punctuation`: Unicode's and all of ASCII's.
_PUNCTUATION = r"[\p{P}$+<=>^~|`]+"
_DEEPSEEK3_STEPS = Split(patterns=(r"\p{N}{1,3}", _CHINESE_AND_JAPANESE, _DEEPSEEK3))

SPLITS: Mapping[str, Split] = {
    **dict.fromkeys(
        (
            *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
            "jina-v5-nano",
        ),
        Split(patterns=(_GPT4,), prefers_whole_words=True, adds_bos=True),
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx"), Split(patterns=(_GPT4,))),
    **dict.fromkeys(("glm4", "glm5"), Split(patterns=(_GPT4,), prefers_whole_words=True)),
    "chatglm-bpe": Split(patterns=(_GPT4,)),
    **dict.fromkeys(
        (
            *("gpt-2", "phi-2", "jais", "mellum", "exaone4"),
            *("gigachat", "a.x-4.0", "trillion", "granite-docling"),
        ),
        Split(has_gpt2_pattern=True),
    ),
    # GPT-NeoX's.
    **dict.fromkeys(("mpt", "olmo"), Split(has_gpt2_pattern=True, is_composed=True)),
    **dict.fromkeys(
        ("starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
        Split(patterns=(_DIGITS,), has_gpt2_pattern=True),
    ),
    "command-r": Split(patterns=(_DIGITS,), has_gpt2_pattern=True, is_composed=True),
    "falcon": Split(
        patterns=(_PUNCTUATION,), has_gpt2_pattern=True, byte_patterns=(r"\p{N}+", "[0-9][0-9][0-9]")
    ),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "f2llmv2", "stablelm2", "hunyuan"),
        Split(patterns=(_QWEN2,), is_composed=True),
    ),
    **dict.fromkeys(("solar-open", "grok-2"), Split(patterns=(_QWEN2,))),
    "qwen35": Split(
        patterns=(
            rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        is_composed=True,
    ),
    "tekken": Split(patterns=(_TEKKEN,), prefers_whole_words=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), Split(patterns=(_GPT4O,), prefers_whole_words=True)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK3_STEPS),
    "deepseek-llm": Split(
        patterns=(
            r"[\r\n]",
            _DEEPSEEK_LETTERS,
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            r"[一-龥ࠀ-一가-퟿]+",
            _DIGITS,
        )
    ),
    "deepseek-coder": Split(patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", _DIGITS)),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), Split(patterns=(_BLOOM,))),
    "viking": Split(patterns=(_BLOOM, _DIGITS)),
    "seed-coder": Split(
        patterns=(
            rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        )
    ),
    **dict.fromkeys(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        Split(
            patterns=(
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
                r"|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    **dict.fromkeys(
        ("tiny_aya", "cohere2moe"), Split(patterns=(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O))
    ),
    "jais-2": Split(
        patterns=(
            rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
            r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)"
            r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        )
    ),
    "exaone-moe": Split(
        patterns=(
            rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "minicpm5": Split(
        patterns=(r"\p{N}{1,3}", rf"{_ENDINGS}|{_LETTERS}|\p{{N}}+|{_SYMBOLS_THEN_SPACES}"), prefers_whole_words=True
    ),
}  # fmt: skip
