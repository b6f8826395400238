"""YAML text → plain values that remember their lines.

Scalars follow the core schema of YAML 1.2, as in editors: `yes`, `1_000` and `1:30` are text. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from controller.registry.file.problems import FileBroken, KeyPath, Problem, field_name, one_line

MAX_DEPTH = 32
MAX_VALUES = 50_000

_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"
_HINTS = (
    ("'\\t'", "there is a tab where YAML allows only spaces; indent with spaces"),
    ("mapping values are not allowed here", "a ':' is not expected here; check the indentation, quote text with ': '"),
    ("could not find expected ':'", "the ':' after a key is missing here; write `key: value`"),
    ("expected <block end>", "the indentation does not fit the lines above; align it with them"),
    ("expected ',' or", "a bracket is not closed or a comma is missing; write [a, b] or {a: b}"),
    ("while scanning a quoted scalar", "a quoted text is not closed; add the closing quote"),
    ("expected a single document", "a second document begins with '---'; write one document per file"),
    ("undefined alias", "there is no anchor of this name above the alias; write `&name` at the value that it repeats"),
    ("duplicate anchor", "there is an anchor of this name above already; give this one another name"),
    ("special characters are not allowed", "there is a control character here; remove it"),
    ("cannot start any token", "a value cannot begin with this character; put the text in quotes"),
)


@dataclass
class Document:
    """A file's plain values, the line of each path, and the problems that did not prevent reading it."""

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: set[KeyPath] = field(default_factory=set)

    def line(self, path: KeyPath) -> int:
        """Return the line of a path, or of its nearest parent that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """Composes nodes up to a bounded depth and number; it resolves only scalars that YAML 1.1 and 1.2 read alike."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base class's own name and type
    depth = 0
    node_count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.node_count += 1
        if self.depth > MAX_DEPTH:
            raise _too_deep(self.get_mark().line + 1)
        if self.node_count > MAX_VALUES:
            raise _too_many(self.get_mark().line + 1)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _resolve(name: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_TAG + name, re.compile(rf"(?:{pattern})\Z"), list(first))


_resolve("null", r"~|null|Null|NULL", "~nN")
_Loader.yaml_implicit_resolvers[""] = [(_TAG + "null", re.compile(r"\Z"))]
_resolve("bool", r"true|True|TRUE|false|False|FALSE", "tTfF")
# A longer row of digits is an identifier (such as a hash), not a quantity.
_resolve("int", r"[-+]?(?:0|[1-9][0-9]{0,31})", "-+0123456789")
_resolve("float", r"[-+]?(?:[0-9]{1,24}\.[0-9]{0,24}|\.[0-9]{1,24})(?:[eE][-+][0-9]{1,4})?", "-+.0123456789")
_resolve("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")


def parse_yaml(text: str) -> Document:
    """Return the document in the text; raises FileBroken if the text is not YAML."""
    node = _compose(text)
    builder = _Builder()
    if node is not None:
        builder.document.value = builder.build(node, (), 0)
    return builder.document


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        raise FileBroken(text.count("\n", 0, error.position) + 1, "syntax", _hint(error.reason)) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = text.count("\n") + (not text.endswith("\n"))
        line = min(mark.line + 1, max(last, 1)) if mark else 1
        raise FileBroken(line, "syntax", _hint(f"{error.context or ''}: {error.problem or ''}")) from None
    except (ValueError, OverflowError):
        # PyYAML raises these for escapes such as "\UFFFFFFFF" and for very long %YAML versions.
        line = loader.get_mark().line + 1
        raise FileBroken(line, "syntax", "an escape or a number here is out of range; write it plainly") from None


def _hint(problem: str) -> str:
    for fragment, sentence in _HINTS:
        if fragment in problem:
            return sentence
    return f"this is not YAML ({one_line(problem.strip(': '), 120)}); correct the text here"


def _too_deep(line: int) -> FileBroken:
    return FileBroken(line, "syntax", f"values are nested deeper than {MAX_DEPTH} levels; write a flatter file")


def _too_many(line: int) -> FileBroken:
    text = f"the file has more than {MAX_VALUES} values, counting each use of an alias; write fewer"
    return FileBroken(line, "syntax", text)


@dataclass
class _Entry:
    line: int
    node: yaml.Node


class _Builder:
    def __init__(self) -> None:
        self.document = Document()
        self.value_count = 0
        self.open_nodes: set[int] = set()
        self.problem_positions: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath, depth: int) -> object:
        """Return the node's plain value; adds its lines and problems to the document."""
        line = node.start_mark.line + 1
        self.document.lines.setdefault(path, line)
        self._count(node, line, depth)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self.open_nodes.add(id(node))
        value: object = None
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            self._refuse_tag(node, path)
        elif isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path, depth)
        else:
            value = [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        self.open_nodes.discard(id(node))
        return value

    def _count(self, node: yaml.Node, line: int, depth: int) -> None:
        self.value_count += 1
        if id(node) in self.open_nodes:
            raise FileBroken(line, "syntax", "an anchor is used inside its own value; remove the alias")
        if depth > MAX_DEPTH:
            raise _too_deep(line)
        if self.value_count > MAX_VALUES:
            raise _too_many(line)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, object]:
        value = {}
        for key, entry in self._entries(node, path, depth).items():
            self.document.lines[(*path, key)] = entry.line
            value[key] = self.build(entry.node, (*path, key), depth + 1)
        return value

    def _entries(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, _Entry]:
        """Return the mapping's own entries, then those that it merges from others under further keys."""
        own: dict[str, _Entry] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, path, "has a key that is a list or a mapping; write a plain word")
            elif key.value in own:
                first = own[key.value].line
                self._report(key, (*path, key.value), f"is written twice (first on line {first}); keep one of them")
            else:
                own[key.value] = _Entry(line, value)
        merge = own.pop(_MERGE, None)
        for base in self._bases(merge, path) if merge else ():
            self._count(base, base.start_mark.line + 1, depth + 1)
            self.open_nodes.add(id(base))
            for name, entry in self._entries(base, path, depth + 1).items():
                self._count(entry.node, entry.line, depth)
                own.setdefault(name, entry)
            self.open_nodes.discard(id(base))
        return own

    def _bases(self, merge: _Entry, path: KeyPath) -> Iterator[yaml.MappingNode]:
        nodes = merge.node.value if isinstance(merge.node, yaml.SequenceNode) else [merge.node]
        for node in nodes:
            if isinstance(node, yaml.MappingNode):
                yield node
            else:
                self._report(node, (*path, _MERGE), "does not name a mapping; write `<<: *anchor` of a mapping")

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> object:
        kind, text = node.tag.removeprefix(_TAG), node.value
        try:
            if kind == "str":
                return str(text)
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            pass
        self._refuse_tag(node, path)
        return None

    def _refuse_tag(self, node: yaml.Node, path: KeyPath) -> None:
        self.document.unreadable.add(path)
        tag = one_line(node.tag.replace(_TAG, "!!"))
        self._report(node, path, f"has the tag {tag}, which is not supported here; remove the tag")

    def _report(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        # A mapping is visited once for each place that merges it.
        if node.start_mark.index not in self.problem_positions:
            self.problem_positions.add(node.start_mark.index)
            self.document.problems.append(Problem(node.start_mark.line + 1, field_name(path), text))
