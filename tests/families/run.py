"""Makes small models and has Orchestrar serve them: the rows of docs/models.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.families.making import make_models
from tests.families.page import GGUF, SAFETENSORS, Row
from tests.families.serving import Reference, serve

# Models of one house.
AT_A_TIME = 14
FORMS = {SAFETENSORS: "", GGUF: ".gguf"}


def rows_of(folder: Path, names: Sequence[str]) -> list[Row]:
    """Return the verdicts on these families in both forms. Fails if a model cannot be made."""
    models = folder / "models"
    models.mkdir(mode=0o755, parents=True)
    records = make_models(models, names)
    problems = {name: record["problem"] for name, record in records.items() if "problem" in record}
    assert not problems, f"these small models cannot be made: {problems}"
    sources: dict[str, tuple[Path, Reference]] = {}
    for name, record in records.items():
        for form, suffix in FORMS.items():
            if (models / (name + suffix)).exists():
                sources[f"{name}.{form}".lower()] = models / (name + suffix), record
    verdicts = {}
    for start in range(0, len(sources), AT_A_TIME):
        part = list(sources)[start : start + AT_A_TIME]
        verdicts.update(serve(folder / f"house{start}", {model_id: sources[model_id] for model_id in part}))
    return [
        Row(
            family=name,
            form=form,
            quant="F32",
            verdict=verdicts.get(f"{name}.{form}".lower()),
            absent=records[name].get("gguf_problem", ""),
        )
        for name in names
        for form in FORMS
    ]
