"""Rewrite the table of docs/reliability.md: `python -m tests.promises.page [FIGURES.json]`.

Figures of promises that the file of `make faults` does not hold, or does not find kept, stay as they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.promises.table import PAGE, figures_in, rewritten


def main(*paths: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    figures = figures_in(page)
    for path in paths:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        figures |= {promise: row["told"] for promise, row in found.items() if row["verdict"] == "holds"}
    PAGE.write_text(rewritten(page, figures), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
