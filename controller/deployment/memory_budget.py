"""How much memory all models may take together, and how much each of them takes."""

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

SHARE_OF_DOCKER = 0.8
# Added to the largest sample: samples are seconds apart and miss the peaks between them.
MARGIN = 1.2
MARGIN_BYTES = 64 * MIB
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model's entry asks for; `config` differs if the entry or the files behind it differ."""

    model_id: str
    config: str
    limit_bytes: int
    gpus: int = 0


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return what programs on this machine could take now without swapping; None if no Linux kernel reports it."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    values = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(values[0]) * 1024 if values else None


def gpus_here(folder: Path = NVIDIA_GPUS) -> int | None:
    """Return how many GPUs NVIDIA's driver shows; None if it shows none, and then only Docker knows."""
    try:
        return sum(1 for _ in folder.iterdir()) or None
    except OSError:
        return None


class MemoryBudget:
    """Thread-safe. The file `path` keeps the largest use that was measured, until a model's entry or files change."""

    def __init__(
        self,
        *,
        fixed_bytes: Callable[[], int | None],
        docker_bytes: Callable[[], int],
        path: Path,
        available: Callable[[], int | None] = available_bytes,
        gpus: Callable[[], int | None] = gpus_here,
    ) -> None:
        self._fixed_bytes = fixed_bytes
        self._ask_docker = docker_bytes
        self._path = path
        self._available = available
        self._gpus = gpus
        self._docker_bytes: int | None = None
        self._lock = threading.Lock()
        self._largest = self._load()

    def room(self, used_bytes: int) -> Amount:
        """Return what all models together may take, if they use `used_bytes` of it now.

        This is `memory_budget`, or the smaller of 80 % of Docker's memory and of the free memory plus what they use.
        Asks Docker once; raises what `DockerService` raises.
        """
        fixed_bytes = self._fixed_bytes()
        if fixed_bytes is not None:
            return Amount(memory_bytes=fixed_bytes, gpus=self._gpus())
        most = self.most_bytes()
        free = self._available()
        return Amount(memory_bytes=most if free is None else min(most, free + used_bytes), gpus=self._gpus())

    def most_bytes(self) -> int:
        """Return the most that all models may ever take together, whatever is free now. Raises as `room` does."""
        fixed_bytes = self._fixed_bytes()
        if fixed_bytes is not None:
            return fixed_bytes
        if self._docker_bytes is None:
            self._docker_bytes = self._ask_docker()
        return int(SHARE_OF_DOCKER * self._docker_bytes)

    def needs(self, demand: Demand, *, limit_bytes: int | None = None) -> Amount:
        """Return what to count for the model: its largest measured use with a margin, at most its limit.

        Without a measurement this is its limit. `limit_bytes` is the limit of its container, if there is one.
        """
        limit = limit_bytes or demand.limit_bytes
        with self._lock:
            config, largest = self._largest.get(demand.model_id, ("", 0))
        if config != demand.config:
            return Amount(memory_bytes=limit, gpus=demand.gpus)
        with_margin = int(max(largest * MARGIN, largest + MARGIN_BYTES))
        return Amount(memory_bytes=min(with_margin, limit), gpus=demand.gpus)

    def observe(self, demand: Demand, used_bytes: int) -> None:
        """Note what a model's container uses now, without reclaimable page cache."""
        with self._lock:
            config, largest = self._largest.get(demand.model_id, ("", 0))
            # A smaller change makes no difference to a decision, so it is not worth a write.
            if config == demand.config and used_bytes - largest < MIB:
                return
            self._largest[demand.model_id] = (demand.config, used_bytes)
            text = json.dumps(self._largest, indent=2, sort_keys=True)
        try:
            write_atomic(self._path, text + "\n")
        except OSError as exc:
            log.warning("the measured memory use could not be saved; a restart measures it again: %s", exc)

    def _load(self) -> dict[str, tuple[str, int]]:
        """Return what an earlier controller measured. A file that cannot be read only means measuring again."""
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(name): (str(config), int(size)) for name, (config, size) in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as exc:
            log.warning("%s cannot be read, so memory use is measured again: %s", self._path, exc)
            return {}
