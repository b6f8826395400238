"""Embeddings on torch and transformers: any architecture with token states, pooled as the model's own files say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from runner.engine import Capabilities, EngineError, Phase, PromptInvalid
from runner.engines.transformers.pretrained import bounded_context, load_pretrained
from runner.engines.transformers.sentence_recipe import Recipe, read_recipe
from runner.settings import RunnerSettings

# For models without a limit of their own.
FALLBACK_CONTEXT_LENGTH = 512


class TransformersEmbedder:
    """See `runner.engine.Embedder`. Computes one batch at a time, on all cores."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._recipe = Recipe()
        self._context_length = self._vocabulary = self._dimensions = 0
        # The tokenizer's Rust half fails if two threads use it at once.
        self._tokenizer_lock = threading.Lock()
        self._torch: Any = None
        self._tokenizer: Any = None
        self._model: Any = None
        self._pooling: Any = None

    def load(self, on_phase: Callable[[Phase], None]) -> None:
        folder = self._settings.model_path
        self._recipe = read_recipe(folder)
        config, self._tokenizer, self._model = load_pretrained("AutoModel", self._settings, on_phase)
        import torch

        from runner.engines.transformers.pooling import Pooling

        self._torch = torch
        self._context_length = self._bounded_context(config)
        # A cache would save work only for tokens that follow, and none do.
        self._model.config.use_cache = False
        self._pooling = Pooling(self._recipe, folder, self._model.device)
        self._vocabulary = self._model.get_input_embeddings().num_embeddings
        self._dimensions = len(self.embed([(0,)])[0])

    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="transformers",
            device=str(self._model.device),
            dtype=str(self._model.dtype).removeprefix("torch."),
            context_length=self._context_length,
            concurrency=1,
            dimensions=self._dimensions,
        )

    def failure(self) -> str | None:
        return None

    def close(self) -> None:
        self._model = self._tokenizer = self._pooling = None

    def tokenize(self, inputs: Sequence[str | tuple[int, ...]], *, truncate: bool) -> list[tuple[int, ...]]:
        texts = [self._prepare_text(text) for text in inputs if isinstance(text, str)]
        cut = {"truncation": True, "max_length": self._context_length} if truncate else {}
        with self._tokenizer_lock:
            tokens = iter(self._tokenizer(texts, **cut)["input_ids"] if texts else ())
        most = self._context_length if truncate else None
        return [tuple(next(tokens)) if isinstance(one, str) else self._check_tokens(one)[:most] for one in inputs]

    def embed(self, batch: Sequence[tuple[int, ...]]) -> list[list[float]]:
        torch = self._torch
        shape = len(batch), max(map(len, batch))
        tokens = torch.full(shape, self._tokenizer.pad_token_id or 0)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, one in enumerate(batch):
            tokens[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        tokens, mask = tokens.to(self._model.device), mask.to(self._model.device)
        with torch.inference_mode():
            states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            vectors = self._pooling(states, mask)
            if not bool(vectors.isfinite().all()):
                raise EngineError(f"numbers became too large for {self._model.dtype}; write `dtype: float32`")
            rows: list[list[float]] = vectors.tolist()
        return rows

    def _prepare_text(self, text: str) -> str:
        text = self._recipe.prompt + text
        return text.lower() if self._recipe.lower_case else text

    def _check_tokens(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if tokens and max(tokens) >= self._vocabulary:
            raise PromptInvalid(
                f"This model has no token {max(tokens)}, only {self._vocabulary} tokens from 0 on; send text, or this "
                "model's own tokens.",
                param="input",
            )
        return tokens

    def _bounded_context(self, config: Any) -> int:
        places = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
        # If a model sets no limit, the library reports an absurdly large number.
        limits = [limit for limit in (places, self._tokenizer.model_max_length) if 0 < limit < 1 << 24]
        own = min(limits, default=FALLBACK_CONTEXT_LENGTH)
        return bounded_context(self._settings, own, default=min(own, self._recipe.max_tokens or own))
