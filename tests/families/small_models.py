"""Run in the transformers image: write tiny random models, their GGUF forms and the answers that are right.

`python -m tests.families.small_models FOLDER FAMILY...` writes FOLDER/FAMILY (safetensors), FOLDER/FAMILY.gguf and
FOLDER/FAMILY.json (the reference, or why there is no model). llama.cpp's converter has to be on PYTHONPATH.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers

from tests.families.small_tokenizer import prompt_tokens, random_prompts, token_text, write_tokenizer
from tests.families.table import COMMON, FAMILIES, NEW_TOKENS, PROMPT_TOKENS, VOCABULARY, Keys

CANDIDATES = 32
ENOUGH_DISTINCT = 4
MOST_PARAMETERS = 3_000_000
LONGEST_S = 90
# What these hold are time constants of a state, which random numbers would make explode or vanish.
KEPT = ("A_log", ".D", "dt_bias", "dt_proj.bias", "time_decay", "time_first", "recurrent_param", "inv_freq")


def main(folder: Path, names: list[str]) -> None:
    """Write each model, and say why where it cannot be made."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    for name in names:
        signal.alarm(LONGEST_S)
        began = time.monotonic()
        try:
            record = write_family(folder, name)
        except Exception as exc:
            record = {"problem": f"{type(exc).__name__}: {exc}"[:300]}
        signal.alarm(0)
        (folder / f"{name}.json").write_text(json.dumps(record, indent=1))
        said = record.get("problem") or record.get("gguf_problem") or f"margin {record['margin']:.3f}"
        print(f"{name}: {said} ({time.monotonic() - began:.1f} s)", flush=True)


def write_family(folder: Path, name: str) -> dict[str, Any]:
    """Write the model in both forms; return its reference, with `gguf_problem` if the converter does not know it."""
    from tests.families.gguf_form import write_gguf

    config = small_config(name, FAMILIES[name])
    checked_size(config)
    model = random_model(config)
    record = reference(model)
    model.save_pretrained(folder / name)
    # safetensors keeps its files to their owner, which the containers' user is not.
    for path in (folder / name).iterdir():
        path.chmod(0o644)
    write_tokenizer(folder / name)
    try:
        write_gguf(folder / name, folder / f"{name}.gguf")
    except BaseException as exc:
        (folder / f"{name}.gguf").unlink(missing_ok=True)
        record["gguf_problem"] = f"{type(exc).__name__}: {exc}"[:300]
    return record


def small_config(name: str, overrides: Keys) -> Any:
    """Return the family's configuration, made small."""
    kind = transformers.CONFIG_MAPPING[name]
    usual = kind()
    other_names = set(getattr(kind, "attribute_map", {}))
    computed = {key for key in dir(kind) if isinstance(getattr(kind, key, None), property)}
    keys = {key: value for key, value in COMMON.items() if hasattr(usual, key)}
    kinds = list(getattr(usual, "layer_types", None) or ())
    if kinds:
        # llama.cpp knows some families' order of layers without reading it, so it has to be the published one.
        count = max(2, *(1 + kinds.index(one) for one in kinds))
        keys |= {"layer_types": kinds[:count], "num_hidden_layers": count}
    keys = {key: value for key, value in keys.items() if key not in other_names | computed}
    config = kind(**{**keys, **overrides})
    config.dtype = torch.float32
    return config


def checked_size(config: Any) -> None:
    """Raise ValueError for a model that the overrides have not made small."""
    with torch.device("meta"):
        size = sum(one.numel() for one in transformers.AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.1f} million parameters, which is not small")


def random_model(config: Any) -> Any:
    """Return a model with random weights, large enough that each part of the arithmetic shows in the logits."""
    torch.manual_seed(16)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith(KEPT):
            continue
        noise = torch.randn_like(parameter)
        with torch.no_grad():
            if parameter.dim() > 1:
                # With large embeddings, a model whose head is the same matrix repeats its last token.
                spread = 0.5 if "embed" in name or "wte" in name else 2
                parameter.copy_(exact_in_8_bits(noise * spread / math.sqrt(parameter.shape[-1])))
            else:
                parameter.add_(0.3 * noise)
    return model.eval()


def exact_in_8_bits(weights: Any) -> Any:
    """Round to what blocks of 8 bits hold, so that an engine that keeps such blocks has no rounding of its own."""
    if weights.shape[-1] % 32:
        return weights
    kind = gguf.GGMLQuantizationType.Q8_0
    rows = weights.numpy().reshape(-1, weights.shape[-1])
    rounded = gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind)
    return torch.from_numpy(rounded).reshape(weights.shape)


def reference(model: Any) -> dict[str, Any]:
    """Return the prompts whose greedy answers are clearest, with these answers.

    A gap is the distance of the two largest logits in standard deviations of all of them.
    """
    answers = []
    for length, count in PROMPT_TOKENS.items():
        candidates = greedy(model, random_prompts(length, CANDIDATES))
        candidates.sort(key=lambda answer: (len(set(answer["tokens"])) >= ENOUGH_DISTINCT, answer["margin"]))
        answers += candidates[-count:]
    return {"answers": answers, "margin": min(answer["margin"] for answer in answers)}


def greedy(model: Any, prompts: list[str]) -> list[dict[str, Any]]:
    """Return the answers to prompts of the same length, by whole forwards without a cache."""
    tokens = torch.tensor([prompt_tokens(prompt) for prompt in prompts])
    length, gaps = tokens.shape[1], []
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            logits = model(input_ids=tokens, use_cache=False).logits[:, -1, :VOCABULARY].float()
            if not logits.isfinite().all():
                raise ValueError("its random weights give no finite logits")
            two = torch.topk(logits, 2).values
            gaps.append((two[:, 0] - two[:, 1]) / logits.std(dim=1))
            tokens = torch.cat([tokens, logits.argmax(dim=1, keepdim=True)], dim=1)
    all_gaps = torch.stack(gaps, dim=1).tolist()
    return [
        {
            "prompt": prompt,
            "tokens": new,
            "texts": [token_text(token) for token in new],
            "gaps": own,
            # An answer that ends early says less.
            "margin": -1.0 if VOCABULARY - 1 in new else min(own),
        }
        for prompt, new, own in zip(prompts, tokens[:, length:].tolist(), all_gaps, strict=True)
    ]


def _too_long(_number: int, _frame: Any) -> None:
    raise TimeoutError(f"not made within {LONGEST_S} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
