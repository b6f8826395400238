"""A stranger can follow a request: it passes few files."""

from __future__ import annotations

from bench.files_on_the_way import files_passed

MOST_FILES = 18


def test_a_warm_request_passes_few_files() -> None:
    """One `POST /inference` for a ready model runs code of at most 18 files of the controller."""
    files = files_passed()
    assert {"controller/api/dispatch.py", "controller/proxy/forwarding.py"} < set(files)
    assert len(files) <= MOST_FILES
