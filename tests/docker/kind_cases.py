"""Run in the runner's image: folders of many kinds, loaded as the engine loads them.

Prints one line of JSON: for each kind the sentence with which it was refused, or null if it was loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runner.engine import EngineError
from runner.engines.transformers import pretrained
from runner.engines.transformers.lean_import import import_torch
from runner.engines.transformers.pretrained import load_pretrained
from runner.settings import read_settings

torch = import_torch()

import safetensors.torch  # noqa: E402
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: E402

TEXT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64,
}  # fmt: skip
SIGHT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14, "num_channels": 3,
}  # fmt: skip
TensorChange = Callable[[dict[str, Any]], object]


def save(folder: Path, kind: str, auto_class: Any = AutoModelForCausalLM, **values: Any) -> None:
    """Write a random model of this kind."""
    torch.manual_seed(0)
    auto_class.from_config(CONFIG_MAPPING[kind](**values)).save_pretrained(folder)


def save_changed(folder: Path, change: TensorChange, kind: str = "llama", **values: Any) -> None:
    """Write a random model whose tensors are not those of its configuration."""
    save(folder, kind, **{**TEXT, **values})
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def write_config(folder: Path, **values: Any) -> None:
    """Write a config.json alone."""
    (folder / "config.json").write_text(json.dumps(values))


def save_gemma3(folder: Path) -> None:
    sight = {**SIGHT, "image_size": 28}
    save(folder, "gemma3", text_config=TEXT, vision_config=sight, mm_tokens_per_image=4, image_token_index=60)


def save_qwen(folder: Path) -> None:
    text = {**TEXT, "layer_types": ["full_attention"] * 2}
    sight = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    save(folder, "qwen3_5", AutoModelForImageTextToText, text_config=text, vision_config=sight)


def add_bias(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)


def add_extra_head(tensors: dict[str, Any]) -> None:
    tensors["v_head.weight"] = torch.ones(1, 32)


def drop_norm(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.1.input_layernorm.weight"]


CASES: dict[str, Callable[[Path], object]] = {
    "llama": lambda folder: save(folder, "llama", **TEXT),
    "tied": lambda folder: save(folder, "qwen2", **TEXT, tie_word_embeddings=True),
    "extra head": lambda folder: save_changed(folder, add_extra_head),
    "text of gemma3": save_gemma3,
    "text of qwen3_5": save_qwen,
    "bias": lambda folder: save_changed(folder, add_bias),
    "absent norm": lambda folder: save_changed(folder, drop_norm),
    "no config": lambda folder: None,
    "broken config": lambda folder: (folder / "config.json").write_text("{"),
    "no type": lambda folder: write_config(folder, hidden_size=1),
    "unknown": lambda folder: write_config(folder, model_type="novel"),
    "own code": lambda folder: write_config(folder, model_type="novel", auto_map={"AutoConfig": "a.B"}),
    "t5": lambda folder: write_config(folder, model_type="t5", is_encoder_decoder=True),
    "whisper": lambda folder: write_config(folder, model_type="whisper"),
    "llava": lambda folder: write_config(
        folder, model_type="llava", vision_config=SIGHT, text_config={"model_type": "llama"}
    ),
    "mllama": lambda folder: write_config(folder, model_type="mllama", vision_config=SIGHT, text_config=TEXT),
    "clip": lambda folder: write_config(folder, model_type="clip_text_model"),
}
VECTORS: dict[str, Callable[[Path], object]] = {
    "bert": lambda folder: save(folder, "bert", AutoModel, **TEXT),
    "llama": lambda folder: save(folder, "llama", **TEXT),
    "clip": lambda folder: write_config(folder, model_type="clip", vision_config=SIGHT, text_config=TEXT),
}


def sentence(make: Callable[[Path], object], auto_class: Any, task: str) -> str | None:
    """Return why the folder is refused; None if it loads."""
    with TemporaryDirectory() as name:
        make(Path(name))
        settings = read_settings(
            {"ORCHESTRAR_MODEL_ID": "tiny", "ORCHESTRAR_MODEL_PATH": name, "ORCHESTRAR_TASK": task}
        )
        try:
            load_pretrained(auto_class, settings, lambda _phase: None)
        except EngineError as error:
            return str(error)
    return None


def main() -> None:
    """Print the sentences."""
    import transformers

    # The tokenizer is not the subject here.
    transformers.AutoTokenizer.from_pretrained = lambda *_, **__: None
    assert pretrained.LOCAL["trust_remote_code"] is False
    texts = {name: sentence(make, "AutoModelForCausalLM", "chat") for name, make in CASES.items()}
    vectors = {name: sentence(make, "AutoModel", "embedding") for name, make in VECTORS.items()}
    print(json.dumps({"text": texts, "vectors": vectors}))


if __name__ == "__main__":
    main()
