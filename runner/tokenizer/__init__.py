"""The model's own tokenizer for all engines, from tokenizer.json or from a GGUF file's metadata."""

from __future__ import annotations

from runner.tokenizer.folder import load_tokenizer
from runner.tokenizer.gguf import write_tokenizer
from runner.tokenizer.model_tokenizer import ModelTokenizer

__all__ = ["ModelTokenizer", "load_tokenizer", "write_tokenizer"]
