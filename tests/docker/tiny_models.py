"""Run in the runner's image: tiny random models of many architectures, served in one batch and by `model.generate`.

Prints one line of JSON: for each model what its requests share ("RowForward") or how they take turns ("SingleForward"),
whether long prompts come in parts, and which share of the answers are those of `generate`.
"""

from __future__ import annotations

import json
from typing import Any

from runner.engine import EncodedRequest, Sampling
from runner.engines.job import Job
from runner.engines.step_loop import StepLoop
from runner.engines.token_text import TokenText
from runner.engines.transformers.lean_import import import_torch
from runner.engines.transformers.row_batch import RowBatch
from runner.tokenizer.detokenizer import ByteDetokenizer

torch = import_torch()

from transformers import CONFIG_MAPPING, AutoModelForCausalLM  # noqa: E402
from transformers.utils.logging import set_verbosity_error  # noqa: E402

from runner.engines.transformers.forward import PART_TOKENS  # noqa: E402
from runner.engines.transformers.probe import make_forward  # noqa: E402
from runner.engines.transformers.sampling import Sampler  # noqa: E402

COMMON: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT_2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "gpt_oss": {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {},
    "gpt2": GPT_2,
    "gpt_neox": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "smollm3": {},
    "bloom": {"n_layer": 4, "n_head": 4},
    "gpt_neo": {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 8},
    "mamba": {},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "llama4_text": {"attention_chunk_size": 8},
    "rwkv": {"attention_hidden_size": 64},
    "jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
              "use_mamba_kernels": False},
    "recurrent_gemma": {"lru_width": 64, "attention_window_size": 64},
    "bamba": {"attn_layer_indices": [1, 3], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
              "mamba_n_groups": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"] * 2, "num_experts": 4,
                   "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "minimax": {"layer_types": ["linear_attention", "full_attention"] * 2, "num_local_experts": 2, "block_size": 16},
    "openai-gpt": GPT_2,
}  # fmt: skip
PROMPTS = [
    [5, 9, 33],
    [7],
    [(number * 37) % 500 + 5 for number in range(300)],
    # The last part of these, after one of 256, is as short as a state's convolution.
    [(number * 53) % 500 + 5 for number in range(258)],
    [(number * 71) % 500 + 5 for number in range(262)],
    list(range(40, 70)),
    [100 + 7 * number for number in range(12)],
    [11, 300, 12, 301, 13, 302, 14, 303, 15],
]
NEW_TOKENS = 14
# The text of a token is its number.
NUMBERS = [f"{token} ".encode() for token in range(COMMON["vocab_size"])]


def main() -> None:
    """Print the comparison of every model."""
    set_verbosity_error()
    torch.set_num_threads(1)
    print(json.dumps({name: comparison(random_model(name)) for name in MODELS}))


def random_model(name: str) -> Any:
    """Return a model with random weights, large enough for its answers to differ from token to token."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**{**COMMON, **MODELS[name]}), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def comparison(model: Any) -> dict[str, Any]:
    """Return how the model is served, how many answers are the reference's, and how many distinct tokens these have."""
    expected = [reference(model, prompt) for prompt in PROMPTS]
    forward, room = make_forward(model, rows=4, length=512)
    loop = StepLoop(
        RowBatch(forward, Sampler, eos=(), room_tokens=room.tokens),
        lambda _request: TokenText(ByteDetokenizer(NUMBERS), stop=(), eos=()),
    )
    sampling = Sampling(max_tokens=NEW_TOKENS, temperature=0, top_p=1, top_k=0)
    jobs = [Job(EncodedRequest(prompt_tokens=tuple(prompt), sampling=sampling)) for prompt in PROMPTS]
    for job in jobs:
        loop.submit(job.request, job)
    texts = [[int(number) for number in job.whole_text().split()] for job in jobs]
    loop.close()
    same = sum(one == other for one, other in zip(texts, expected, strict=True))
    distinct = len({token for one in expected for token in one})
    return {
        "forward": type(forward).__name__,
        "has_parts": forward.part_tokens == PART_TOKENS,
        "same": same / len(PROMPTS),
        "distinct": distinct,
    }


def reference(model: Any, prompt: list[int]) -> list[int]:
    """Return the library's own greedy answer."""
    tokens = model.generate(
        torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    answer: list[int] = tokens[0, len(prompt) :].tolist()
    return answer


if __name__ == "__main__":
    main()
