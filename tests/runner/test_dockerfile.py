"""What runner/Dockerfile copies into every engine's image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from controller.settings import ROOT

RUNNER = ROOT / "runner"
TARGET = "/opt/orchestrar/runner/"


def copied_files() -> Iterator[tuple[Path, str]]:
    """Each file that the stage `runner` copies from the folder, with its path below the package in the image."""
    stage = (RUNNER / "Dockerfile").read_text(encoding="utf-8").split(" AS runner\n")[1].split("\nFROM ")[0]
    for line in stage.splitlines():
        if not line.startswith("COPY "):
            continue
        *sources, target = line.split()[1:]
        assert target.startswith(TARGET), line
        for source in sources:
            paths = sorted(RUNNER.glob(source))
            assert paths, f"{line}: copies nothing"
            for path in paths:
                inside = target.removeprefix(TARGET)
                if path.is_dir():
                    yield from ((file, f"{inside}/{file.relative_to(path)}") for file in path.rglob("*.py"))
                else:
                    yield path, f"{inside}{path.name}"


def test_the_image_holds_all_of_the_runners_code() -> None:
    """Each Python file of the package is in the image, in its place: a new folder needs its COPY line."""
    expected = {file: str(file.relative_to(RUNNER)) for file in RUNNER.rglob("*.py") if "wheelhouse" not in file.parts}
    assert expected == dict(copied_files())
