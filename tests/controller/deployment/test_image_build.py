"""An image that is built by the set-up: its progress, its failure and its end, with a set-up that only pretends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller.deployment.image_build import PHASE, ImageBuild
from controller.errors import Cancelled, PreparationFailed
from controller.supervisor.backend import PreparationProgress
from tests.fakes import HANG_S


def checkout(folder: Path, code: str) -> ImageBuild:
    """Return the build of a checkout whose set-up runs this code, with the words of its command line in `words`."""
    package = folder / "scripts" / "setup"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"import sys, time\nwords = sys.argv[1:]\n{code}\n")
    return ImageBuild(folder)


def run(build: ImageBuild) -> list[PreparationProgress]:
    reports: list[PreparationProgress] = []
    build.run("llama", on_progress=reports.append, cancelled=lambda: False)
    return reports


def test_the_compilers_lines_are_the_progress(tmp_path: Path) -> None:
    """The commands of earlier steps count; lines without numbers change nothing."""
    lines = ("==> llama image", "    … 10 s: [0+3/40] Building a.o", "#9 [30+10/40] Linking", "done")
    reports = run(checkout(tmp_path, f"assert words == ['engine-image', 'llama']\nfor line in {lines}: print(line)"))
    assert {PHASE} == {report.phase for report in reports}
    assert [None, 3 / 40, 1.0] == [report.fraction for report in reports]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "print('error: the image of llama could not be built: a.cpp:1: error: no such thing; do this')\n"
            "print('    error: of the log')\nsys.exit(1)",
            "the image of llama could not be built: a.cpp:1: error: no such thing; do this",
        ),
        ("print('error: Docker is off')\nsys.exit(1)", "the image of llama could not be built: Docker is off"),
        ("sys.exit(7)", "exit code 7"),
    ],
)
def test_a_failure_has_the_set_ups_reason(tmp_path: Path, code: str, expected: str) -> None:
    """The sentence that the set-up ends with, never a line of its log or of its progress."""
    with pytest.raises(PreparationFailed) as failure:
        run(checkout(tmp_path, code))
    assert expected in failure.value.message
    assert 1 == failure.value.message.count("could not be built")


def test_a_build_is_ended_when_it_is_cancelled(tmp_path: Path) -> None:
    """Although it writes nothing for minutes."""
    build = checkout(tmp_path, "print('[1+1/40]', flush=True)\ntime.sleep(600)")
    is_running, is_wanted = threading.Event(), threading.Event()
    is_wanted.set()

    def note(report: PreparationProgress) -> None:
        if report.fraction:
            is_running.set()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(build.run, "llama", on_progress=note, cancelled=lambda: not is_wanted.is_set())
        assert is_running.wait(HANG_S)
        is_wanted.clear()
        with pytest.raises(Cancelled):
            result.result(HANG_S)
