"""Write config/models.schema.json for editors: `python -m controller.registry.file.json_schema [--check]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema

from controller.registry.file.file_model import ModelsFile

SCHEMA_PATH = Path(__file__).resolve().parents[3] / "config" / "models.schema.json"


class _EditorSchema(GenerateJsonSchema):
    """Writes draft 7, which every editor supports, without titles and null defaults: they only repeat the key."""

    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        json_schema = super().default_schema(schema)
        if json_schema.get("default", ...) is None:
            del json_schema["default"]
        return json_schema

    def generate(self, schema: CoreSchema, mode: Any = "validation") -> dict[str, Any]:
        json_schema = super().generate(schema, mode)
        json_schema["$schema"] = self.schema_dialect
        for part in (json_schema, *json_schema.get("$defs", {}).values()):
            part.pop("title", None)
        return json_schema


def schema_text() -> str:
    """Return the JSON schema of models.yaml as the text of its file."""
    schema = ModelsFile.model_json_schema(schema_generator=_EditorSchema)
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the schema; with --check only report whether the file is up to date."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m controller.registry.file.json_schema [--check]", file=sys.stderr)
        return 2
    if not arguments:
        SCHEMA_PATH.write_text(schema_text(), encoding="utf-8")
        return 0
    if SCHEMA_PATH.exists() and SCHEMA_PATH.read_text(encoding="utf-8") == schema_text():
        return 0
    print(f"{SCHEMA_PATH} is out of date; run: python -m controller.registry.file.json_schema", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
