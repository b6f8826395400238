"""Schemas as grammars: a grammar allows only valid values, and a refusal names what it cannot enforce."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from runner.grammar.json_schema import schema_grammar
from runner.grammar.rules import MAX_COUNTED, MAX_TEXT, SchemaInvalid
from tests.runner.grammar import ebnf

NAMES = st.text(max_size=4).filter(lambda text: not re.search("[\ud800-\udfff]", text))
COUNTS = st.integers(0, 4)


def optional(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


def fixed(**values: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.just(values)


def merge(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda schemas: {key: value for part in schemas for key, value in part.items()})


BOUNDS = st.one_of(st.integers(-1200, 1200), st.decimals(-120, 120, places=2).map(float))
NUMBERS = merge(
    st.sampled_from([{"type": "integer"}, {"type": "number"}]),
    optional(minimum=BOUNDS, exclusiveMinimum=BOUNDS),
    optional(maximum=BOUNDS, exclusiveMaximum=BOUNDS),
)
STRINGS = merge(fixed(type="string"), optional(minLength=COUNTS, maxLength=COUNTS.map(lambda n: n + 4)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
LEAVES = st.one_of(
    NUMBERS,
    STRINGS,
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null", "integer"]}, {}, True]),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, VALUES),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAMES, inner, max_size=4)
    objects = st.builds(
        lambda members, chance, further: {
            "type": "object",
            "properties": members,
            "required": [name for name in members if chance.random() < 0.5],
            **further,
        },
        properties,
        st.randoms(use_true_random=False),
        optional(additionalProperties=st.booleans() | inner, title=NAMES),
    )
    maps = merge(fixed(type="object"), optional(additionalProperties=st.just(True) | inner))
    arrays = merge(
        fixed(type="array"),
        optional(items=inner, minItems=COUNTS, maxItems=COUNTS.map(lambda n: n + 4)),
        optional(prefixItems=st.lists(inner, min_size=1, max_size=3)),
    )
    return st.one_of(objects, maps, arrays, st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1)))


SCHEMAS = st.recursive(LEAVES, containers, max_leaves=8)


def samples(schema: Any, chance: random.Random, count: int = 5) -> list[Any]:
    """Return values of texts that the schema's grammar allows."""
    grammar = ebnf.read(schema_grammar(schema).text)
    return [json.loads(grammar.sample(chance)) for _ in range(count)]


def refusal(schema: Any) -> str:
    with pytest.raises(SchemaInvalid) as excinfo:
        schema_grammar(schema)
    return str(excinfo.value)


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(SCHEMAS, st.randoms(use_true_random=False))
def test_a_grammar_allows_only_valid_values(schema: Any, chance: random.Random) -> None:
    """Any text of the grammar is valid JSON for the schema; a schema is refused only if it allows no value."""
    Draft202012Validator.check_schema(schema)
    try:
        grammar = ebnf.read(schema_grammar(schema).text)
    except SchemaInvalid:
        assert "allows no value" in refusal(schema)
        return
    for _ in range(5):
        Draft202012Validator(schema).validate(json.loads(grammar.sample(chance)))


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"Node": {"properties": {"next": {"$ref": "#/$defs/Node"}, "n": {"type": "integer"}}}},
         "$ref": "#/$defs/Node"},
        {"properties": {"children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["children"]},
        {"properties": {"a/b~c": {"type": "integer"}, "x": {"$ref": "#/properties/a~1b~0c"}}, "required": ["x"]},
        {"allOf": [{"type": "integer", "minimum": 3}], "title": "alone"},
        {"required": ["b", "a"], "properties": {"a": {"type": "null"}}},
        {"type": "object", "required": ["z"], "additionalProperties": {"type": "boolean"}},
        {"type": "string", "enum": ["a", 1, "b"]},
        {"properties": {"a": {"type": "integer"}}, "additionalProperties": False},
        {"items": {"type": "integer"}, "uniqueItems": False},
        {"minLength": 2},
        {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
        {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "maxItems": 1},
        {"type": "array", "prefixItems": [{"const": 1}], "minItems": 3},
        {"oneOf": [{"type": "integer"}, {"type": ["string", "null"]}]},
        {"oneOf": [{"properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in ("cat", "dog")],
         "discriminator": {"propertyName": "kind"}},
    ],
)  # fmt: skip
def test_it_supports_what_schema_generators_write(schema: Any) -> None:
    """These are references, also to itself, tuples, disjoint oneOf, and keywords that imply the type."""
    values = samples(schema, random.Random(7), 50)
    for value in values:
        Draft202012Validator(schema).validate(value)
    assert len({json.dumps(value) for value in values}) > 1 or "prefixItems" in schema


def test_optional_properties_come_and_go() -> None:
    """The grammar allows each choice of optional properties, and none without the required one."""
    schema = {"properties": {name: {"const": 1} for name in "abcd"}, "required": ["c"]}
    choices = {"".join(value) for value in samples(schema, random.Random(1), 400)}
    assert choices == {"c", "ac", "bc", "cd", "abc", "acd", "bcd", "abcd"}
    assert {"".join(value) for value in samples({"properties": {"a": True, "b": True}}, random.Random(1), 100)} == {
        "", "a", "b", "ab",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, '"uniqueItems"'),
        ({"not": {}}, '"not"'),
        ({"type": "integer", "multipleOf": 5}, '"multipleOf"'),
        ({"type": "object", "properties": {"a": {"if": {}}}}, 'properties.a has "if"'),
        ({"type": "object", "minProperties": 1}, '"minProperties"'),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, "allOf"),
        ({"anyOf": [{"const": 1}], "minimum": 3}, '"minimum" beside "anyOf"'),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}, "properties": {}}, '"properties" beside "$ref"'),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"oneOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"a": {"const": 2}}}]}, "oneOf"),
        ({"$ref": "https://example.org/schema"}, "must point into this schema"),
        ({"$ref": "#/$defs/missing"}, "does not exist"),
        ({"$ref": "#"}, "refers to itself"),
        ({"anyOf": [{"$ref": "#/anyOf/1"}, {"$ref": "#/anyOf/0"}]}, "refers to itself"),
        ({"type": "strin"}, "one or several of"),
        ({"type": []}, "one or several of"),
        ({"enum": []}, "allows no value"),
        ({"enum": 5}, "must be a list"),
        ({"type": "string", "const": 5}, "allows no value"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "allows no value"),
        ({"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 1}, "allows no value"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "allows no value"),
        ({"type": "array", "items": False, "minItems": 1}, "allows no value"),
        ({"properties": {"a": False}}, "properties.a allows no value"),
        ({"required": ["a"], "additionalProperties": False}, "additionalProperties allows no value"),
        (False, "allows no value"),
        ({"properties": []}, "properties must be an object"),
        ({"required": "a"}, "required must be a list"),
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"type": "string", "maxLength": True}, "maxLength"),
        ({"type": "integer", "minimum": "5"}, "minimum must be a number"),
        ({"type": "integer", "exclusiveMinimum": True}, "exclusiveMinimum must be a number"),
        ({"type": "number", "minimum": 1e300}, "more digits"),
        ({"type": "number", "minimum": 1e-300}, "more digits"),
        ({"type": "number", "maximum": 10**400}, "more digits"),
        ({"const": float("inf")}, "too large"),
        ({"const": "\ud800"}, "half a character"),
        ({"properties": {"\udfff": {}}}, "half a character"),
        ({"type": "array", "minItems": 10**6}, "minItems"),
        ({"type": "string", "minLength": 1, "pattern": "a"}, "use only one of them"),
        ({"type": "array", "items": [{"type": "integer"}]}, "items must be an object"),
        (5, "must be an object"),
        ({"anyOf": [{"items": {}, "minItems": n} for n in range(60)]}, "alternatives"),
        ({"properties": {f"property {n}": {} for n in range(MAX_TEXT // 20)}}, f"{MAX_TEXT} characters"),
        ({"enum": [f"a number of choices {n}" for n in range(5000)]}, "states"),
        ({"prefixItems": [{"maxLength": MAX_COUNTED // 4 + n} for n in range(8)]}, "too long to compile"),
    ],
)
def test_a_refusal_names_what_cannot_be_enforced(schema: Any, says: str) -> None:
    """The reason names the place; a schema that cannot be enforced is never accepted."""
    assert says in refusal(schema)


def test_depth_is_bounded() -> None:
    """However deep a schema is, its refusal is a sentence."""
    schema: Any = {"type": "integer"}
    for _ in range(300):
        schema = {"type": "array", "items": schema}
    assert "nested" in refusal(schema)
