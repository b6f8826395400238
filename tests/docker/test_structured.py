"""Answers that follow a schema, and forced tool calls, with the real SmolLM2 on the openvino engine."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from jsonschema import Draft202012Validator
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, Field, SecretStr

from tests.docker.conftest import Build
from tests.docker.house import House, docker
from tests.docker.real_models import DEFAULT_MODEL, shipped_entry

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

# As Qwen's, shortened: the default model's own template has no tools.
TEMPLATE = """{%- if tools %}<|im_start|>system
Tools: {{ tools | tojson }}
Call one by <tool_call>
{"name": …, "arguments": {…}}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, build_real_house: Build) -> House:
    """Return the default model, and the same with a chat template for tools, made from the former's prepared files."""
    tools = tmp_path_factory.mktemp("tools")
    tools.chmod(0o755)
    # Exact: otherwise an answer depends on what else is in the batch.
    engine = {"engine": "openvino", "dtype": "float32"}
    house = build_real_house(
        {DEFAULT_MODEL: {**shipped_entry(), **engine}, "tools": {"source": tools.as_uri(), **engine}}
    )
    house.post("/run", {"model_id": DEFAULT_MODEL}, timeout=320).raise_for_status()
    copy_with_template(house, tools)
    return house


def copy_with_template(house: House, target: Path) -> None:
    """Copy the prepared files, with `TEMPLATE` in place of the model's own."""
    (container,) = house.containers("smollm2-135m")
    docker("cp", f"{container}:/model/weights/.", str(target))
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "chat_template": TEMPLATE}), encoding="utf-8")


def chat(client: OpenAI, content: str, model: str = "smollm2", **fields: Any) -> Any:
    """Ask, and return the one choice of the answer."""
    messages: Any = [{"role": "user", "content": content}]
    fields.setdefault("temperature", 0)
    return client.chat.completions.create(model=model, messages=messages, **fields).choices[0]


def form(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "capital": {"type": "boolean"}},
     "required": ["city", "capital"], "additionalProperties": False},
    {"type": "array", "items": {"type": "integer", "minimum": 5, "maximum": 50}, "minItems": 3, "maxItems": 3},
    {"enum": ["ab", "a", "abc", "b", "é", None, 1]},
    {"properties": {"confidence": {"type": "number", "minimum": 0, "maximum": 1}}, "required": ["confidence"]},
    {"type": "object", "properties": {"when": {"type": "string", "format": "date-time"}}, "required": ["when"]},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}( \\(\"é\"\\))?$"},
    {"$defs": {"Node": {"type": "object", "properties": {"name": {"enum": ["x", "y"]}, "next": {"anyOf": [
        {"$ref": "#/$defs/Node"}, {"type": "null"}]}}, "required": ["name", "next"]}}, "$ref": "#/$defs/Node"},
    {"type": "object", "properties": {f"optional {n}": {"type": "boolean"} for n in range(4)}},
]  # fmt: skip
ENDLESS = 6


def test_answers_keep_their_schemas_among_free_ones(client: OpenAI) -> None:
    """With many schemas at once, at any temperature, an answer that ended is valid, and free answers are as usual."""
    question = "What is the capital of France?"
    free = chat(client, question).message.content

    def ask(number: int) -> tuple[int | None, Any]:
        if number % 3 == 0:
            return None, chat(client, question)
        schema = number % len(SCHEMAS)
        temperature = (number % 4) * 0.5
        response_format = form(SCHEMAS[schema])
        return schema, chat(
            client, question, response_format=response_format, temperature=temperature, seed=number, max_tokens=120
        )

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(48)))
    assert {free} == {choice.message.content for schema, choice in answers if schema is None}
    whole = [(schema, choice) for schema, choice in answers if schema is not None and choice.finish_reason == "stop"]
    for schema, choice in whole:
        Draft202012Validator(SCHEMAS[schema]).validate(json.loads(choice.message.content))
    # A small model may continue a list without end.
    assert {schema for schema, _ in whole} >= set(range(len(SCHEMAS))) - {ENDLESS}


class Person(BaseModel):
    """A person."""

    name: str
    age: int = Field(ge=0, le=120)
    mood: Literal["happy", "sad"]


def test_an_answer_that_is_cut_says_so(client: OpenAI) -> None:
    """With too few tokens the JSON is cut, as with OpenAI, and the finish reason is `length`."""
    choice = chat(client, "Describe a person.", response_format=form(Person.model_json_schema()), max_tokens=3)
    assert choice.finish_reason == "length"
    assert choice.message.content.startswith('{"name')


def test_pydantic_classes_come_back(house: House, client: OpenAI) -> None:
    """`parse` of the `openai` package and LangChain's `with_structured_output` return objects, our route JSON."""
    messages: Any = [{"role": "user", "content": "Describe a person."}]
    completion = client.chat.completions.parse(
        model="smollm2", messages=messages, response_format=Person, temperature=0
    )
    assert isinstance(completion.choices[0].message.parsed, Person)
    langchain = ChatOpenAI(base_url=house.url + "/v1", api_key=SecretStr("unused"), model="smollm2", temperature=0)
    assert isinstance(
        langchain.with_structured_output(Person, method="json_schema").invoke("Describe a person."), Person
    )
    body = {"model_id": "smollm2", "prompt": "Describe a person.", "response_format": form(Person.model_json_schema())}
    answer = house.post("/inference", {**body, "temperature": 0}).json()
    Person.model_validate_json(answer["text"])


def test_ollamas_format_is_kept(house: House) -> None:
    """Ollama's `format` is kept too: a JSON schema, or any object; also for raw prompts without a template."""
    schema = Person.model_json_schema()
    message = {"role": "user", "content": "Describe a person."}
    options = {"temperature": 0, "num_predict": 120}
    body = {"model": "smollm2", "stream": False, "options": options, "format": schema}
    answer = house.post("/api/chat", {**body, "messages": [message]}).json()
    Person.model_validate_json(answer["message"]["content"])
    raw = house.post("/api/generate", {**body, "prompt": "A person as JSON:", "raw": True}).json()
    Person.model_validate_json(raw["response"])
    anything = house.post("/api/chat", {**body, "messages": [message], "format": "json"}).json()
    assert anything["message"]["content"].startswith("{")


def test_refusals_do_not_disturb_other_answers(client: OpenAI) -> None:
    """A schema that cannot be kept, or a model without tools, is a 400 that names it; the next answer is as usual."""
    before = chat(client, "Hello!").message.content
    for fields, param in (
        ({"response_format": form({"type": "array", "uniqueItems": True})}, "response_format"),
        ({"response_format": form({"type": "strin"})}, "response_format"),
        ({"tools": [TOOL]}, "tools"),
    ):
        with pytest.raises(openai.BadRequestError, match=param) as failure:
            chat(client, "Hello!", **fields)
        assert failure.value.param == param
    assert chat(client, "Hello!").message.content == before


def test_the_grammars_of_many_requests_take_bounded_memory(house: House, client: OpenAI) -> None:
    """With more grammars than there is room for, the engine loads again; the answers do not change."""
    free = chat(client, "Hello!", max_tokens=20).message.content
    (container,) = house.containers("smollm2-135m")

    def ask(number: int) -> str:
        if number % 4 == 0:
            return str(chat(client, "Hello!", max_tokens=20).message.content)
        names = [f"property {number} {index}" for index in range(560)]
        schema = {"properties": {name: {"type": "boolean"} for name in names}, "required": names[:1]}
        return str(chat(client, "Hello!", response_format=form(schema), max_tokens=4).message.content)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, range(32)))
    assert {free} == set(answers[::4])
    assert all(answer.startswith("{") for number, answer in enumerate(answers) if number % 4)
    assert house.containers("smollm2-135m") == [container]
    assert "reloading the model" in docker("logs", container)


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}
OTHER = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_is_a_call(client: OpenAI, choice: Any) -> None:
    """Even a small model calls an existing tool with valid arguments, and accepts the result."""
    question = "What is the weather in Paris?"
    answer = chat(client, question, "tools", tools=[TOOL, OTHER], tool_choice=choice)
    (call,) = answer.message.tool_calls
    assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
    assert call.function.name in ("get_weather", "get_time")
    if choice != "required":
        assert call.function.name == "get_weather"
    parameters: Any = TOOL["function"] if call.function.name == "get_weather" else OTHER["function"]
    Draft202012Validator(parameters["parameters"]).validate(json.loads(call.function.arguments))
    messages: Any = [{"role": "user", "content": question}, answer.message]
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "Sunny."})
    after = client.chat.completions.create(model="tools", messages=messages, tools=[TOOL], max_tokens=8)  # type: ignore[list-item]
    assert after.usage is not None
    assert after.choices[0].finish_reason in ("stop", "length")


def test_a_forced_call_is_streamed(client: OpenAI) -> None:
    """The package assembles the same call from the deltas of a stream."""
    messages: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    tools: Any = [TOOL]
    with client.chat.completions.stream(
        model="tools", messages=messages, tools=tools, tool_choice="required", temperature=0
    ) as stream:
        for _ in stream:
            pass
        choice = stream.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls"
    assert set(json.loads(call.function.arguments)) == {"city", "unit"}


def test_langchain_forces_a_call(house: House) -> None:
    """`with_structured_output` with function calling always returns an object."""
    langchain = ChatOpenAI(base_url=house.url + "/v1", api_key=SecretStr("unused"), model="tools", temperature=0)
    assert isinstance(langchain.with_structured_output(Person, method="function_calling").invoke("Who?"), Person)
