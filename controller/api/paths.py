"""The paths by which models are asked, here and at their servers alike."""

from __future__ import annotations

INFERENCE = "/inference"
CHAT_COMPLETIONS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
