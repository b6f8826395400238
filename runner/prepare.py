"""`python -m runner.prepare`: converts a model's source into what the engine loads, once, into the prepared volume.

The last line on stdout is the facts as JSON; a failure is one sentence on stderr and exit code 1.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from runner.convert import converter_for
from runner.convert.gguf_header import is_gguf, read_header
from runner.engine import EngineError
from runner.settings import AUTO_CPU_DTYPE, DTYPES
from runner.tokenizer.chat_messages import tool_syntax

SOURCE, VOLUME = Path("/source"), Path("/prepared")
FORMAT = 4
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
        print(f"Preparing failed: {error}", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"Preparing failed: {error}; check that Docker's disk has free space.", file=sys.stderr, flush=True)
        return 1
    except Exception as error:  # The outermost frame: what readers raise for a damaged file depends on the file.
        reason = f"{type(error).__name__}: {error}"
        print(f"Preparing failed: the model's file cannot be read ({reason}); download it again.", file=sys.stderr)
        return 1
    print(json.dumps(facts), flush=True)
    return 0


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
