"""The image of a server that is not ours, compiled from its pinned source in `servers/NAME/`."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts.setup.base_image import find_image
from scripts.setup.failure import SetupError
from scripts.setup.inference_engines import built_engines
from scripts.setup.runner_image import BASE_LABEL, CONTENT_LABEL, builder_environment, drop_broken_wheels
from scripts.setup.shell import RunOptions, shorten
from scripts.setup.stamps import read_stamp, text_hash, tree_hash, write_stamp
from scripts.setup.steps import Site
from scripts.setup.venv import PIP_ENVIRONMENT

SOURCES = "sources"
# One file of the server's takes minutes to compile on a slow machine, and writes nothing meanwhile.
COMPILER_QUIET_S = 3600.0
_COMPILER_ERROR = re.compile(r"\b(?:fatal )?error: .+|No space left on device.*")


def image_of(site: Site, engine: str) -> str:
    """Return the name of the server's image, as its template says it."""
    return built_engines(site.layout.templates)[engine].image


def server_content(site: Site, engine: str) -> str:
    """Return a hash of what the image is built from, apart from the base; the sources are pinned by their names."""
    return text_hash(site.layout.base_image, tree_hash(site.layout.servers / engine, skip=(SOURCES,)))


def server_is_current(site: Site, engine: str) -> bool:
    """Tell whether the image was built from these very files and this base; a base that is gone does not matter."""
    image = find_image(site, image_of(site, engine))
    if image is None or image.labels.get(CONTENT_LABEL) != server_content(site, engine):
        return False
    base = find_image(site, site.layout.base_image)
    return base is None or base.id == image.labels.get(BASE_LABEL)


@dataclass(frozen=True)
class ServerSourcesStep:
    """The server's source and the tools that compile it, fetched on the host: a build has no network."""

    site: Site
    engine: str

    @property
    def name(self) -> str:
        return f"{self.engine} sources"

    @property
    def slug(self) -> str:
        return f"sources-{self.engine}"

    def already_there(self) -> str | None:
        if server_is_current(self.site, self.engine):
            return "not needed, the image is current"
        if self._sources.is_dir() and read_stamp(self._stamp) == self._expected_stamp():
            return f"{len([path for path in self._sources.iterdir() if path != self._stamp])} files"
        return None

    def do(self) -> None:
        site = self.site
        part = self._folder / f".{SOURCES}.part"
        part.mkdir(parents=True, exist_ok=True)
        drop_broken_wheels(part)
        site.say("downloading the sources and the tools that compile them")
        try:
            site.shell.run(
                str(site.layout.python), "-m", "pip", "download", "--only-binary=:all:", "--progress-bar", "off",
                "--dest", str(part), "-r", str(self._requirements), env=PIP_ENVIRONMENT,
            )  # fmt: skip
        except SetupError as error:
            raise SetupError(f"the sources of {self.engine} could not be downloaded; {self._by_hand()}") from error
        shutil.rmtree(self._sources, ignore_errors=True)
        os.replace(part, self._sources)
        write_stamp(self._stamp, self._expected_stamp())

    def _by_hand(self) -> str:
        """Return what helps on a machine without internet."""
        image, folder = image_of(self.site, self.engine), self._sources.relative_to(self.site.layout.root)
        return (
            f"without internet, bring the image from a machine that has it: `docker save {image} -o FILE` there, "
            f"`docker load -i FILE` here; or copy that machine's folder {folder}"
        )

    @property
    def _folder(self) -> Path:
        return self.site.layout.servers / self.engine

    @property
    def _sources(self) -> Path:
        return self._folder / SOURCES

    @property
    def _stamp(self) -> Path:
        """Inside the folder, so that a copy of the folder counts on another machine."""
        return self._sources / "complete.stamp"

    @property
    def _requirements(self) -> Path:
        return self._folder / "requirements.txt"

    def _expected_stamp(self) -> str:
        return text_hash(self._requirements.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ServerImageStep:
    """Built from `servers/NAME/`, with labels that tell whether it is still current."""

    site: Site
    engine: str

    @property
    def name(self) -> str:
        return f"{self.engine} image"

    @property
    def slug(self) -> str:
        return f"image-{self.engine}"

    def already_there(self) -> str | None:
        return image_of(self.site, self.engine) if server_is_current(self.site, self.engine) else None

    def do(self) -> None:
        site, layout = self.site, self.site.layout
        base, image = find_image(site, layout.base_image), image_of(site, self.engine)
        if base is None:
            raise SetupError(f"the base image {layout.base_image} is gone; run this again")
        argv = (
            "docker", "build", "--force-rm", "--build-arg", f"BASE_IMAGE={layout.base_image}",
            "--build-arg", f"COMPILER_IMAGE={layout.compiler_image}",
            "--label", f"{CONTENT_LABEL}={server_content(site, self.engine)}", "--label", f"{BASE_LABEL}={base.id}",
            "--tag", image, str(layout.servers / self.engine),
        )  # fmt: skip
        site.say(f"{shorten(argv)} → {image}; this compiles for minutes, once")
        try:
            site.shell.run(*argv, env=builder_environment(site), options=RunOptions(quiet_s=COMPILER_QUIET_S))
        except SetupError as error:
            raise SetupError(self._reason(error), exit_code=error.exit_code) from error

    def _reason(self, error: SetupError) -> str:
        """Return a sentence with the compiler's last error."""
        log = self.site.shell.log
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        complaints = _COMPILER_ERROR.findall(text)
        what = (
            f"the image of {self.engine} could not be built: {complaints[-1].strip() if complaints else error.message}"
        )
        if complaints and "Killed" in complaints[-1]:
            return f"{what}; the compiler had too little memory: stop models, or close programs, and try again"
        if complaints and "No space left" in complaints[-1]:
            return f"{what}; it takes 1 GB of Docker's disk: free some (`docker builder prune`) and try again"
        return f"{what}; the next try continues with the step that failed; the whole log: {log}"
