"""Which engine `auto` means."""

from __future__ import annotations

from collections.abc import Collection

from controller.registry.source_ref import SourceRef

AUTO_ENGINE = "transformers"
FAST_ENGINE = "openvino"


def auto_engine(source: SourceRef, *, task: str, gpus: int, engines: Collection[str]) -> str:
    """`openvino` on CPUs for what it can load, else `transformers`.

    Told from the source's name alone, since a model is not downloaded before it is used: a GGUF file or repository, or
    one in OpenVINO's own form, whose publishers end its name in `-ov`.
    """
    name = str(source).lower()
    path, _, _ = name.partition("@") if name.startswith("hf://") else (name, "", "")
    fits = path.endswith((".gguf", "-gguf", "-ov")) or path.startswith("hf://openvino/")
    can = fits and task != "embedding" and not gpus
    return FAST_ENGINE if can and FAST_ENGINE in engines else AUTO_ENGINE
