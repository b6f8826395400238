"""Which files of a hub repository make a model."""

from __future__ import annotations

import pytest
from huggingface_hub.hf_api import RepoSibling

from controller.errors import SourceError
from controller.sources.hub.files import choose

NAMES = (
    "config.json", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ4_XS.gguf", "mmproj-m-Q8_0.gguf", "imatrix.gguf",
    "BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf",
)  # fmt: skip


def chosen(names: tuple[str, ...] = NAMES, file: str | None = None, quant: str | None = None) -> set[str]:
    siblings = [RepoSibling(rfilename=name, size=1) for name in names]
    return {one.rfilename for one in choose("hf://o/n", siblings, file=file, quant=quant)} - {"config.json"}


def test_without_a_wish_the_order_decides() -> None:
    """Q4_K_M comes before wider ones, and files beside the description before those in folders."""
    assert {"m-Q4_K_M.gguf"} == chosen()
    assert {NAMES[6], NAMES[7]} == chosen(NAMES[:1] + NAMES[4:])


@pytest.mark.parametrize("quant", ["q8_0", "Q8_0"])
def test_a_quantisation_is_a_whole_word_of_the_name(quant: str) -> None:
    """Capitals do not matter, and the part that sees is no model."""
    assert {"m-Q8_0.gguf"} == chosen(quant=quant)


def test_all_parts_come_with_the_first() -> None:
    """A split file is complete, whether its quantisation or its first part is named."""
    assert {NAMES[6], NAMES[7]} == chosen(quant="bf16") == chosen(file=NAMES[6])


@pytest.mark.parametrize(("file", "quant"), [(None, "q4"), (None, "q5_k_m"), ("n.gguf", None), ("config.json", None)])
def test_a_missing_one_lists_what_there_is(file: str | None, quant: str | None) -> None:
    """The error names the files to choose from."""
    with pytest.raises(SourceError, match=r"no such file.*m-IQ4_XS\.gguf, m-Q4_K_M\.gguf"):
        chosen(file=file, quant=quant)


@pytest.mark.parametrize("quant", ["0", "m", "k_m", "s", "gguf", "xs"])
def test_part_of_a_name_is_no_quantisation(quant: str) -> None:
    """Only a whole quantisation is one: no other word of a name is taken for it."""
    with pytest.raises(SourceError, match="no such file"):
        chosen(quant=quant)


@pytest.mark.parametrize(
    ("names", "choice"),
    [
        (("m-IQ1_S.gguf", "m-Q4_K_S.gguf", "m-Q5_K_S.gguf"), "m-Q4_K_S.gguf"),
        (("m-F16.gguf", "m-Q5_K_S.gguf"), "m-Q5_K_S.gguf"),
        (("m-Q4_0_4_4.gguf", "m-Q8_0.gguf"), "m-Q8_0.gguf"),
        (("adapter-lora-Q4_K_M.gguf", "m-Q8_0.gguf"), "m-Q8_0.gguf"),
        (("m-UD-Q4_K_XL.gguf", "m-UD-IQ2_M.gguf"), "m-UD-Q4_K_XL.gguf"),
        (("model.gguf",), "model.gguf"),
        (("Q4_K_M/m.gguf", "sight/m-mmproj-Q4_K_M.gguf", "m.imatrix.gguf"), "Q4_K_M/m.gguf"),
        (("m-lora-merged-Q8_0.gguf", "m-imatrix.gguf"), "m-lora-merged-Q8_0.gguf"),
    ],
)
def test_the_order_knows_every_quantisation(names: tuple[str, ...], choice: str) -> None:
    """The narrowest come last, and files that are no model do not count."""
    assert {choice} == chosen(names)


@pytest.mark.parametrize("quant", [None, "q4_k_m"])
def test_several_models_are_not_guessed(quant: str | None) -> None:
    """Of two models with the same quantisation none is taken; the error says how to name one."""
    with pytest.raises(SourceError, match=r"several such files: base-Q4_K_M\.gguf, chat-Q4_K_M\.gguf"):
        chosen(("base-Q4_K_M.gguf", "chat-Q4_K_M.gguf"), quant=quant)


def test_an_incomplete_split_is_refused() -> None:
    """A repository in which a part is still missing gives no model."""
    with pytest.raises(SourceError, match="only 1 of the 2 parts"):
        chosen(NAMES[:1] + NAMES[6:7])


@pytest.mark.parametrize(("file", "words"), [("mmproj-m-Q8_0.gguf", "sees or hears"), ("imatrix.gguf", "statistics")])
def test_an_addition_is_named_as_what_it_is(file: str, words: str) -> None:
    """A file beside a model, named by itself, is refused, with the models that there are."""
    with pytest.raises(SourceError, match=rf"is no model, but .*{words}.*It has .*m-Q4_K_M\.gguf"):
        chosen(file=file)
