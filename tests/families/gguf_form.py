"""Run in the transformers image: llama.cpp's own converter, with our small tokenizer in place of a real one."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch

from tests.families.small_tokenizer import write_vocabulary
from tests.families.table import CONVERTER_KEYS

# llama.cpp expects the tokens of Phi-3 in every file with that name in it.
NAME = "small"


def write_gguf(folder: Path, target: Path) -> None:
    """Write the model of the folder as float32. Raises what the converter raises for families that it does not know."""
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    with torch.inference_mode():
        keys = ModelBase.load_hparams(folder, False) | CONVERTER_KEYS.get(folder.name, {})
        kind = get_model_class(get_model_architecture(keys, ModelType.TEXT))
        # transformers neither computes nor writes the heads that predict several tokens.
        kind.no_mtp = kind.supports_mtp_export
        converter = kind(folder, gguf.LlamaFileType.ALL_F32, target, eager=True, hparams=keys, model_name=NAME)
        converter.set_vocab = lambda: write_vocabulary(converter.gguf_writer)
        converter.get_vocab_base_pre = lambda _tokenizer: "gpt-2"
        converter.write()
