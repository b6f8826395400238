"""Run in a runner's image beside a model's files: what `model.generate` answers to the prompts on stdin, greedily."""

from __future__ import annotations

import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 16


def main() -> None:
    """Print one line of JSON: a text for each prompt."""
    # Two threads would mostly wait for each other while another test uses a core.
    torch.set_num_threads(1)
    path = os.environ["ORCHESTRAR_MODEL_PATH"]
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    texts = []
    for prompt in json.load(sys.stdin):
        message = {"role": "user", "content": prompt}
        inputs = tokenizer.apply_chat_template(
            [message], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        tokens = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        texts.append(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    print(json.dumps(texts))


if __name__ == "__main__":
    main()
