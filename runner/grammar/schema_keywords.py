"""The keywords of JSON Schema: which ones a grammar can enforce, and which have no effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from runner.grammar.rules import SchemaInvalid, json_text

# A place in a schema: ("properties", "age", "anyOf[1]").
Path = tuple[str, ...]

# Each decides alone what the value is; only the first two may stand beside `type`.
DECIDING = ("const", "enum", "$ref", "anyOf", "oneOf", "allOf")
# Keywords that no grammar, or not ours, can enforce → the value with which the keyword has no effect.
_UNENFORCEABLE: dict[str, Any] = {
    **dict.fromkeys(("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies")),
    **dict.fromkeys(("patternProperties", "propertyNames", "unevaluatedProperties", "maxProperties")),
    **dict.fromkeys(("contains", "minContains", "maxContains", "unevaluatedItems", "additionalItems")),
    **dict.fromkeys(("multipleOf", "$dynamicRef", "$recursiveRef")),
    "minProperties": 0,
    "uniqueItems": False,
}
# The type that a schema without a type means, by the keywords that it has.
_KEYWORDS_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_ENFORCED = {*DECIDING, "type", *(keyword for keywords in _KEYWORDS_OF_TYPE.values() for keyword in keywords)}
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
    """Tell whether it is a JSON number, which a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def place(at: Path, *further: str) -> str:
    """Return the words for a place in a schema."""
    return ".".join((*at, *further)) or "the schema"


def refuse_unenforceable(schema: Mapping[str, Any], at: Path) -> None:
    """Raise SchemaInvalid that names a keyword which a grammar cannot enforce."""
    for keyword, harmless in _UNENFORCEABLE.items():
        if keyword in schema and (harmless is None or schema[keyword] != harmless):
            raise SchemaInvalid(f'{place(at)} has "{keyword}", which the engine cannot enforce')


def refuse_beside(keyword: str, schema: Mapping[str, Any], at: Path) -> None:
    """Raise SchemaInvalid for a keyword beside one that decides alone."""
    compatible = {keyword, "type"} if keyword in ("const", "enum") else {keyword}
    others = [other for other in schema if other in _ENFORCED and other not in compatible]
    if others:
        raise SchemaInvalid(f'{place(at)} has "{others[0]}" beside "{keyword}"; use only one of them')


def types_of(schema: Mapping[str, Any], at: Path) -> list[str]:
    """Return the types that a value may have; none if it may have any. Raises SchemaInvalid."""
    if "type" not in schema:
        return [name for name, keywords in _KEYWORDS_OF_TYPE.items() if any(word in schema for word in keywords)][:1]
    value = schema["type"]
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in _TYPES for name in names):
        raise SchemaInvalid(f"{place(at, 'type')} must be one or several of: {', '.join(_TYPES)}")
    return names


def fits(value: Any, types: list[str]) -> bool:
    """Tell whether the value has one of the types; any value does if there are none."""
    return not types or any(_TYPES[name](value) for name in types)


def look_up(document: Any, target: str, at: Path) -> Any:
    """Return what a reference such as "#/$defs/Person" points to. Raises SchemaInvalid if there is nothing."""
    value = document
    for part in target.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            raise SchemaInvalid(f"{place(at)} refers to {target}, which does not exist")
    return value


def check_apart(options: list[Any], at: Path, resolve: Callable[[Any], Any]) -> None:
    """Raise SchemaInvalid unless it is clear that a value which fits one option fits no other."""
    for one, other in combinations([resolve(option) for option in options], 2):
        if not _are_apart(one, other, at, resolve):
            raise SchemaInvalid(
                f'{place(at)} has "oneOf" of schemas that may both fit one value; write "anyOf", or give each schema a '
                "required property with a different const"
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
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return {json_text(value) for value in values} if isinstance(values, list) else None


def _widened(types: set[str]) -> set[str]:
    return {"number" if name == "integer" else name for name in types}


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
