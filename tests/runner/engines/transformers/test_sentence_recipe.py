"""How a model's files describe its vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.engine import EngineError
from runner.engines.transformers.sentence_recipe import Dense, Recipe, read_recipe

OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules.some."


def steps(*kinds: str, home: str = OLD) -> list[dict[str, Any]]:
    paths = ["" if kind == "Transformer" else f"{place}_{kind}" for place, kind in enumerate(kinds)]
    return [
        {"idx": i, "path": path, "type": home + kind} for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]


def write(folder: Path, **files: Any) -> Path:
    """Write JSON files; `1_Pooling` means the config.json in that folder."""
    for name, value in files.items():
        path = folder / (f"{name}/config.json" if name[0].isdigit() else f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    return folder


def test_the_default_is_the_mean_with_length_1(tmp_path: Path) -> None:
    """A model without a configuration is pooled like most models, and its vectors are like OpenAI's."""
    assert Recipe(modes=("mean",), normalize=True, max_tokens=None) == read_recipe(tmp_path)


@pytest.mark.parametrize("home", [OLD, NEW])
def test_the_files_of_minilm_give_its_recipe(tmp_path: Path, home: str) -> None:
    """all-MiniLM-L6-v2 has the mean, 256 tokens and length 1, with the class names of old and new files."""
    pooling = {
        "word_embedding_dimension": 384,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    write(
        tmp_path,
        modules=steps("Transformer", "Pooling", "Normalize", home=home),
        sentence_bert_config={"max_seq_length": 256, "do_lower_case": False},
        config_sentence_transformers={"__version__": {}},
        **{"1_Pooling": pooling},
    )
    assert Recipe(modes=("mean",), normalize=True, max_tokens=256) == read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": True}, ("lasttoken",)),
        ({"pooling_mode": ["mean", "max"]}, ("mean", "max")),
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, ("lasttoken",)),
        ({"pooling_mode_weightedmean_tokens": True}, ("weightedmean",)),
        ({"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean_sqrt_len_tokens")),
        ({"pooling_mode_cls_token": False}, ("mean",)),
        ({}, ("mean",)),
    ],
)
def test_the_pooling_is_the_configured_one(tmp_path: Path, pooling: dict[str, Any], modes: tuple[str, ...]) -> None:
    """It is found by its name or by the switches of older files, also several; without any it is the mean."""
    write(tmp_path, modules=steps("Transformer", "Pooling"), **{"1_Pooling": pooling})
    assert Recipe(modes=modes, normalize=False) == read_recipe(tmp_path)


def test_layers_prompts_and_letters_are_read(tmp_path: Path) -> None:
    """The recipe has linear layers and activations, the default prompt, lower case, and the limit of an old file."""
    write(
        tmp_path,
        modules=steps("Transformer", "Pooling", "Dropout", "Dense", "Dense", "Normalize"),
        sentence_roberta_config={"max_seq_length": 128, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "query: ", "text": "text: "}, "default_prompt_name": "text"},
        **{
            "1_Pooling": {"pooling_mode_mean_tokens": True},
            "3_Dense": {"activation_function": "torch.nn.modules.linear.Identity"},
            "4_Dense": {"in_features": 4, "use_residual": False},
        },
    )
    expected = Recipe(
        modes=("mean",),
        dense=(Dense(folder="3_Dense", activation="Identity"), Dense(folder="4_Dense", activation="Tanh")),
        normalize=True,
        max_tokens=128,
        lower_case=True,
        prompt="text: ",
    )
    assert expected == read_recipe(tmp_path)


@pytest.mark.parametrize("prompts", [{"prompts": None}, {"prompts": {"query": "q: "}, "default_prompt_name": None}])
def test_only_a_default_prompt_is_used(tmp_path: Path, prompts: dict[str, Any]) -> None:
    """If a model merely offers prompts, its texts stay unchanged: the client decides."""
    write(tmp_path, modules=steps("Transformer", "Pooling"), config_sentence_transformers=prompts)
    assert "" == read_recipe(tmp_path).prompt


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"modules": steps("Transformer", "Pooling", "LSTM")}, "LSTM"),
        ({"modules": steps("Transformer")}, "steps Transformer,"),
        ({"modules": steps("Transformer", "Pooling", "Normalize", "Dense")}, "Normalize Dense"),
        (
            {"modules": [*steps("Transformer"), {"path": "../1_Pooling", "type": OLD + "Pooling"}]},
            "not one of the model",
        ),
        ({"modules": steps("Transformer", "Pooling"), "1_Pooling": {"pooling_mode": "sum"}}, "'sum'"),
        ({"modules": steps("Transformer", "Pooling", "Dense"), "2_Dense": {"use_residual": True}}, "2_Dense"),
        (
            {
                "modules": steps("Transformer", "Pooling", "Dense"),
                "2_Dense": {"activation_function": "torch.hub.load"},
            },
            "2_Dense",
        ),
        (
            {
                "modules": steps("Transformer", "Pooling"),
                "1_Pooling": {"include_prompt": False},
                "config_sentence_transformers": {"prompts": {"a": "b"}, "default_prompt_name": "a"},
            },
            "prompt",
        ),
    ],
)
def test_an_unsupported_recipe_is_refused(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    """The engine never computes vectors that differ from the model's own."""
    with pytest.raises(EngineError, match=says):
        read_recipe(write(tmp_path, **files))


def test_the_error_names_a_damaged_file(tmp_path: Path) -> None:
    """The error names a file that is not valid JSON."""
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(EngineError, match=r"modules\.json"):
        read_recipe(tmp_path)
