"""Ollama's API, translated to the OpenAI API that every engine speaks."""

from controller.api.ollama.views import blueprint

__all__ = ["blueprint"]
