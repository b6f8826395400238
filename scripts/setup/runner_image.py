"""The runner's images, one for each engine, and the wheels that go into them."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.base_image import find_image
from scripts.setup.failure import SetupError
from scripts.setup.inference_engines import built_engines, runner_engines
from scripts.setup.shell import shorten
from scripts.setup.stamps import read_stamp, text_hash, tree_hash, write_stamp
from scripts.setup.steps import Site
from scripts.setup.venv import PIP_ENVIRONMENT

CONTENT_LABEL = "orchestrar.content"
BASE_LABEL = "orchestrar.base"
UNUSED = "not needed, no model uses it"


def image_of(site: Site, engine: str) -> str:
    """Return the name of the engine's image, as its template says it."""
    return built_engines(site.layout.templates)[engine].image


def runner_content(site: Site) -> str:
    """Return a hash of what the image is built from, apart from the base."""
    return text_hash(site.layout.base_image, tree_hash(site.layout.runner, skip=("wheelhouse",)))


def engines_in_use(site: Site) -> frozenset[str]:
    """Return the engines that models.yaml asks for; all of them if that is unknown, as with an invalid file."""
    engines = frozenset(runner_engines(site.layout.templates))
    answer = site.shell.ask(str(site.layout.python), "-m", "controller.provision", "--engines")
    return engines.intersection(answer.out.split()) if answer.code == 0 else engines


def runners_are_current(site: Site) -> bool:
    """Tell whether no image has to be built."""
    return _needs_none_of(site, frozenset(runner_engines(site.layout.templates)))


def nothing_is_compiled(site: Site) -> bool:
    """Tell whether no image with our kernels has to be built."""
    engines = runner_engines(site.layout.templates)
    return _needs_none_of(site, frozenset(name for name, engine in engines.items() if engine.needs_compiler))


def _needs_none_of(site: Site, engines: frozenset[str]) -> bool:
    stale = {engine for engine in engines if not runner_is_current(site, engine)}
    # Asked only if it matters: the answer costs another Python process.
    return not stale or not stale & engines_in_use(site)


def runner_is_current(site: Site, engine: str) -> bool:
    """Tell whether the image was built from these very files and this base; a base that is gone does not matter."""
    image = find_image(site, image_of(site, engine))
    if image is None or image.labels.get(CONTENT_LABEL) != runner_content(site):
        return False
    base = find_image(site, site.layout.base_image)
    return base is None or base.id == image.labels.get(BASE_LABEL)


@dataclass(frozen=True)
class WheelsStep:
    """The runner's wheels, fetched on the host: pip's settings and certificates hold here and not in a build."""

    site: Site
    engine: str
    is_asked: bool = False
    """Whether it is wanted even if no model uses the engine."""

    @property
    def name(self) -> str:
        return f"{self.engine} wheels"

    @property
    def slug(self) -> str:
        return f"wheels-{self.engine}"

    def already_there(self) -> str | None:
        if runner_is_current(self.site, self.engine):
            return "not needed, the image is current"
        if not self.is_asked and self.engine not in engines_in_use(self.site):
            return UNUSED
        if self._wheels.is_dir() and read_stamp(self._stamp) == self._expected_stamp(self._image_python()):
            return f"{len(list(self._wheels.glob('*.whl')))} wheels"
        return None

    def do(self) -> None:
        site, version = self.site, self._image_python()
        part = site.layout.wheelhouse / f".{self.engine}.part"
        part.mkdir(parents=True, exist_ok=True)
        drop_broken_wheels(part)
        other = () if version == "{}.{}".format(*sys.version_info[:2]) else ("--python-version", version)
        site.say(f"downloading wheels for Python {version}")
        site.shell.run(
            str(site.layout.python), "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
            "--progress-bar", "off", *other, "--dest", str(part), "-r", str(self._requirements), env=PIP_ENVIRONMENT,
        )  # fmt: skip
        self._stamp.unlink(missing_ok=True)
        shutil.rmtree(self._wheels, ignore_errors=True)
        os.replace(part, self._wheels)
        write_stamp(self._stamp, self._expected_stamp(version))

    @property
    def _wheels(self) -> Path:
        return self.site.layout.wheelhouse / self.engine

    @property
    def _stamp(self) -> Path:
        return self.site.layout.wheelhouse / f"{self.engine}.stamp"

    @property
    def _requirements(self) -> Path:
        return self.site.layout.runner / f"requirements-{self.engine}.txt"

    def _expected_stamp(self, version: str) -> str:
        return text_hash(version, self._requirements.read_text(encoding="utf-8"))

    def _image_python(self) -> str:
        """Return the Python version inside the base image; it may differ from the host's."""
        ask = ("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        image = self.site.layout.base_image
        answer = self.site.shell.ask("docker", "run", "--rm", "--network=none", image, *ask, timeout_s=60)
        if answer.code:
            raise SetupError(f"the base image {image} cannot run python3: {answer.err.strip()}")
        return answer.out.strip()


def drop_broken_wheels(folder: Path) -> None:
    """Remove what a killed download cut short: pip would take it for whole."""
    for wheel in folder.glob("*.whl"):
        if not zipfile.is_zipfile(wheel):
            wheel.unlink()


@dataclass(frozen=True)
class RunnerImageStep:
    """Built from `runner/`, with labels that tell whether it is still current."""

    site: Site
    engine: str
    is_asked: bool = False
    """As of the wheels."""

    @property
    def name(self) -> str:
        return f"{self.engine} image"

    @property
    def slug(self) -> str:
        return f"image-{self.engine}"

    def already_there(self) -> str | None:
        if runner_is_current(self.site, self.engine):
            return image_of(self.site, self.engine)
        return None if self.is_asked or self.engine in engines_in_use(self.site) else UNUSED

    def do(self) -> None:
        site, layout = self.site, self.site.layout
        base = find_image(site, layout.base_image)
        if base is None:
            raise SetupError(f"the base image {layout.base_image} is gone; run this again")
        argv = (
            "docker", "build", "--force-rm", "--build-arg", f"BASE_IMAGE={layout.base_image}",
            "--build-arg", f"COMPILER_IMAGE={layout.compiler_image}", "--build-arg", f"ENGINE={self.engine}",
            "--target", self.engine,
            "--label", f"{CONTENT_LABEL}={runner_content(site)}", "--label", f"{BASE_LABEL}={base.id}",
            "--tag", image_of(site, self.engine), str(layout.runner),
        )  # fmt: skip
        site.say(f"{shorten(argv)} → {image_of(site, self.engine)}")
        site.shell.run(*argv, env=builder_environment(site))


def builder_environment(site: Site) -> dict[str, str]:
    """Return the variables of a `docker build`: without its plugin the new builder fails, instead of falling back."""
    return {} if site.shell.ask("docker", "buildx", "version").code == 0 else {"DOCKER_BUILDKIT": "0"}
