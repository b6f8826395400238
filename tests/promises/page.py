"""Rewrite the table of docs/reliability.md: `python -m tests.promises.page [FIGURES.json]`.

Figures of promises that are missing from the file of `make faults` stay as they are. Nothing is written if a promise
did not hold.
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
        outcomes = json.loads(Path(path).read_text(encoding="utf-8"))
        if failed := [promise for promise, row in outcomes.items() if row["verdict"] in ("BROKEN", "ERROR")]:
            sys.exit(f"{path}: {', '.join(failed)} did not hold in that run: fix that, and run it again")
        figures |= {promise: row["figures_text"] for promise, row in outcomes.items() if row["verdict"] == "holds"}
    PAGE.write_text(rewritten(page, figures), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
