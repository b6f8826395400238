"""Plain values → the pydantic classes, or a sentence for every error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from controller.registry.file.checks import Finding
from controller.registry.file.file_model import ModelsFile
from controller.registry.file.problems import KeyPath, closest, describe

_MOST_ERRORS = 200


def shape(value: object) -> tuple[ModelsFile | None, list[Finding]]:
    """Return the file as its class, or else what is wrong with its keys and values."""
    try:
        return ModelsFile.model_validate(value), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, [(detail["loc"], _sentence(detail)) for detail in details[:_MOST_ERRORS]]


def _sentence(detail: ErrorDetails) -> str:
    kind, path = detail["type"], detail["loc"]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "missing":
        return _missing(path)
    if kind == "extra_forbidden":
        return _unknown_key(path, detail["input"])
    if path == ("models",) and detail["input"] is None:
        return "is empty; write at least one model under it"
    kind_name = "a list, such as [first, second]" if kind == "tuple_type" else "a mapping, lines of `key: value`"
    remove = ", or remove the key" if detail["input"] is None and path else ""
    return f"{describe(detail['input'])}; write {kind_name}{remove}"


def _missing(path: KeyPath) -> str:
    if path == ("models",):
        return "is missing; write `models:` and under it at least one model"
    return "is missing; write where the model comes from, such as `source: hf://owner/name`"


def _unknown_key(path: KeyPath, value: object) -> str:
    fields = _class_at(path[:-1]).model_fields
    word = str(path[-1])
    elsewhere = [name for name, part in _parts(fields) if word in part.model_fields]
    if len(path) == 1 and isinstance(value, dict) and "source" in value:
        elsewhere = ["models"]
    if elsewhere:
        return f"is not known here; write it under `{elsewhere[0]}:`"
    guess = closest(word, fields)
    if guess:
        return f"is not known; did you mean {guess}?"
    return f"is not known; write one of {', '.join(fields)}"


def _parts(fields: Mapping[str, Any]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, info in fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield name, info.annotation


def _class_at(path: KeyPath) -> type[BaseModel]:
    """Return the class of the mapping at this path of the file."""
    part_class: type[BaseModel] = ModelsFile
    for part in path:
        info = part_class.model_fields.get(str(part))
        annotation = info.annotation if info else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            part_class = annotation
        elif part == "models" and annotation is not None:
            part_class = get_args(annotation)[1]
    return part_class
