"""Run in the openvino image: what the compiler makes of invalid grammars, and of a model that it cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import openvino_genai

from runner.engine import EngineError
from runner.engines.openvino.grammar_cache import GrammarRefused
from runner.engines.openvino.grammar_compiler import GrammarCompiler
from runner.engines.openvino.grammar_tokenizer import make_grammar_tokenizer
from runner.tokenizer import load_tokenizer

MODEL = Path("/prepared/weights")
TEXTS = ('root ::= "a"', "root ::= nosuch", 'root ::= "a', "root ::= [z-a]", 'other ::= "a"')


def outcome(compiler: GrammarCompiler, text: str) -> tuple[str, str]:
    try:
        compiler(text)
    except (GrammarRefused, EngineError) as error:
        return type(error).__name__, str(error)
    return "compiled", ""


if __name__ == "__main__":
    model_tokenizer = load_tokenizer(MODEL, has_chat=False)
    tokenizer = make_grammar_tokenizer(openvino_genai, model_tokenizer.token_bytes() or (), model_tokenizer.ends)
    compiler = GrammarCompiler(openvino_genai, tokenizer, MODEL / "openvino_model.xml")
    homeless = GrammarCompiler(openvino_genai, tokenizer, MODEL / "absent.xml")
    print(json.dumps([*(outcome(compiler, text) for text in TEXTS), outcome(homeless, TEXTS[0])]))
