"""Run `python -m tests.families` to write docs/models.md."""

from __future__ import annotations

import tempfile
from pathlib import Path

from controller.settings import ROOT
from tests.families.page import page
from tests.families.run import rows_of
from tests.families.table import FAMILIES


def main() -> None:
    """Serve every family and write the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (ROOT / "docs" / "models.md").write_text(page(rows_of(folder, list(FAMILIES))), encoding="utf-8")


if __name__ == "__main__":
    main()
