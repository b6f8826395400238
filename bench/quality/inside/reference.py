"""In the transformers image: what `model.generate` answers with the engine's weights, and the source's perplexity.

The source is the GGUF file dequantised to float32 by transformers, which shares no code with our conversion. Its
matrices are then replaced by those of `weights`, and the answers generated. Norms are float32 in the file and stay
unchanged.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

MATRICES = Path("/weights/matrices.npz")
EMBEDDING = "model.embed_tokens.weight"
PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def transformers_name(name: str) -> str:
    """Return the name in transformers of a matrix with this name in GGUF."""
    if name == "token_embd.weight":
        return EMBEDDING
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{PARTS[part]}.weight"


def replace_matrices(model: Any, matrices: Any) -> None:
    """Replace all matrices of the model by the engine's."""
    state = model.state_dict()
    left = {name for name, tensor in state.items() if tensor.dim() == 2} - {"lm_head.weight"}
    for name_list in matrices:
        rows = torch.from_numpy(matrices[name_list])
        names = [transformers_name(name) for name in name_list.split("+")]
        parts = rows.split([state[name].shape[0] for name in names])
        for name, part in zip(names, parts, strict=True):
            state[name].copy_(part)
            left.remove(name)
    assert not left, f"the engine has no {sorted(left)}"
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def perplexity(model: Any, tokens: list[int]) -> float:
    """Return the perplexity of a text, each token after the first predicted from all before it."""
    ids = torch.tensor([tokens])
    return math.exp(model(input_ids=ids, labels=ids).loss.item())


def answer(model: Any, tokens: list[int], max_tokens: int) -> list[int]:
    """Return the greedy tokens after the prompt's."""
    ids = torch.tensor([tokens])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False)
    new_tokens: list[int] = output[0, len(tokens) :].tolist()
    return new_tokens


def main() -> None:
    task = json.load(sys.stdin)
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    (source,) = Path("/source").glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    ).eval()
    text = tokenizer(task["text"])["input_ids"]
    of_source = perplexity(model, text)
    replace_matrices(model, np.load(MATRICES))
    chats = [[{"role": "user", "content": prompt}] for prompt in task["prompts"]]
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]
    result = {
        "text": text,
        "prompts": prompts,
        "answers": [answer(model, tokens, task["max_tokens"]) for tokens in prompts],
        "perplexity": of_source,
        "perplexity_of_engine_weights": perplexity(model, text),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
