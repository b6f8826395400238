"""The default model as it is shipped, the set-up's downloads, and the exact answer of a model."""

from __future__ import annotations

import shutil
from typing import Any

import yaml

from controller.settings import ROOT
from tests.docker.house import House

DEFAULT_MODEL = "smollm2-135m"


def shipped_entry() -> dict[str, Any]:
    """Return the default model's entry in the models.yaml that we ship."""
    document = yaml.safe_load((ROOT / "config" / "models.yaml").read_text(encoding="utf-8"))
    entry: dict[str, Any] = document["models"][DEFAULT_MODEL]
    return entry


def copy_downloads(house: House) -> None:
    """Give the house what the set-up has downloaded, so that it need not be downloaded again."""
    downloads = ROOT / "data" / "sources"
    if downloads.is_dir():
        shutil.copytree(downloads, house.data_dir / "sources")


def greedy_answer(house: House, model_id: str, **fields: Any) -> dict[str, Any]:
    """Return the answer to `POST /inference`, without sampling unless the fields say so."""
    response = house.post("/inference", {"model_id": model_id, "temperature": 0, **fields}, timeout=400)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
