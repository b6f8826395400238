"""Run in llama.cpp's image, with the standard library only: print the tokens of its own library for many texts."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

LIBRARY = "/opt/llamacpp/libllama.so.0"
# How the format writes each type: its number, and the form for `struct`.
_KINDS: dict[type, tuple[int, str]] = {int: (4, "<I"), float: (6, "<f"), bool: (7, "<?"), str: (8, "")}
_BYTE, _SIGNED, _ARRAY = 0, 5, 9
# Its array has bytes; whole numbers in other arrays, which are the types of tokens, are signed.
CHARSMAP = "tokenizer.ggml.precompiled_charsmap"


class _ModelParams(ctypes.Structure):
    """`llama_model_params` of llama.h, version 11434."""

    _fields_ = (
        ("devices", ctypes.c_void_p),
        ("tensor_buft_overrides", ctypes.c_void_p),
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int32),
        ("load_mode", ctypes.c_int32),
        ("lazy_mode", ctypes.c_int32),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool),
        ("others", ctypes.c_bool * 5),
    )


def main() -> None:
    """Read pairs of metadata and texts as JSON from standard input; print for each pair the tokens of each text."""
    with multiprocessing.Pool() as pool:
        print(json.dumps(pool.starmap(llama_tokens, json.load(sys.stdin), chunksize=1), separators=(",", ":")))


def _library() -> Any:
    library = ctypes.CDLL(LIBRARY)
    library.llama_model_default_params.restype = _ModelParams
    library.llama_model_load_from_file.restype = ctypes.c_void_p
    library.llama_model_load_from_file.argtypes = (ctypes.c_char_p, _ModelParams)
    library.llama_model_get_vocab.restype = ctypes.c_void_p
    library.llama_model_get_vocab.argtypes = (ctypes.c_void_p,)
    library.llama_model_free.argtypes = (ctypes.c_void_p,)
    tokenize_types = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)
    library.llama_tokenize.argtypes = (*tokenize_types, ctypes.c_bool, ctypes.c_bool)
    library.llama_backend_init()
    return library


def llama_tokens(metadata: dict[str, Any], texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text, without BOS and EOS; the names of special tokens become these tokens."""
    library = _library()
    params = library.llama_model_default_params()
    params.vocab_only = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        path.write_bytes(gguf(metadata))
        model = library.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ValueError(f"llama.cpp does not load the vocabulary with {metadata.get('tokenizer.ggml.pre')!r}")
    vocabulary = library.llama_model_get_vocab(model)
    longest = 4 * max(len(text.encode()) for text in texts) + 8
    buffer = (ctypes.c_int32 * longest)()
    rows = []
    for text in texts:
        content = text.encode()
        count = library.llama_tokenize(vocabulary, content, len(content), buffer, longest, False, True)
        rows.append(buffer[:count])
    library.llama_model_free(model)
    return rows


def gguf(metadata: dict[str, Any]) -> bytes:
    """Return a GGUF file with this metadata and without tensors."""
    pairs = b"".join(
        _text(key) + (_bytes(value) if key == CHARSMAP else _value(value)) for key, value in metadata.items()
    )
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + pairs


def _bytes(values: list[int]) -> bytes:
    content = bytes(value % 256 for value in values)
    return struct.pack("<IIQ", _ARRAY, _BYTE, len(content)) + content


def _value(value: Any) -> bytes:
    if not isinstance(value, list):
        return struct.pack("<I", _KINDS[type(value)][0]) + _content(value)
    kind = _SIGNED if isinstance(value[0], int) else _KINDS[type(value[0])][0]
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(map(_content, value))


def _content(value: Any) -> bytes:
    return _text(value) if isinstance(value, str) else struct.pack(_KINDS[type(value)][1], value)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


if __name__ == "__main__":
    main()
