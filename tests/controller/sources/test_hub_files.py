"""Which files of a hub repository make a model."""

from __future__ import annotations

import json

import pytest
from huggingface_hub.hf_api import RepoSibling

from controller.errors import SourceError
from controller.sources.hub.files import Choice, choose
from controller.sources.hub.other_forms import packed_form
from controller.sources.values import WeightsRoom

NAMES = (
    "config.json", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ4_XS.gguf", "mmproj-m-Q8_0.gguf", "imatrix.gguf",
    "BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf",
)  # fmt: skip


def chosen(names: tuple[str, ...] = NAMES, file: str | None = None, quant: str | None = None) -> set[str]:
    siblings = [RepoSibling(rfilename=name, size=1) for name in names]
    return {one.rfilename for one in choose("hf://o/n", siblings, file=file, quant=quant).files} - {"config.json"}


def test_without_a_wish_the_order_decides() -> None:
    """Q4_K_M comes before wider ones, and files beside the description before those in folders."""
    assert {"m-Q4_K_M.gguf"} == chosen()
    assert {NAMES[6], NAMES[7]} == chosen(NAMES[:1] + NAMES[4:])


@pytest.mark.parametrize("quant", ["q8_0", "Q8_0"])
def test_a_quantisation_is_a_whole_word_of_the_name(quant: str) -> None:
    """Capitals do not matter, and the part that sees is no model."""
    assert {"m-Q8_0.gguf"} == chosen(quant=quant)


@pytest.mark.parametrize("quant", ["f16", "FP16"])
def test_both_names_of_16_bits_mean_the_same(quant: str) -> None:
    """Some repositories write fp16."""
    assert {"m-fp16.gguf"} == chosen(("m-fp16.gguf", "m-q4.gguf"), quant=quant)


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
        (("m-fp16.gguf", "m-q4.gguf"), "m-q4.gguf"),
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


SIZES_MIB = {"m-Q2_K.gguf": 2, "m-Q3_K_M.gguf": 3, "m-Q3_K_L.gguf": 3.5, "m-Q4_K_M.gguf": 4, "m-Q8_0.gguf": 8}


def choice_within(
    most_mib: float | None, sizes_mib: dict[str, float] | None = None, quant: str | None = None
) -> Choice:
    room = None if most_mib is None else WeightsRoom(int(most_mib * 1024**2), "the memory budget of 1.0 GiB")
    sizes = SIZES_MIB if sizes_mib is None else sizes_mib
    siblings = [RepoSibling(rfilename=name, size=int(mib * 1024**2)) for name, mib in sizes.items()]
    return choose("hf://o/n", siblings, quant=quant, room=lambda: room)


@pytest.mark.parametrize(
    ("most_mib", "name", "reason"),
    [
        (None, "m-Q4_K_M.gguf", "m-Q4_K_M.gguf (4.0 MiB) comes first in the order of quantisations"),
        (
            100,
            "m-Q4_K_M.gguf",
            "m-Q4_K_M.gguf (4.0 MiB) comes first in the order of quantisations, and fits into the memory budget of 1.0",
        ),
        (
            3.9,
            "m-Q3_K_L.gguf",
            "m-Q3_K_L.gguf (3.5 MiB) is the largest that fits into the memory budget of 1.0 GiB; m-Q4_K_M.gguf "
            "(4.0 MiB) comes first, but would not fit",
        ),
        (2, "m-Q2_K.gguf", "m-Q2_K.gguf (2.0 MiB) is the largest that fits"),
    ],
)
def test_memory_bounds_the_choice(most_mib: float | None, name: str, reason: str) -> None:
    """More memory than needed changes nothing; with less, it is the largest file that fits, and the reason says so."""
    choice = choice_within(most_mib)
    assert [name] == [file.rfilename for file in choice.files]
    assert choice.reason.startswith(reason)


def test_nothing_is_taken_if_nothing_fits() -> None:
    """The error has the bound, the smallest file, and what to do."""
    with pytest.raises(
        SourceError, match=r"leaves 1\.9 MiB for weights; the smallest is m-Q2_K\.gguf \(2\.0 MiB\)\. Raise"
    ):
        choice_within(1.9)


def test_without_a_choice_memory_does_not_matter() -> None:
    """The only model of a repository, and one that models.yaml names, are taken whatever their size is."""
    assert "m.gguf (9.0 MiB) is the only GGUF model of the repository" == choice_within(1, {"m.gguf": 9}).reason
    assert "m-Q8_0.gguf (8.0 MiB) is the one that models.yaml names" == choice_within(1, quant="q8_0").reason


def test_the_parts_of_a_split_file_count_together() -> None:
    """Two parts of 3 MiB need 6 MiB."""
    sizes = {"m-Q4_K_M-00001-of-00002.gguf": 3.0, "m-Q4_K_M-00002-of-00002.gguf": 3.0, "m-Q3_K_M.gguf": 5.0}
    assert [file.rfilename for file in choice_within(5.9, sizes).files] == ["m-Q3_K_M.gguf"]
    assert len(choice_within(6, sizes).files) == 2


def test_several_models_that_fit_are_not_guessed_either() -> None:
    """The smaller quantisation of two models is as unclear as the preferred one."""
    with pytest.raises(SourceError, match="several such files"):
        choice_within(3, {"a-Q4_K_M.gguf": 4, "a-Q3_K_M.gguf": 3, "b-Q3_K_M.gguf": 2})


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("onnx/model.onnx", "onnx/model.onnx_data"),
            r"the form of ONNX \(onnx/model\.onnx\).*What works: hf://base/model",
        ),
        (("weights.npz", "tokenizer.json"), "the form of MLX"),
        (("params_shard_0.bin", "mlc-chat-config.json"), "the form of MLC"),
        (("model.nemo",), "the form of NeMo"),
        (("rank0.engine",), "the form of TensorRT"),
        (("model.plan",), "the form of TensorRT"),
        (("m.mlpackage/Data/weight.bin",), "the form of Core ML"),
        (("m.litertlm",), "the form of TensorFlow Lite"),
        (("onnx/model.onnx", "pytorch_model.bin"), r"pytorch_model\.bin is a pickle"),
        (("tokenizer.json",), "Choose a repository that has the model's weights"),
    ],
)
def test_other_forms_are_refused_by_name(names: tuple[str, ...], words: str) -> None:
    """The error has the form and what would work; without the card's word that is the original model."""
    siblings = [RepoSibling(rfilename=name, size=1) for name in ("config.json", *names)]
    with pytest.raises(SourceError, match=words):
        choose("hf://o/n", siblings, base="base/model")


@pytest.mark.parametrize(
    ("config", "form"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
        ({"quantization_config": {"quant_method": "AWQ"}}, "AWQ"),
        ({"quantization_config": {"quant_method": "bitsandbytes_4bit"}}, "bitsandbytes"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "exl2"}}, "EXL2 (ExLlamaV2)"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"compression_config": {}}, "compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"quantization_config": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"quantization_config": {"quant_method": "new-one"}}, "new-one"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, None),
        ({"quantization_config": None, "quantization": "none"}, None),
        ({}, None),
        ([], None),
    ],
)
def test_config_json_names_the_quantisation(config: object, form: str | None) -> None:
    """Each writer's way to say it is known, and methods that the library reads by itself are no obstacle."""
    assert form == packed_form(json.dumps(config).encode(), ["model.safetensors"])


@pytest.mark.parametrize("text", [None, b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_config_names_nothing(text: bytes | None) -> None:
    """Then only a file of the method's own does."""
    assert packed_form(text, ["model.safetensors"]) is None
    assert "GPTQ" == packed_form(text, ["model.safetensors", "quantize_config.json"])
