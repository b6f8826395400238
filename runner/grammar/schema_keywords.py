"""The keywords of JSON Schema as far as a grammar is concerned: which it can hold an answer to, which say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from runner.grammar.rules import SchemaInvalid, json_text

# Where in a schema: ("properties", "age", "anyOf[1]").
Path = tuple[str, ...]

# Each decides alone what the value is, but that `type` may stand beside the first two.
DECIDING = ("const", "enum", "$ref", "anyOf", "oneOf", "allOf")
# What no grammar, or not this one, can hold an answer to → the value at which it asks for nothing.
_UNHELD: dict[str, Any] = {
    **dict.fromkeys(("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies")),
    **dict.fromkeys(("patternProperties", "propertyNames", "unevaluatedProperties", "maxProperties")),
    **dict.fromkeys(("contains", "minContains", "maxContains", "unevaluatedItems", "additionalItems")),
    **dict.fromkeys(("multipleOf", "$dynamicRef", "$recursiveRef")),
    "minProperties": 0,
    "uniqueItems": False,
}
# The type that a schema means which names none, by what it says of it.
_TELLING = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_HELD = {*DECIDING, "type", *(keyword for keywords in _TELLING.values() for keyword in keywords)}
_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": lambda value: is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def is_number(value: Any) -> bool:
    """Whether it is a number of JSON, which a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def place(at: Path, *further: str) -> str:
    """The words for a place in a schema."""
    return ".".join((*at, *further)) or "the schema"


def refuse_unheld(schema: Mapping[str, Any], at: Path) -> None:
    """Raises SchemaInvalid that names a keyword to which no grammar can hold an answer."""
    for keyword, harmless in _UNHELD.items():
        if keyword in schema and (harmless is None or schema[keyword] != harmless):
            raise SchemaInvalid(f'{place(at)} has "{keyword}", to which an answer cannot be held')


def refuse_beside(keyword: str, schema: Mapping[str, Any], at: Path) -> None:
    """Raises SchemaInvalid for what stands beside a keyword that decides alone."""
    allowed = {keyword, "type"} if keyword in ("const", "enum") else {keyword}
    others = [other for other in schema if other in _HELD and other not in allowed]
    if others:
        raise SchemaInvalid(f'{place(at)} has "{others[0]}" beside "{keyword}"; both at once cannot be held')


def types_of(schema: Mapping[str, Any], at: Path) -> list[str]:
    """The types that a value may have; none where it may have any. Raises SchemaInvalid."""
    if "type" not in schema:
        return [name for name, telling in _TELLING.items() if any(keyword in schema for keyword in telling)][:1]
    given = schema["type"]
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise SchemaInvalid(f"{place(at, 'type')} must be one or several of: {', '.join(_TYPES)}")
    return names


def fits(value: Any, types: list[str]) -> bool:
    """Whether the value has one of the types, or none are asked for."""
    return not types or any(_TYPES[name](value) for name in types)


def found_in(document: Any, target: str, at: Path) -> Any:
    """What a reference such as "#/$defs/Person" points at. Raises SchemaInvalid where there is nothing."""
    found = document
    for part in target.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            raise SchemaInvalid(f"{place(at)} refers to {target}, which is not there")
    return found


def check_apart(options: list[Any], at: Path, resolve: Callable[[Any], Any]) -> None:
    """Raises SchemaInvalid unless a value that fits one of the options can be seen to fit no other."""
    for one, other in combinations([resolve(option) for option in options], 2):
        if not _are_apart(one, other, at, resolve):
            raise SchemaInvalid(
                f'{place(at)} has "oneOf" of schemas that one value might fit together; write "anyOf", or tell them '
                "apart by a required property with a const"
            )


def _are_apart(one: Any, other: Any, at: Path, resolve: Callable[[Any], Any]) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not values & others
    types, other_types = set(types_of(one, at)), set(types_of(other, at))
    if types and other_types and not _widened(types) & _widened(other_types):
        return True
    properties, other_properties = one.get("properties"), other.get("properties")
    if not isinstance(properties, dict) or not isinstance(other_properties, dict):
        return False
    required = [key for key in _strings(one.get("required")) if key in _strings(other.get("required"))]
    return any(
        _are_apart(resolve(properties[key]), resolve(other_properties[key]), at, resolve)
        for key in required
        if key in properties and key in other_properties
    )


def _values(schema: Mapping[str, Any]) -> set[str] | None:
    given = [schema["const"]] if "const" in schema else schema.get("enum")
    return {json_text(value) for value in given} if isinstance(given, list) else None


def _widened(types: set[str]) -> set[str]:
    return {"number" if name == "integer" else name for name in types}


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
