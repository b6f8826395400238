"""Writes docs/models.md from the verdicts of a run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.families.serving import CLOSE, Verdict

SAFETENSORS, GGUF = "safetensors", "GGUF"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. A verdict of None: there is no such form, for the reason in `absent`."""

    family: str
    form: str
    quant: str
    verdict: Verdict | None
    absent: str = ""


def page(rows: Iterable[Row]) -> str:
    """Return the whole page."""
    rows = sorted(rows, key=lambda row: (row.family, row.form != SAFETENSORS))
    return f"""# Which models run

_Written by `make models`; a test compares parts of it. Do not edit it._

This page answers: which of my models run, on which engine, and are their answers exactly the model's own?

Each line is a small model of that family with random weights (a few layers, 4 experts, windows of 8 tokens), which
Orchestrar served with `engine: auto`: the engine in the table is the one that `auto` chose by itself. Three greedy
answers of each are compared with those that transformers computes in whole forwards without a cache; the prompts are
those of 64 random ones whose answers have the clearest choices. The family is the `model_type` in a model's
`config.json`. GGUF files are made by llama.cpp's own converter.

- **exact**: all answers are the reference's.
- **within**: an answer leaves the reference where its two likeliest tokens are closer than {CLOSE:.0%} of the logits'
  spread, which rounding decides.
- **WRONG**: an answer leaves it where the choice is clear.
- **refused**: no engine of `auto` serves it, with the sentence that a user gets.

{_totals(rows)}

| family | form | weights | engine | answers |
|---|---|---|---|---|
{_lines(row for row in rows if row.verdict is not None)}

A larger model of a family can have parts that these do not have, such as another kind of rope. What an engine does not
know is refused by name when the model is prepared ([engines.md](engines.md)).

llama.cpp's converter writes no attention window for `mistral` (version 0.1 of Mistral 7B has one of 4096 tokens),
`mixtral` and `starcoder2`, and its engine ignores that of `phi3`. Beyond the window, answers of such GGUF files are not
the model's; those of its safetensors are. The small models of these families have no window here.

A form of a family without a line here was not measured.

## Families without a GGUF form

llama.cpp's converter refused these small models, so there is nothing to serve:
{textwrap.fill(", ".join(f"`{row.family}`" for row in rows if row.verdict is None), 120)}.
"""


def read_verdicts(text: str) -> dict[tuple[str, str, str], str]:
    """Return the answers' column of a page, by family, form and weights."""
    cells = (line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `"))
    return {(row[0].strip(" `"), row[1], row[2]): row[4].strip() for row in cells}


def answers(verdict: Verdict) -> str:
    """Return the last cell of a row."""
    if verdict.kind == "refused":
        return f"refused: {_cell(verdict.detail)}"
    word = "WRONG" if verdict.kind == "wrong" else verdict.kind
    return f"{word}: differs from {verdict.detail}" if verdict.detail else word


def _totals(rows: Iterable[Row]) -> str:
    rows = [row for row in rows if row.verdict is not None]
    counts: Mapping[str, int]
    lines = ["| form | exact | within | refused | wrong |", "|---|---|---|---|---|"]
    for form in (SAFETENSORS, GGUF):
        kinds = [row.verdict.kind for row in rows if row.form == form and row.verdict is not None]
        counts = {kind: kinds.count(kind) for kind in ("exact", "within", "refused", "wrong")}
        lines.append(f"| {form} | " + " | ".join(str(count) for count in counts.values()) + " |")
    return "\n".join(lines)


def _lines(rows: Iterable[Row]) -> str:
    return "\n".join(
        f"| `{row.family}` | {row.form} | {row.quant} | "
        f"{'' if row.verdict.kind == 'refused' else row.verdict.engine} | {answers(row.verdict)} |"
        for row in rows
        if row.verdict is not None
    )


def _cell(sentence: str) -> str:
    """Return a sentence as a cell: in one line, without the times of a server's log and without paths."""
    plain = re.sub(r"\b\d+\.\d\d\.\d{3}\.\d{3} [EWI] ", "", " ".join(sentence.split()))
    return re.sub(r"(?<!\w)/(?:[\w.-]+/)+", "", plain).replace("|", "\\|")
