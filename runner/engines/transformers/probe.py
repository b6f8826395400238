"""Tests whether a model's requests can share a pass, so that any architecture gives correct answers."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from runner.engine import EngineError
from runner.engines.memory import memory_limit_bytes
from runner.engines.transformers.forward import PART_TOKENS, Past, RowForward, SingleForward
from runner.engines.transformers.kv_memory import OVERHEAD_BYTES, Room, fixed_room, shared_room
from runner.engines.transformers.row_batch import Forward
from runner.engines.transformers.rows import LayerShape

log = logging.getLogger("runner")

KINDS_OF_LAYERS = frozenset({"full_attention", "sliding_attention"})
# Two texts in tokens; the batch gets the beginning of each as a prompt, then a token for each, then the rest of one.
PROBE = ((911, 1657, 353, 29, 607, 2203), (1361, 503, 2797, 41, 1801, 733))
PROBE_LENGTHS = (3, 2)
# Where both texts, as one, are cut to test a model alone: before the last token, and into parts of a prompt, one of
# them shorter than the usual convolution before a state (4 tokens).
SINGLE_TOKEN = (11,)
SEVERAL_PARTS = (4, 6)
KINDS_OF_PAST: tuple[Past, ...] = ("cache", "own", "none")
# What a model's code raises for a cache or a mask that it does not know.
ERRORS_OF_MODELS = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
# How much of the logits' spread rounding may change; a mix-up of requests changes several times as much.
TOLERANCES = {torch.float32: 0.001, torch.bfloat16: 0.1, torch.float16: 0.02}


class Unbatchable(Exception):
    """The model's requests cannot share a pass; the text says why."""


def make_forward(model: Any, *, rows: int, length: int) -> tuple[Forward, Room]:
    """Return passes for up to `rows` requests of up to `length` tokens each, as far as memory allows."""
    try:
        return _batched(model, rows, length)
    except Unbatchable as reason:
        log.warning("requests to %s run one at a time: %s", model.config.model_type, reason)
    return _one_at_a_time(model, length)


def _one_at_a_time(model: Any, length: int) -> tuple[Forward, Room]:
    forward = single_forward(model)
    sizes = []
    for start, token in enumerate(_probe(model)[0][:2]):
        forward.extend(0, [[token]], start)
        sizes.append(forward.past_bytes())
    forward.release(0)
    if (token_bytes := sizes[1] - sizes[0]) == 0:
        # What it keeps does not grow with the tokens.
        return forward, Room(rows=1, context_length=length, tokens=length)
    return forward, shared_room(free_bytes(model), token_bytes, rows=1, context_length=length)


def single_forward(model: Any) -> SingleForward:
    """Return passes for one request at a time that give the logits of its whole text. Raises EngineError."""
    kind = next((kind for kind in KINDS_OF_PAST if _continues(SingleForward(model, kind), SINGLE_TOKEN)), None)
    name = model.config.model_type
    if kind is None:
        raise EngineError(f"{name} cannot continue a text token by token in transformers; choose another model")
    if kind == "none":
        log.warning("each token of %s computes the whole text again: the model keeps nothing that can be used", name)
    # Some models with a state begin with an empty one in every part of several tokens.
    has_parts = kind != "none" and _continues(SingleForward(model, kind), SEVERAL_PARTS)
    return SingleForward(model, kind, part_tokens=PART_TOKENS if has_parts else sys.maxsize)


def _continues(forward: SingleForward, cuts: Sequence[int]) -> bool:
    """Tell whether a text that comes in parts, cut at these places, gets the logits of the whole text."""
    text = [token for row in _probe(forward.model) for token in row]
    try:
        whole = forward.extend(0, [text], 0)[0]
        forward.release(0)
        for start, end in itertools.pairwise((0, *cuts, len(text))):
            logits = forward.extend(0, [text[start:end]], start)[0]
    except ERRORS_OF_MODELS as error:
        log.info("%s: %s", type(error).__name__, error)
        return False
    finally:
        forward.release(0)
    return _difference(logits, whole) <= TOLERANCES[whole.dtype]


def _batched(model: Any, rows: int, length: int) -> tuple[Forward, Room]:
    shapes, expected = probe_layers(model)
    token_bytes = bytes_per_token(shapes, model.dtype)
    if model.device.type == "cpu":
        room = shared_room(free_bytes(model), token_bytes, rows=rows, context_length=length)
    else:
        room = fixed_room(free_bytes(model), token_bytes, rows=rows, context_length=length)
    forward = RowForward(model, shapes, rows=room.rows, length=room.context_length)
    check_batch(model, forward, expected)
    return forward, room


def free_bytes(model: Any) -> int:
    """Return the memory for what is kept of all requests' tokens; on a CPU, what the container's limit leaves."""
    if model.device.type == "cpu":
        return int(memory_limit_bytes() - model.get_memory_footprint() - OVERHEAD_BYTES)
    # The rest is for work buffers.
    return int(0.8 * torch.cuda.mem_get_info(model.device)[0])


def probe_layers(model: Any) -> tuple[list[LayerShape], Any]:
    """Return what the layers keep of each token, and the logits of the probe when the model computes alone.

    Raises Unbatchable.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := sorted(kinds - KINDS_OF_LAYERS):
        raise Unbatchable(f"it has layers of an unknown kind: {', '.join(unknown)}")
    if not model._supports_attention_backend or getattr(config, "attention_chunk_size", None):
        # Only the other models take whole masks from the caller, so that it knows what each of their tokens sees.
        raise Unbatchable("it has its own kind of attention")
    cache = DynamicCache(config=model.config)
    with _unbatchable_errors(), torch.inference_mode():
        tokens = torch.tensor(_probe(model), device=model.device)
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits
    if {type(layer) for layer in cache.layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        raise Unbatchable("it keeps more of earlier tokens than the keys and values of each")
    return [LayerShape(_shape(layer.keys), _shape(layer.values)) for layer in cache.layers], logits


def check_batch(model: Any, forward: RowForward, expected: Any) -> None:
    """Raise Unbatchable if requests of different lengths in one batch get other logits than `probe_layers` found."""
    texts = _probe(model)[: forward.rows]
    with _unbatchable_errors():
        first = forward.extend(0, [text[:length] for text, length in zip(texts, PROBE_LENGTHS, strict=False)], 0)
        tokens = [text[length] for text, length in zip(texts, PROBE_LENGTHS, strict=False)]
        second = forward.append(tokens, PROBE_LENGTHS[: forward.rows])
        done = PROBE_LENGTHS[0] + 1
        rest = forward.extend(0, [texts[0][done:]], done)
    for row, length in enumerate(PROBE_LENGTHS[: forward.rows]):
        forward.release(row)
        for logits, reference in ((first, expected[row, length - 1]), (second, expected[row, length])):
            if _difference(logits[row], reference) > TOLERANCES[reference.dtype]:
                raise Unbatchable("its answers change when requests share a pass")
    if _difference(rest[0], expected[0, -1]) > TOLERANCES[rest.dtype]:
        raise Unbatchable("its answers change when a prompt comes in parts")


@contextmanager
def _unbatchable_errors() -> Iterator[None]:
    """Turn what a model's code raises for an unknown cache or mask into Unbatchable."""
    try:
        yield
    except ERRORS_OF_MODELS as error:
        raise Unbatchable(f"it fails with our cache: {type(error).__name__}: {error}") from error


def _probe(model: Any) -> list[list[int]]:
    size = model.config.get_text_config().vocab_size
    return [[token % size for token in text] for text in PROBE]


def _shape(tensor: Any) -> tuple[int, int]:
    return tensor.shape[1], tensor.shape[3]


def _difference(logits: Any, reference: Any) -> float:
    reference = reference.float()
    return float((logits.float() - reference).norm() / (reference - reference.mean()).norm())


def bytes_per_token(shapes: Sequence[LayerShape], dtype: Any) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    return sum(heads * size for shape in shapes for heads, size in (shape.keys, shape.values)) * int(dtype.itemsize)
