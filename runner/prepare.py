"""`python -m runner.prepare`: converts a model's source into what the engine loads, once, into the prepared volume.

The last line on stdout is JSON: the facts, or, with exit code 1, the `error` and whether the model is `unfit` for this
engine, so that another one may serve it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from runner.convert import converter_for
from runner.convert.gguf_file import first_parts
from runner.convert.gguf_header import is_gguf, read_header
from runner.engine import EngineError, ModelUnfit
from runner.settings import AUTO_CPU_DTYPE, DTYPES
from runner.tokenizer.chat_messages import tool_syntax

SOURCE, VOLUME = Path("/source"), Path("/prepared")
FORMAT = 4
# Files beside a model: the part that sees or hears, and statistics for quantising.
ADDITION = re.compile(r"(?:^|[-_.])mmproj(?=[-_.])|^imatrix(?=[-_.])|[-_.]imatrix\.gguf$", re.IGNORECASE)
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


def main() -> int:
    """Prepare the mounted source; return the exit code."""
    try:
        facts = prepare(
            SOURCE,
            VOLUME,
            engine=os.environ.get("ORCHESTRAR_ENGINE") or "transformers",
            dtype=os.environ.get("ORCHESTRAR_DTYPE") or "auto",
        )
    except EngineError as error:
        return _refuse(str(error), is_unfit=isinstance(error, ModelUnfit))
    except OSError as error:
        return _refuse(f"{error}; check that Docker's disk has free space")
    except Exception as error:  # The outermost frame: what readers raise for a damaged file depends on the file.
        return _refuse(f"the model's file cannot be read ({type(error).__name__}: {error}); download it again")
    print(json.dumps(facts), flush=True)
    return 0


def _refuse(sentence: str, *, is_unfit: bool = False) -> int:
    """Report why nothing was prepared, and whether another engine may serve the model. Return the exit code."""
    print(f"Preparing failed: {sentence}.", file=sys.stderr, flush=True)
    print(json.dumps({"error": sentence, "unfit": is_unfit}), flush=True)
    return 1


def prepare(source: Path, volume: Path, *, engine: str, dtype: str) -> dict[str, Any]:
    """Return the facts about the prepared model; convert it first if needed. Raises EngineError or OSError."""
    marker = volume / "complete.json"
    if (facts := _read_facts(marker)) is not None:
        return facts
    started_s = time.monotonic()
    gguf = find_gguf(source)
    if dtype not in DTYPES:
        raise EngineError(f"ORCHESTRAR_DTYPE is {dtype!r}, write one of: {', '.join(DTYPES)}")
    convert = converter_for(engine)
    _require_model(gguf)
    weights = volume / "weights"
    _wipe(volume)
    weights.mkdir()
    # The dtype in which it will be served: then the file is mapped as it is, and its size is the memory that it takes.
    dtype = AUTO_CPU_DTYPE if dtype == "auto" else dtype
    facts = {
        "format": FORMAT,
        **convert(gguf, weights, dtype=dtype, on_progress=_report),
        "has_tools": has_tools(gguf),
        "dtype": dtype,
        "seconds": round(time.monotonic() - started_s, 2),
    }
    _sync(weights)
    _write_marker(marker, facts)
    return facts


def find_gguf(source: Path) -> Path:
    """Return the one GGUF file under the source's mount. Raises EngineError that says what is there instead."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else []
    if not files:
        raise EngineError(f"there is no file under {source}; check that the model was downloaded and is mounted there")
    ggufs = [path for path in files if path.suffix.lower() == ".gguf"]
    ggufs = first_parts(path for path in ggufs if not ADDITION.search(path.name)) or ggufs
    if len(ggufs) > 1:
        raise EngineError(f"{len(ggufs)} GGUF files are there; name one of them in the source: {_names(ggufs)}")
    if not ggufs and any(path.suffix == ".safetensors" for path in files):
        raise EngineError("the source is safetensors already and needs no preparing; it is mounted as it is")
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


def _require_model(gguf: Path) -> None:
    """Raise EngineError for a GGUF file that holds something else than a model."""
    metadata = read_header(gguf).metadata
    kind, architecture = metadata.get("general.type", "model"), metadata.get("general.architecture")
    if kind != "model":
        raise EngineError(f"{gguf.name} is an addition to a model ({kind}), not a model; choose the model's own file")
    if architecture == "clip":
        raise EngineError(
            f"{gguf.name} is the part of a model that sees or hears; choose the file of the language model"
        )


def has_tools(gguf: Path) -> bool:
    """Tell whether the model's chat template knows tools, in a form in which we recognise its calls."""
    return tool_syntax(str(read_header(gguf).metadata.get("tokenizer.chat_template", ""))) is not None


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
    """Write all files to the disk, readable for the user that serves them."""
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
