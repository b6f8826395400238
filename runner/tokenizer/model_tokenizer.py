"""The model's own tokenizer, the same for all engines: prompts to tokens, tokens to text, ends of a turn."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from runner.engine import GenerationRequest, ToolSyntax
from runner.tokenizer.chat_messages import uses_template
from runner.tokenizer.chat_template import ChatTemplate
from runner.tokenizer.detokenizer import ByteDetokenizer, Detokenizer
from runner.tokenizer.token_table import byte_table


class ModelTokenizer:
    """Thread-safe. `ends` are the tokens that end a generation."""

    def __init__(self, library: Tokenizer, *, template: ChatTemplate | None, ends: frozenset[int]) -> None:
        # It would cut prompts or fill them up, in silence.
        library.no_truncation()
        library.no_padding()
        self.ends = ends
        self._library = library
        self._template = template
        self._table = byte_table(library.to_str())

    @property
    def tool_syntax(self) -> ToolSyntax | None:
        """How the model writes tool calls; None if its chat template supports none."""
        return None if self._template is None else self._template.tool_syntax

    def encode(self, request: GenerationRequest) -> tuple[int, ...]:
        """Return the prompt's tokens. Raises PromptInvalid if the chat template refuses the messages."""
        if not uses_template(request, has_template=self._template is not None):
            return self.encode_text(request.prompt or "", add_special_tokens=True)
        assert self._template is not None
        # A template writes the special tokens itself.
        return self.encode_text(self._template.render(request), add_special_tokens=False)

    def encode_text(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Return the text's tokens, with BOS and EOS where the model wants them if `add_special_tokens`."""
        return tuple(self._library.encode(text, add_special_tokens=add_special_tokens).ids)

    def detokenizer(self) -> Detokenizer | ByteDetokenizer:
        """Return a new detokenizer, for one generation."""
        return Detokenizer(self._decode) if self._table is None else ByteDetokenizer(self._table)

    def token_bytes(self) -> Sequence[bytes] | None:
        """Return each token's bytes (empty for special ones); None if a token's text depends on its neighbours."""
        return self._table

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._library.decode(tokens, skip_special_tokens=True)
        return text
