"""How much memory all models may take together, and how much each of them does."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controller.supervisor.backend import Amount
from controller.system.files import write_atomic
from controller.system.sizes import MIB

log = logging.getLogger(__name__)

SHARE_OF_ENGINE = 0.8
# Room above the largest sample: samples are seconds apart and miss the peaks between them.
MARGIN = 1.2
MARGIN_BYTES = 64 * MIB
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model's entry asks for; `config` tells that entry and the files it stands for from any other."""

    model_id: str
    config: str
    limit_bytes: int
    gpus: int = 0


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """What this machine's programs could take now without swapping; None where no Linux kernel says so."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def gpus_here(folder: Path = NVIDIA_GPUS) -> int | None:
    """How many GPUs NVIDIA's driver shows; None where it shows none, and then Docker alone knows."""
    try:
        return sum(1 for _ in folder.iterdir()) or None
    except OSError:
        return None


class Budget:
    """Thread-safe. What was measured of a model is kept in `path` for as long as its entry and files stay the same."""

    def __init__(
        self,
        *,
        fixed_bytes: Callable[[], int | None],
        engine_bytes: Callable[[], int],
        path: Path,
        available: Callable[[], int | None] = available_bytes,
        gpus: Callable[[], int | None] = gpus_here,
    ) -> None:
        self._fixed_bytes = fixed_bytes
        self._ask_engine = engine_bytes
        self._path = path
        self._available = available
        self._gpus = gpus
        self._engine_bytes: int | None = None
        self._lock = threading.Lock()
        self._largest = self._load()

    def room(self, used_bytes: int) -> Amount:
        """What there is for all models together, who use `used_bytes` of it now.

        `memory_budget`, or the smaller of 80 % of the engine's memory and of what is free with what they use. Raises
        like `DockerService`; the engine is asked once.
        """
        fixed_bytes = self._fixed_bytes()
        if fixed_bytes is not None:
            return Amount(memory_bytes=fixed_bytes, gpus=self._gpus())
        if self._engine_bytes is None:
            self._engine_bytes = self._ask_engine()
        most = int(SHARE_OF_ENGINE * self._engine_bytes)
        free = self._available()
        return Amount(memory_bytes=most if free is None else min(most, free + used_bytes), gpus=self._gpus())

    def needs(self, demand: Demand, *, limit_bytes: int | None = None) -> Amount:
        """What to count for the model: the largest that was measured of it with a margin, never above its limit.

        Its limit, where nothing was. `limit_bytes` is its container's own where there is one.
        """
        limit = limit_bytes or demand.limit_bytes
        with self._lock:
            config, largest = self._largest.get(demand.model_id, ("", 0))
        if config != demand.config:
            return Amount(memory_bytes=limit, gpus=demand.gpus)
        with_margin = int(max(largest * MARGIN, largest + MARGIN_BYTES))
        return Amount(memory_bytes=min(with_margin, limit), gpus=demand.gpus)

    def observe(self, demand: Demand, used_bytes: int) -> None:
        """Take note of what a model's container uses now, page cache that could go left out."""
        with self._lock:
            known, largest = self._largest.get(demand.model_id, ("", 0))
            # Written to disk only for what changes a decision.
            if known == demand.config and used_bytes - largest < MIB:
                return
            self._largest[demand.model_id] = (demand.config, used_bytes)
            text = json.dumps(self._largest, indent=2, sort_keys=True)
        try:
            write_atomic(self._path, text + "\n")
        except OSError as exc:
            log.warning("what models use could not be written down, and is measured anew after a restart: %s", exc)

    def _load(self) -> dict[str, tuple[str, int]]:
        """What an earlier controller measured; a file that cannot be read costs no more than measuring anew."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(name): (str(config), int(size)) for name, (config, size) in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as exc:
            log.warning("%s cannot be read, what models use is measured anew: %s", self._path, exc)
            return {}
