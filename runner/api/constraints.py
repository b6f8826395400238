"""What a request asks of its answer, held against what the engine and the model can do: the one place that refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.api.errors import Refused
from runner.engine import Capabilities, Constraints, GenerationRequest, Tool, ToolSyntax
from runner.grammar.json_schema import schema_rule
from runner.grammar.rules import Rules, SchemaInvalid, json_text, literal


@dataclass(frozen=True)
class _Form:
    """How calls are written: each between `mark` and `end`, all between `first` and `last`."""

    arguments: str = "arguments"
    first: str = ""
    mark: str = ""
    end: str = ""
    between: str = ""
    """Empty where a message has one call."""
    last: str = ""


_FORMS: dict[ToolSyntax, _Form] = {
    "hermes": _Form(mark="<tool_call>\n", end="\n</tool_call>", between="\n"),
    "llama": _Form(arguments="parameters"),
    "mistral": _Form(first="[TOOL_CALLS][", between=", ", last="]"),
}
# A small model that has to call something seldom knows when to stop.
MAX_FORCED_CALLS = 4


def constrained(request: GenerationRequest, capabilities: Capabilities) -> GenerationRequest:
    """The request with its grammar, where it needs one. Raises Refused that names the parameter."""
    wanted = request.constraints
    _refuse_impossible(request, capabilities)
    if wanted.schema is None and not wanted.must_call:
        return request
    rules = Rules()
    roots = []
    if wanted.schema is not None and not wanted.must_call:
        try:
            roots.append(schema_rule(rules, wanted.schema))
        except SchemaInvalid as error:
            raise _invalid("response_format", error) from None
    if wanted.tools:
        assert capabilities.tool_syntax is not None
        roots.append(_calls(rules, wanted, capabilities.tool_syntax))
    return replace(request, grammar=rules.grammar(" | ".join(roots)))


def _refuse_impossible(request: GenerationRequest, capabilities: Capabilities) -> None:
    wanted = request.constraints
    if capabilities.tool_syntax is None:
        for index, message in enumerate(request.messages):
            if message.tool_calls:
                raise _unsupported(f"messages.{index}.tool_calls", "this model's chat template knows no tools")
        if wanted.tools:
            raise _unsupported("tools", "this model's chat template knows no tools")
    if not capabilities.grammars:
        why = f"the engine {capabilities.engine} cannot hold an answer to it (openvino can)"
        if wanted.must_call:
            raise _unsupported("tool_choice", why)
        if wanted.schema is not None:
            raise _unsupported("response_format", why)


def _calls(rules: Rules, wanted: Constraints, syntax: ToolSyntax) -> str:
    """Calls as this model writes them: at least one, and no more than one where they are not to be parallel."""
    form = _FORMS[syntax]
    bodies = []
    for index, tool in enumerate(wanted.tools):
        if not wanted.must_call or tool.name in wanted.must_call:
            try:
                # A rule of its own, so that tools whose names begin alike are not merged.
                arguments = rules.add(_arguments(rules, tool))
            except SchemaInvalid as error:
                raise _invalid(f"tools.{index}.function.parameters", error) from None
            bodies.append(
                rules.add(_sequence(f"{json_text(tool.name)}, {json_text(form.arguments)}: ", rule=arguments))
            )
    call = rules.add(_sequence(f'{form.mark}{{"name": ', "}" + form.end, rule=rules.add(" | ".join(bodies))))
    more = MAX_FORCED_CALLS - 1 if wanted.parallel_calls and form.between else 0
    calls = f"{call} ({literal(form.between)} {call}){{0,{more}}}" if more else call
    return rules.add(_sequence(form.first, form.last, rule=calls))


def _arguments(rules: Rules, tool: Tool) -> str:
    if tool.parameters.get("type", "object") != "object":
        raise SchemaInvalid('its type must be "object"')
    return schema_rule(rules, tool.parameters or {"type": "object", "properties": {}})


def _sequence(before: str, after: str = "", *, rule: str) -> str:
    return " ".join(([literal(before)] if before else []) + [rule] + ([literal(after)] if after else []))


def _unsupported(param: str, why: str) -> Refused:
    return Refused(f"{param} is not supported here: {why}; leave it out.", code="unsupported_parameter", param=param)


def _invalid(param: str, error: SchemaInvalid) -> Refused:
    return Refused(f"An answer cannot be held to the schema of {param}: {error}.", code="invalid_schema", param=param)
