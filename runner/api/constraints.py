"""Checks what a request demands of its answer against what the engine and the model can do; only this file refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.api.errors import RequestRefused
from runner.engine import Capabilities, Constraints, GenerationRequest, Tool, ToolSyntax
from runner.grammar.json_schema import schema_rule
from runner.grammar.rules import Rules, SchemaInvalid, json_text, literal


@dataclass(frozen=True)
class _Form:
    """How a model writes calls: each between `mark` and `end`, all between `first` and `last`."""

    arguments: str = "arguments"
    first: str = ""
    mark: str = ""
    end: str = ""
    between: str = ""
    """Empty if a message can have only one call."""
    last: str = ""


_FORMS: dict[ToolSyntax, _Form] = {
    "hermes": _Form(mark="<tool_call>\n", end="\n</tool_call>", between="\n"),
    "llama": _Form(arguments="parameters"),
    "mistral": _Form(first="[TOOL_CALLS][", between=", ", last="]"),
}
# A small model that must call a tool seldom knows when to stop.
MAX_FORCED_CALLS = 4
NO_TOOLS = "this model's chat template does not support tools"


def add_grammar(request: GenerationRequest, capabilities: Capabilities) -> GenerationRequest:
    """Return the request, with a grammar if it needs one. Raises RequestRefused that names the parameter."""
    constraints = request.constraints
    _refuse_impossible(request, capabilities)
    if constraints.schema is None and not constraints.must_call:
        return request
    rules = Rules()
    roots = []
    if constraints.schema is not None and not constraints.must_call:
        try:
            roots.append(schema_rule(rules, constraints.schema))
        except SchemaInvalid as error:
            raise _invalid("response_format", error) from None
    if constraints.tools:
        assert capabilities.tool_syntax is not None
        roots.append(_calls(rules, constraints, capabilities.tool_syntax))
    return replace(request, grammar=rules.grammar(" | ".join(roots)))


def _refuse_impossible(request: GenerationRequest, capabilities: Capabilities) -> None:
    constraints = request.constraints
    if capabilities.tool_syntax is None:
        for index, message in enumerate(request.messages):
            if message.tool_calls:
                raise _unsupported(f"messages.{index}.tool_calls", NO_TOOLS)
        if constraints.tools:
            raise _unsupported("tools", NO_TOOLS)
    if not capabilities.grammars:
        why = f"the engine {capabilities.engine} cannot enforce it (openvino can)"
        if constraints.must_call:
            raise _unsupported("tool_choice", why)
        if constraints.schema is not None:
            raise _unsupported("response_format", why)


def _calls(rules: Rules, constraints: Constraints, syntax: ToolSyntax) -> str:
    """Return an expression for calls in this model's syntax: exactly one unless parallel calls are allowed."""
    form = _FORMS[syntax]
    bodies = []
    for index, tool in enumerate(constraints.tools):
        if not constraints.must_call or tool.name in constraints.must_call:
            try:
                # A separate rule, so that xgrammar does not merge tools whose names begin alike.
                arguments = rules.add(_arguments(rules, tool))
            except SchemaInvalid as error:
                raise _invalid(f"tools.{index}.function.parameters", error) from None
            bodies.append(
                rules.add(_sequence(f"{json_text(tool.name)}, {json_text(form.arguments)}: ", rule=arguments))
            )
    call = rules.add(_sequence(f'{form.mark}{{"name": ', "}" + form.end, rule=rules.add(" | ".join(bodies))))
    more = MAX_FORCED_CALLS - 1 if constraints.parallel_calls and form.between else 0
    calls = f"{call} ({literal(form.between)} {call}){{0,{more}}}" if more else call
    return rules.add(_sequence(form.first, form.last, rule=calls))


def _arguments(rules: Rules, tool: Tool) -> str:
    if tool.parameters.get("type", "object") != "object":
        raise SchemaInvalid('its type must be "object"')
    return schema_rule(rules, tool.parameters or {"type": "object", "properties": {}})


def _sequence(before: str, after: str = "", *, rule: str) -> str:
    return " ".join(([literal(before)] if before else []) + [rule] + ([literal(after)] if after else []))


def _unsupported(param: str, why: str) -> RequestRefused:
    message = f"{param} is not supported: {why}; leave it out."
    return RequestRefused(message, code="unsupported_parameter", param=param)


def _invalid(param: str, error: SchemaInvalid) -> RequestRefused:
    message = f"The engine cannot enforce the schema of {param}: {error}."
    return RequestRefused(message, code="invalid_schema", param=param)
