"""`python -m runner.prepare`: makes from a model's source what the engine loads, once, into the prepared volume.

The last line on stdout is the facts as JSON; a failure is one sentence on stderr and exit code 1.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.convert.gguf_header import is_gguf, read_header
from runner.engine import EngineError
from runner.engines.chat_template import tool_syntax
from runner.settings import AUTO_CPU_DTYPE, DTYPES

SOURCE, PREPARED = Path("/source"), Path("/prepared")
FORMAT = 3
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def main() -> int:
    """The exit code."""
    try:
        facts = prepare(
            SOURCE,
            PREPARED,
            engine=os.environ.get("ORCHESTRAR_ENGINE") or "transformers",
            dtype=os.environ.get("ORCHESTRAR_DTYPE") or "auto",
        )
    except EngineError as error:
        print(f"Preparing failed: {error}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"Preparing failed: {error}; see that Docker's disk has room.", file=sys.stderr, flush=True)
        return 1
    except Exception as error:  # The outermost loop: what readers raise for a damaged file is up to the file.
        reason = f"{type(error).__name__}: {error}"
        print(f"Preparing failed: the model's file cannot be read ({reason}); download it again.", file=sys.stderr)
        return 1
    print(json.dumps(facts), flush=True)
    return 0


def prepare(source: Path, prepared: Path, *, engine: str, dtype: str) -> dict[str, Any]:
    """The facts about the prepared model; makes it first unless that was done before. Raises EngineError, OSError."""
    marker = prepared / "complete.json"
    if (facts := _read_facts(marker)) is not None:
        return facts
    started_s = time.monotonic()
    gguf = find_gguf(source)
    if dtype not in DTYPES:
        raise EngineError(f"ORCHESTRAR_DTYPE is {dtype!r}, write one of: {', '.join(DTYPES)}")
    if engine not in _CONVERTERS:
        raise EngineError(f"nothing is prepared for the engine {engine!r}, only for: {', '.join(_CONVERTERS)}")
    weights = prepared / "weights"
    _wipe(prepared)
    weights.mkdir()
    # The one it will be served in: then the file is mapped as it is, and its size tells the memory it takes.
    dtype = AUTO_CPU_DTYPE if dtype == "auto" else dtype
    facts = _CONVERTERS[engine](gguf, weights, dtype)
    facts = {
        "format": FORMAT,
        **facts,
        "has_tools": has_tools(gguf),
        "dtype": dtype,
        "seconds": round(time.monotonic() - started_s, 2),
    }
    _sync(weights)
    _write_marker(marker, facts)
    return facts


def find_gguf(source: Path) -> Path:
    """The one GGUF file under the source's mount. Raises EngineError that says what lies there instead."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else []
    if not files:
        raise EngineError(f"there is no file under {source}; see that the model was downloaded and is mounted there")
    ggufs = [path for path in files if path.suffix.lower() == ".gguf"]
    if len(ggufs) > 1:
        raise EngineError(f"{len(ggufs)} GGUF files were found; name one of them in the source: {_names(ggufs)}")
    if not ggufs and any(path.suffix == ".safetensors" for path in files):
        raise EngineError("the source already is safetensors and needs no preparing; it is mounted as it is")
    pickles = [path for path in files if path.suffix.lower() in PICKLES]
    if not ggufs and pickles:
        raise EngineError(
            f"{pickles[0].name} is a pickle checkpoint, which can run code when it is read; "
            "choose a source with safetensors or GGUF files"
        )
    file = ggufs[0] if ggufs else files[0]
    if not is_gguf(file):
        raise EngineError(f"{file.name} is no GGUF file; choose a source with a GGUF file or a safetensors folder")
    return file


def has_tools(gguf: Path) -> bool:
    """Whether the model's chat template knows tools, in a form in which its calls are found."""
    return tool_syntax(str(read_header(gguf).metadata.get("tokenizer.chat_template", ""))) is not None


def _for_transformers(gguf: Path, weights: Path, dtype: str) -> dict[str, Any]:
    from runner.convert.gguf import convert_gguf
    from runner.convert.sentence_files import keep_sentence_files

    convert_gguf(gguf, weights, dtype=dtype, on_progress=_report)
    keep_sentence_files(gguf, weights)
    return read_model_facts(weights, dtype)


def _for_openvino(gguf: Path, weights: Path, dtype: str) -> dict[str, Any]:
    from runner.convert.openvino import convert_to_openvino
    from runner.engines.openvino.kv_memory import kv_bytes_per_token as kv_bytes_of_cache

    config = convert_to_openvino(gguf, weights, on_progress=_report)
    return {
        "weights_bytes": sum(path.stat().st_size for path in weights.glob("openvino_model*")),
        "kv_bytes_per_token": kv_bytes_of_cache(config),
        "context_length": int(config.get("max_position_embeddings") or 0),
        "parameters": read_header(gguf).parameters,
        "architecture": str(config.get("model_type") or ""),
    }


# One for each engine that cannot read a GGUF file as it is.
_CONVERTERS: dict[str, Callable[[Path, Path, str], dict[str, Any]]] = {
    "openvino": _for_openvino,
    "transformers": _for_transformers,
}


def read_model_facts(weights: Path, dtype: str) -> dict[str, Any]:
    """What the controller needs to know about a folder of safetensors, from its configuration and file headers."""
    config: dict[str, Any] = json.loads((weights / "config.json").read_text())
    files = sorted(weights.glob("*.safetensors"))
    return {
        "weights_bytes": sum(path.stat().st_size for path in files),
        "kv_bytes_per_token": kv_bytes_per_token(config, DTYPE_BYTES[dtype]),
        "context_length": int(config.get("max_position_embeddings") or 0),
        "parameters": sum(_count_parameters(path) for path in files),
        "architecture": str(config.get("model_type") or ""),
    }


def kv_bytes_per_token(config: dict[str, Any], bytes_per_value: int) -> int:
    """Keys and values of one token in all layers: 2 x layers x key-value heads x head size x bytes."""
    heads = int(config.get("num_attention_heads") or 0)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or (int(config.get("hidden_size") or 0) // max(heads, 1)))
    return 2 * int(config.get("num_hidden_layers") or 0) * kv_heads * head_dim * bytes_per_value


def _count_parameters(path: Path) -> int:
    """From the file's header alone: its length in eight bytes, then JSON."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for size in tensor["shape"]:
                count *= int(size)
            total += count
    return total


def _read_facts(marker: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(marker.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else None


def _report(fraction: float) -> None:
    print(json.dumps({"phase": "converting", "fraction": round(fraction, 3)}), flush=True)


def _wipe(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(folder: Path) -> None:
    """Onto the disk, and readable for whoever serves."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _write_marker(marker: Path, facts: dict[str, Any]) -> None:
    partial = marker.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(marker)
    folder = os.open(marker.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5])


if __name__ == "__main__":
    sys.exit(main())
