"""The families that docs/models.md is about: model types of transformers, and what makes each of them small."""

from __future__ import annotations

from typing import Any

Keys = dict[str, Any]

VOCABULARY = 320
WINDOW = 8
NEW_TOKENS = 12
# How long the prompts are, and how many of each: the long ones exceed every window and chunk of these models.
PROMPT_TOKENS = {6: 2, 40: 1}

# Keys that many configurations share, each under its usual names.
_COMMON: dict[Any, str] = {
    64: "hidden_size n_embd d_model dim model_dim embedding_size word_embed_proj_dim lru_width attention_hidden_size",
    2: "num_hidden_layers n_layer n_layers num_layers num_key_value_heads num_kv_heads num_experts_per_tok "
    "num_experts_per_token moe_k top_k_experts first_k_dense_replace",
    4: "num_attention_heads n_head n_heads num_heads num_query_heads num_experts num_local_experts n_routed_experts "
    "moe_num_experts",
    16: "head_dim d_head qk_nope_head_dim v_head_dim kv_lora_rank",
    8: "sliding_window qk_rope_head_dim attention_chunk_size window_size",
    24: "q_lora_rank",
    96: "intermediate_size ffn_dim n_inner ffn_hidden_size mlp_hidden_size",
    48: "moe_intermediate_size shared_expert_intermediate_size",
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
    512: "max_position_embeddings n_positions max_seq_len n_ctx",
    1: "n_group topk_group n_shared_experts bos_token_id",
    VOCABULARY - 1: "eos_token_id pad_token_id",
}
COMMON: Keys = {name: value for value, names in _COMMON.items() for name in names.split()}

_PLAIN = (
    "llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text phi phi3 phimoe gpt2 gpt_neo "
    "gpt_neox gptj gpt_bigcode starcoder2 codegen bloom opt falcon stablelm granite granitemoe granitemoeshared olmo "
    "olmo2 olmo3 olmoe cohere cohere2 smollm3 gpt_oss deepseek_v2 deepseek_v3 glm glm4 glm4_moe exaone4 ernie4_5 "
    "ernie4_5_moe nemotron seed_oss arcee apertus helium minimax mpt persimmon biogpt xglm openai-gpt lfm2 lfm2_moe "
    "hunyuan_v1_dense hunyuan_v1_moe dots1 flex_olmo diffllama jetmoe llama4_text qwen3_next qwen3_5_text "
    "minimax_m2 afmoe nanochat ministral ministral3 doge solar_open youtu exaone_moe glm4_moe_lite cwm jais2 "
    "hyperclovax laguna mellum jamba mamba mamba2 granitemoehybrid bamba falcon_h1"
)  # fmt: skip
FAMILIES: dict[str, Keys] = {
    **{name: {} for name in _PLAIN.split()},
    # llama.cpp computes these without a window, so beyond it their GGUF files are other models (docs/models.md).
    "mistral": {"sliding_window": None},
    "mixtral": {"sliding_window": None},
    # llama.cpp computes these as in all published models, whatever the configuration says.
    "qwen3_moe": {"norm_topk_prob": True},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16},
    "starcoder2": {"sliding_window": None},
    "phi3": {"sliding_window": None},
    # As the published model of 1.2 billion parameters; llama.cpp has windows for the one of 64 layers alone.
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
    # llama.cpp has the published models' length in its code.
    "llama4_text": {"attention_chunk_size": 8192},
    # Shapes of the published models, which llama.cpp requires.
    "phi": {"num_key_value_heads": 4, "intermediate_size": 256},
    "gpt2": {"n_inner": None},
    "gpt_bigcode": {"n_inner": None},
    "olmoe": {"num_key_value_heads": 4},
    "qwen2": {"use_sliding_window": False},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "mamba": {"state_size": 16, "intermediate_size": 128},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 16},
    "bamba": {
        "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
    "jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
              "use_mamba_kernels": False, "mamba_dt_rank": 4},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
                  "mamba_chunk_size": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 16,
                         "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16,
                         "shared_intermediate_size": 48},
    "granitemoeshared": {"shared_intermediate_size": 48},
    "qwen3_next": {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
                   "linear_value_head_dim": 16},
    "qwen3_5_text": {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
                     "linear_value_head_dim": 16},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "falcon": {"num_kv_heads": 1, "ffn_hidden_size": 256},
    "deepseek_v2": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "deepseek_v3": {"first_k_dense_replace": 1, "num_key_value_heads": 4, "head_dim": 8},
    "youtu": {"num_key_value_heads": 4, "head_dim": 8},
    "glm4_moe_lite": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "glm4_moe": {"first_k_dense_replace": 1},
    "dots1": {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "solar_open": {"first_k_dense_replace": 1},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1, "moe_num_shared_experts": 1},
}  # fmt: skip

# Keys of the published configurations that llama.cpp's converter reads and the library no longer writes.
CONVERTER_KEYS: dict[str, Keys] = {
    "gpt2": {"n_ctx": 512},
    "gpt_neox": {"rotary_pct": 0.25},
    "cohere2": {"rotary_pct": 1.0},
    "hunyuan_v1_moe": {"moe_intermediate_size": [96, 96], "moe_topk": [2, 2], "num_shared_expert": [1, 1]},
    "falcon_h1": {"head_dim": 16},
    "deepseek_v3": {"scoring_func": "sigmoid"},
    "glm4_moe_lite": {"scoring_func": "sigmoid"},
    "exaone_moe": {"scoring_func": "sigmoid"},
}
