"""A tokenizer from a GGUF file's metadata, on vocabularies small enough to see through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.engine import EngineError, GenerationRequest, Message, ModelUnfit, PromptInvalid
from runner.tokenizer import ModelTokenizer, load_tokenizer, write_tokenizer
from runner.tokenizer.ends import turn_ends
from runner.tokenizer.gguf.splits import SPLITS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
BYTES = [chr(number) for number in range(0x21, 0x7F)]


def byte_level(**keys: Any) -> dict[str, Any]:
    """Return metadata with ASCII's letters, the space `Ġ`, one merge, two control tokens and one of a user."""
    tokens = [*BYTES, "Ġ", "Ċ", "ab", "<|im_start|>", "<|im_end|>", "<think>"]
    types = [NORMAL] * (len(tokens) - 3) + [CONTROL, CONTROL, USER_DEFINED]
    metadata = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": types,
        "merges": ["a b"],
        "eos_token_id": tokens.index("<|im_start|>"),
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | keys).items() if value is not None}


def sentence_pieces(**keys: Any) -> dict[str, Any]:
    """Return metadata of a SentencePiece vocabulary with byte fallback."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 5]
    scores = [0.0] * 259 + [-5.0, -4.0, -3.0, -2.0, -1.0]
    metadata = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores}
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | keys).items()}


def probable_pieces(**keys: Any) -> dict[str, Any]:
    """Return metadata of a unigram vocabulary as T5 has it: `ab` is less probable than `a` and `b`, `▁ab` is more."""
    metadata = {
        "model": "t5",
        "tokens": ["<pad>", "</s>", "<unk>", "▁", "a", "b", "ab", "▁ab"],
        "token_type": [CONTROL, CONTROL, UNKNOWN, *[NORMAL] * 5],
        "scores": [0.0, 0.0, 0.0, -2.5, -2.5, -2.5, -9.5, -3.5],
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | keys).items()}


def word_pieces(**keys: Any) -> dict[str, Any]:
    """Return metadata of a BERT vocabulary: `▁` marks what begins a word."""
    metadata = {
        "model": "bert",
        "tokens": ["[UNK]", "[CLS]", "[SEP]", "▁ab", "ab", "▁é", "▁e", "▁,"],
        "token_type": [CONTROL] * 3 + [NORMAL] * 5,
        "unknown_token_id": 0,
        "cls_token_id": 1,
        "seperator_token_id": 2,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (metadata | keys).items()}


def tokenizer_of(metadata: dict[str, Any], folder: Path, *, has_chat: bool = False) -> ModelTokenizer:
    write_tokenizer(metadata, folder)
    return load_tokenizer(folder, has_chat=has_chat)


def text_of(tokenizer: ModelTokenizer, tokens: tuple[int, ...]) -> str:
    detokenizer = tokenizer.detokenizer()
    return "".join(map(detokenizer.feed, tokens)) + detokenizer.flush()


def test_control_tokens_have_no_text_and_others_do(tmp_path: Path) -> None:
    """`<think>`, which the file does not call a control token, stays in answers; `<|im_start|>` does not."""
    tokenizer = tokenizer_of(byte_level(), tmp_path)
    tokens = tokenizer.encode_text("<|im_start|>ab<think>ab", add_special_tokens=False)
    assert 4 == len(tokens)
    assert "ab<think>ab" == text_of(tokenizer, tokens)


def test_raw_prompts_begin_as_the_file_says(tmp_path: Path) -> None:
    """BOS and EOS are added where the file says so; a file that says nothing has its kind's usual."""
    with_bos = tokenizer_of(
        byte_level(add_bos_token=True, bos_token_id=96, add_eos_token=True, eos_token_id=5), tmp_path
    )
    assert [96, 64, 5] == [*with_bos.encode_text("a", add_special_tokens=True)]
    assert [64] == [*tokenizer_of(byte_level(bos_token_id=96), tmp_path).encode_text("a", add_special_tokens=True)]
    assert 1 == tokenizer_of(sentence_pieces(), tmp_path).encode_text("a", add_special_tokens=True)[0]
    without = tokenizer_of(sentence_pieces(add_bos_token=False), tmp_path)
    assert 1 not in without.encode_text("a", add_special_tokens=True)


def test_sentence_pieces_fall_back_to_bytes(tmp_path: Path) -> None:
    """A letter without a token becomes its bytes, and they the letter again; a word begins with a space."""
    tokenizer = tokenizer_of(sentence_pieces(), tmp_path)
    tokens = tokenizer.encode_text("ab é", add_special_tokens=False)
    assert [263, 259, 3 + 0xC3, 3 + 0xA9] == [*tokens]
    assert " ab é" == text_of(tokenizer, tokens)


def test_no_half_character_leaves(tmp_path: Path) -> None:
    """The bytes of a character that has not ended give no text."""
    tokenizer = tokenizer_of(sentence_pieces(), tmp_path)
    detokenizer = tokenizer.detokenizer()
    assert ["", "é"] == [detokenizer.feed(3 + 0xC3), detokenizer.feed(3 + 0xA9)]
    assert ["", ""] == [detokenizer.feed(3 + 0xC3), detokenizer.flush()]


@pytest.mark.parametrize("keys", [{"pre": "unheard-of"}, {"pre": None}, {"model": "rwkv"}])
def test_what_is_not_known_is_refused_by_name(keys: dict[str, Any], tmp_path: Path) -> None:
    """No split and no kind of tokenizer is guessed: any other one gives other tokens without an error."""
    with pytest.raises(ModelUnfit, match=r"tokenizer\.ggml\.(pre|model)"):
        write_tokenizer(byte_level(**keys), tmp_path)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"tokens": None}, "no vocabulary"),
        ({"token_type": [1]}, "types of tokens"),
        ({"merges": None}, "no merges"),
        ({"merges": ["ab"]}, "broken merge"),
        ({"merges": ["q z"]}, "broken merge 'q z'"),
        ({"eos_token_id": 4_000_000_000}, "4000000000 is eos"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "twice"),
    ],
)
def test_a_damaged_vocabulary_is_refused(keys: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """The message says what is wrong with the file."""
    with pytest.raises(EngineError, match=reason):
        write_tokenizer(byte_level(**keys), tmp_path)


def test_all_ends_of_a_turn_are_kept(tmp_path: Path) -> None:
    """A generation ends at the file's eos, eot and eom, and at the token that closes turns by its name."""
    tokenizer = tokenizer_of(byte_level(eot_token_id=7, eom_token_id=8), tmp_path)
    start, end = (byte_level()["tokenizer.ggml.tokens"].index(f"<|im_{name}|>") for name in ("start", "end"))
    assert {start, end, 7, 8} == tokenizer.ends
    assert sorted(tokenizer.ends) == json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]


@pytest.mark.parametrize("types", [None, [NORMAL] * 100])
def test_a_closing_token_is_an_end_whatever_the_file_calls_it(types: list[int] | None, tmp_path: Path) -> None:
    """A file that calls `<|im_end|>` an ordinary token, or has no types, ends its answers all the same."""
    tokens = byte_level()["tokenizer.ggml.tokens"]
    tokenizer = tokenizer_of(byte_level(token_type=types), tmp_path)
    end = tokens.index("<|im_end|>")
    assert end in tokenizer.ends
    assert (end,) == tokenizer.encode_text("<|im_end|>", add_special_tokens=False)


def test_an_impossible_padding_token_changes_nothing(tmp_path: Path) -> None:
    """It is only a name for templates, and some files have 4294967295 there."""
    assert tokenizer_of(byte_level(padding_token_id=4294967295), tmp_path).ends


def test_the_end_of_a_part_is_no_end_of_a_turn() -> None:
    """In models with channels `<|end|>` closes a channel: the answer goes on."""
    names = {"<|end|>": 1, "<|return|>": 2, "<|call|>": 3}
    assert {2, 3} == turn_ends(names, [None])
    assert {1} == turn_ends({"<|end|>": 1}, [])


def test_the_files_template_writes_prompts(tmp_path: Path) -> None:
    """The template in the metadata is used; its special tokens become one token each."""
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    metadata = byte_level() | {"tokenizer.chat_template": template, "tokenizer.chat_template.tool_use": "tools"}
    tokenizer = tokenizer_of(metadata, tmp_path, has_chat=True)
    request = GenerationRequest(messages=(Message(role="user", content="ab"),))
    assert 3 == len(tokenizer.encode(request))


def test_every_split_can_be_compiled(tmp_path: Path) -> None:
    """The library accepts the patterns of every row."""
    for name in SPLITS:
        tokenizer = tokenizer_of(byte_level(pre=name), tmp_path)
        assert tokenizer.encode_text("ab", add_special_tokens=False), name


@pytest.mark.parametrize("key", [{"general.architecture": "phi3"}, {"general.name": "My Phi-3 mini"}])
def test_control_tokens_of_phi3_take_the_spaces_after_them(key: dict[str, str], tmp_path: Path) -> None:
    """As in its own tokenizer.json: its chat template writes a line end there. Other models keep the spaces."""
    usual = tokenizer_of(sentence_pieces(), tmp_path)
    assert len(usual.encode_text("</s> \n", add_special_tokens=False)) > 1
    phi3 = tokenizer_of(sentence_pieces() | key, tmp_path)
    assert (2,) == phi3.encode_text("</s> \n", add_special_tokens=False)
    assert len(phi3.encode_text("<s> \n", add_special_tokens=False)) > 1


def test_unigram_takes_the_most_probable_pieces(tmp_path: Path) -> None:
    """Not the longest ones, and T5's raw prompts end with EOS. The kind `llama` does so if its scores are no order."""
    tokenizer = tokenizer_of(probable_pieces(), tmp_path)
    assert (7, 4, 5, 1) == tokenizer.encode_text("abab", add_special_tokens=True)
    assert " abab" == text_of(tokenizer, (7, 4, 5, 1))
    types = [CONTROL, CONTROL, UNKNOWN, *[NORMAL] * 5]
    llama = tokenizer_of(probable_pieces(model="llama", token_type=types, unknown_token_id=2), tmp_path)
    assert (7, 4, 5) == llama.encode_text("abab", add_special_tokens=False)


def test_pieces_that_merge_in_no_order_are_refused(tmp_path: Path) -> None:
    """Some files have the same score for each piece: their texts could only become wrong tokens."""
    with pytest.raises(ModelUnfit, match=r"in which order .* are -1000; choose another file"):
        write_tokenizer(sentence_pieces(scores=[-1000.0] * 264), tmp_path)


@pytest.mark.parametrize(("ignores_case", "accented"), [(True, 6), (False, 5)])
def test_words_become_the_longest_pieces(ignores_case: bool, accented: int, tmp_path: Path) -> None:
    """BERT's texts are between CLS and SEP; accents and capitals stay if the file says so."""
    keys = {} if ignores_case else {"normalizer.lowercase": False}
    tokenizer = tokenizer_of(word_pieces(**keys), tmp_path)
    assert (1, 3, 4, 7, accented, 0, 2) == tokenizer.encode_text("abab, é xyz", add_special_tokens=True)
    assert (3,) == tokenizer_of(word_pieces(), tmp_path).encode_text("AB", add_special_tokens=False)
    assert "abab, " in text_of(tokenizer, (1, 3, 4, 7, accented))


class TestTemplateFile:
    """A user's own chat template, in a file beside the model."""

    HELLO = GenerationRequest(messages=(Message(role="user", content="ab"),))

    def tokenizer(self, folder: Path, text: str, **keys: Any) -> ModelTokenizer:
        (folder / "own.jinja").write_text(text, encoding="utf-8")
        write_tokenizer(byte_level() | keys, folder)
        return load_tokenizer(folder, has_chat=True, template_file=folder / "own.jinja")

    def test_it_serves_a_model_without_a_template(self, tmp_path: Path) -> None:
        """Such a model can chat with it."""
        write_tokenizer(byte_level(), tmp_path)
        with pytest.raises(PromptInvalid, match="chat_template"):
            load_tokenizer(tmp_path, has_chat=True).encode(self.HELLO)
        tokenizer = self.tokenizer(tmp_path, "<|im_start|>{{ messages[0].content }}<|im_end|>")
        expected = tokenizer.encode_text("<|im_start|>ab<|im_end|>", add_special_tokens=False)
        assert expected == tokenizer.encode(self.HELLO)

    def test_it_replaces_all_of_the_models_own(self, tmp_path: Path) -> None:
        """Also one for tools; the special tokens stay the model's, and so do the ends of a turn."""
        own = {"tokenizer.chat_template": "own {{", "tokenizer.chat_template.tool_use": "{{ tools }}<tool_call>"}
        tokenizer = self.tokenizer(tmp_path, "{{ eos_token }}{{ messages[0].content }}", **own)
        assert tokenizer.encode_text("<|im_start|>ab", add_special_tokens=False) == tokenizer.encode(self.HELLO)
        assert tokenizer.tool_syntax is None

    def test_one_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        """With its line; a file that is gone, too."""
        with pytest.raises(EngineError, match=r"the chat template own\.jinja cannot be used: line 2"):
            self.tokenizer(tmp_path, "{# fine #}\n{% if %}")
        with pytest.raises(EngineError, match=r"the chat template gone\.jinja cannot be used"):
            load_tokenizer(tmp_path, has_chat=True, template_file=tmp_path / "gone.jinja")
