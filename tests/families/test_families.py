"""Popular families in both forms, served by `engine: auto` as docs/models.md says."""

from __future__ import annotations

import pytest

from controller.settings import ROOT
from tests.families.page import Row, answers, read_verdicts
from tests.families.run import rows_of

pytestmark = [pytest.mark.docker, pytest.mark.real_model, pytest.mark.timeout(900)]

POPULAR = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "granite", "olmo2", "gpt2")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Return the verdicts on the popular families."""
    folder = tmp_path_factory.mktemp("families")
    folder.chmod(0o755)
    return rows_of(folder, POPULAR)


def test_the_page_says_what_becomes_of_popular_models(rows: list[Row]) -> None:
    """Each is served, or refused, as the page's line says, and none is wrong in silence."""
    said = read_verdicts((ROOT / "docs" / "models.md").read_text(encoding="utf-8"))
    assert 2 * len(POPULAR) == len(rows)
    for row in rows:
        assert row.verdict is not None, (row.family, row.absent)
        assert row.verdict.kind != "wrong", (row.family, row.form, row.verdict)
        assert answers(row.verdict) == said[row.family, row.form, row.quant], (row.family, row.form, row.verdict)
