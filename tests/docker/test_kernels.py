"""Our matrix products in the serving image, in each of their forms that this processor can run."""

from __future__ import annotations

from typing import Any

import pytest

from bench.quality.measuring import OPENVINO_IMAGE
from tests.docker.inside import TESTS, run_in_image

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=["", "avx2", "plain"], ids=["widest", "avx2", "plain"])
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what `kernel_cases` measures in the image."""
    options = ["--user=0", TESTS, f"--env=ORCHESTRAR_KERNELS={request.param}"]
    document: dict[str, Any] = run_in_image(
        OPENVINO_IMAGE, "python", "-m", "tests.docker.kernel_cases", options=options, deadline_s=240
    )
    return document


def test_products_are_those_of_float_arithmetic(figures: dict[str, Any]) -> None:
    """For any number of tokens, rows and groups, and with everything around a product, only the rounding to 16 bits
    differs."""
    assert len(figures["products"]) == 432
    assert max(figures["products"].values()) < 2e-4


def test_rows_are_read_exactly(figures: dict[str, Any]) -> None:
    """An embedding's row equals its codes x scale + offset."""
    assert max(figures["rows"]) < 1e-6


def test_heads_are_rotated_by_their_positions(figures: dict[str, Any]) -> None:
    """Queries and keys are rotated, with and without a norm of their heads, and values stay."""
    assert len(figures["rotations"]) == 6
    assert max(figures["rotations"]) < 1e-5


def test_what_does_not_fit_is_refused(figures: dict[str, Any]) -> None:
    """Too few bytes for the shape, and a row beyond the matrix, are errors and are not read."""
    too_few, no_row = figures["refusals"]
    assert "do not have" in too_few
    assert "there is no row 32 of 32" in no_row
