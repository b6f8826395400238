"""A generation in the format of the OpenAI API: whole, or as chunks that end with `[DONE]`."""

from __future__ import annotations

import time
import uuid
from typing import Any, ClassVar

from runner.api.bodies.openai import ChatBody, CompletionBody
from runner.api.event_stream import TextEvent, sse_event, usage
from runner.api.tool_calls import Call, ToolCallParser
from runner.engines.job import Job

DONE_EVENT = b"data: [DONE]\n\n"


class _OpenAIFormat:
    """What both routes share: one id and time for all chunks, and the model's name as the client wrote it."""

    id_prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, body: ChatBody | CompletionBody, model_id: str) -> None:
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created_s = int(time.time())
        self._model = body.model or model_id
        self._includes_usage = body.includes_usage

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created_s, "model": self._model}

    def _whole(self, job: Job, choice: dict[str, Any]) -> dict[str, Any]:
        choices = [_choice(choice, self._finish_reason(job))]
        return {**self._head(self.kind), "choices": choices, "usage": usage(job), "timings": _timings(job)}

    def _chunk(self, choice: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        # A client that asks for the usage finds the key in every chunk, as with OpenAI's API.
        no_usage = {"usage": None} if self._includes_usage else {}
        return {**self._head(self.chunk_kind), "choices": [_choice(choice, finish_reason)], **no_usage}

    def _end(self, job: Job, choice: dict[str, Any]) -> bytes:
        last = sse_event(self._chunk(choice, self._finish_reason(job)))
        if self._includes_usage:
            last += sse_event({**self._head(self.chunk_kind), "choices": [], "usage": usage(job)})
        return last + DONE_EVENT

    def _finish_reason(self, job: Job) -> str | None:
        return job.finish_reason


def _timings(job: Job) -> dict[str, float]:
    """Return the times to the first token and after it, under llama.cpp's names: OpenAI has no field for them."""
    total_s = job.elapsed_s()
    prompt_s = total_s if job.ttft_s is None else job.ttft_s
    return {"prompt_ms": round(1000 * prompt_s, 1), "predicted_ms": round(1000 * (total_s - prompt_s), 1)}


def _choice(choice: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, **choice, "logprobs": None, "finish_reason": finish_reason}


class ChatFormat(_OpenAIFormat):
    """The format of `POST /v1/chat/completions`. See `event_stream.Format`."""

    id_prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, body: ChatBody, model_id: str) -> None:
        super().__init__(body, model_id)
        self._has_role = False
        self._text = TextEvent(lambda text: self._chunk({"delta": {"content": text}}))
        names = [tool.name for tool in body.callable_tools]
        most = 1 if body.parallel_tool_calls is False else None
        self._parser = ToolCallParser(names, most) if names else None
        self._call_count = 0

    def whole(self, job: Job, text: str) -> dict[str, Any]:
        events = [text] if self._parser is None else [*self._parser.feed(text), *self._parser.flush()]
        calls = [self._call(event) for event in events if isinstance(event, Call)]
        content = "".join(event for event in events if isinstance(event, str))
        message = {"role": "assistant", "content": content if content or not calls else None, "refusal": None}
        return self._whole(job, {"message": {**message, "tool_calls": calls} if calls else message})

    def text(self, text: str) -> bytes:
        if self._parser is None:
            return self._role() + self._text.of(text)
        return self._deltas(self._parser.feed(text))

    def ending(self, job: Job) -> bytes:
        rest = b"" if self._parser is None else self._deltas(self._parser.flush())
        return rest + self._role() + self._end(job, {"delta": {}})

    def _deltas(self, events: list[str | Call]) -> bytes:
        chunks = b""
        for event in events:
            if isinstance(event, Call):
                call = {"index": self._call_count, **self._call(event)}
                chunks += self._role() + sse_event(self._chunk({"delta": {"tool_calls": [call]}}))
            else:
                chunks += self._role() + self._text.of(event)
        return chunks

    def _call(self, call: Call) -> dict[str, Any]:
        self._call_count += 1
        # Nine letters and digits: Mistral's templates accept no other id when it comes back.
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": uuid.uuid4().hex[:9], "type": "function", "function": function}

    def _finish_reason(self, job: Job) -> str | None:
        return "tool_calls" if self._call_count and job.finish_reason == "stop" else job.finish_reason

    def _role(self) -> bytes:
        # Only sent with the first text, so that the time to the first chunk measures the model.
        if self._has_role:
            return b""
        self._has_role = True
        return sse_event(self._chunk({"delta": {"role": "assistant", "content": ""}}))


class CompletionFormat(_OpenAIFormat):
    """The format of `POST /v1/completions`. See `event_stream.Format`."""

    id_prefix = "cmpl"
    kind = "text_completion"
    chunk_kind = "text_completion"

    def __init__(self, body: CompletionBody, model_id: str) -> None:
        super().__init__(body, model_id)
        self._text = TextEvent(lambda text: self._chunk({"text": text}))

    def whole(self, job: Job, text: str) -> dict[str, Any]:
        return self._whole(job, {"text": text})

    def text(self, text: str) -> bytes:
        return self._text.of(text)

    def ending(self, job: Job) -> bytes:
        return self._end(job, {"text": ""})
