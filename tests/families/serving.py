"""Asks small models through a whole Orchestrar with `engine: auto`, and compares each answer with the right one."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.docker.house import House, free_ports
from tests.families.table import NEW_TOKENS

AT_ONCE = 2
# Of the logits' standard deviation: two choices closer than this may change places by the rounding of 8-bit weights.
CLOSE = 0.05
Reference = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one model. `kind` is exact, within, refused or wrong; `detail` is a figure or a sentence."""

    kind: str
    detail: str
    engine: str
    others: str
    """What the engines before this one said; empty if it was the first."""


def serve(folder: Path, sources: Mapping[str, tuple[Path, Reference]]) -> dict[str, Verdict]:
    """Ask every model (id → its files and its reference) in a new house in the folder; return the verdicts."""
    models = {
        model_id: {
            "source": source.as_uri(),
            "task": "completion",
            "context_length": 256,
            "resources": {"cpus": 1, "memory": "1g"},
        }
        for model_id, (source, _) in sources.items()
    }
    text = yaml.safe_dump({"defaults": {"max_wait": "300s", "start_timeout": "300s"}, "models": models})
    ports = {"ORCHESTRAR_FIRST_MODEL_PORT": str(free_ports(len(models)))}
    house = House(folder, text, environ=ports)
    try:
        house.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            verdicts = pool.map(lambda model_id: _verdict(house, model_id, sources[model_id][1]), sources)
            return dict(zip(sources, verdicts, strict=True))
    finally:
        house.close()


def _verdict(house: House, model_id: str, reference: Reference) -> Verdict:
    kind, detail = "exact", ""
    for answer in reference["answers"]:
        response = house.post(
            "/inference",
            {"model_id": model_id, "prompt": answer["prompt"], "raw": True, "temperature": 0, "max_tokens": NEW_TOKENS},
            timeout=320,
        )
        if not response.ok:
            kind, detail = "refused", _sentence(response.json()["error"]["message"], model_id)
            break
        kind, detail = max((kind, detail), compared(response.json()["text"], answer), key=_gravity)
    house.post("/stop", {"model_id": model_id})
    (row,) = [row for row in house.get("/models").json()["models"] if row["id"] == model_id]
    reason = str(row["engine_reason"])
    others = reason if kind != "refused" and reason.endswith("serves it") else ""
    verdict = Verdict(kind=kind, detail=detail, engine=str(row["engine"]), others=others)
    print(f"{model_id}: {verdict}", flush=True)
    return verdict


def compared(text: str, answer: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of an answer, and at which token it left the reference and how clear the choice was there."""
    if text == "".join(answer["texts"]):
        return "exact", ""
    place, rest = 0, text
    while place < len(answer["texts"]) and rest.startswith(answer["texts"][place]):
        rest = rest[len(answer["texts"][place]) :]
        place += 1
    gap = answer["gaps"][min(place, len(answer["gaps"]) - 1)]
    figure = f"token {place + 1}, whose gap is {gap:.3f} of the spread"
    return ("within" if gap < CLOSE else "wrong"), figure


def _gravity(result: tuple[str, str]) -> int:
    return ("exact", "within", "wrong", "refused").index(result[0])


def _sentence(message: str, model_id: str) -> str:
    return message.removeprefix(f"preparing {model_id} failed: ").removeprefix(f"{model_id}: ")
