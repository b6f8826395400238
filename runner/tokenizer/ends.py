"""Which tokens end a turn: what a model's files name, and the names with which chat templates close turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# The names of tokens that end a generation in every model that has them (llama.cpp's list, version 11434).
CLOSING_NAMES = frozenset(
    {
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<turn|>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    }
)
# In these models `<|end|>` closes a part of a turn (a channel), not the turn.
_PARTS_END = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})


def turn_ends(control_tokens: Mapping[str, int], named_ids: Iterable[int | None]) -> frozenset[int]:
    """Return the ids that end a generation.

    `control_tokens` are the model's added and control tokens by name, `named_ids` those that its files call an end.
    """
    names = CLOSING_NAMES & control_tokens.keys()
    if any(marks <= names for marks in _PARTS_END):
        names -= {"<|end|>"}
    kept_ids = {number for number in named_ids if number is not None}
    return frozenset(kept_ids | {control_tokens[name] for name in names})
