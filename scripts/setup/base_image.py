"""The images that the runner's images are built from: Debian with Python, and the same with a compiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from scripts.setup.failure import SetupError
from scripts.setup.layout import LOCAL_BASE, LOCAL_COMPILER, PULLED_BASE, PULLED_COMPILER, Layout
from scripts.setup.packages import install_packages
from scripts.setup.shell import RunOptions
from scripts.setup.steps import Site

SUITE = "bookworm"


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """An image to build on: its name here, the name to pull it by, and the packages to make it of otherwise."""

    name: str
    local: str
    remote: str
    packages: str
    variable: str

    def named_by_user(self, layout: Layout) -> str | None:
        return {BASE.variable: layout.base_override, COMPILER.variable: layout.compiler_override}[self.variable]

    def by_hand(self) -> str:
        """Return what a user without root can ask an administrator to run."""
        return (
            f"ask an administrator to make it once, as root: mmdebstrap --variant=minbase --include={self.packages} "
            f"{SUITE} - | docker import - {self.local}; or load another and name it: {self.variable}=name make up"
        )


BASE = BaseImage(
    name="base image",
    local=LOCAL_BASE,
    remote=PULLED_BASE,
    packages="python3,python3-venv,python3-pip,libstdc++6,libgomp1,ca-certificates",
    variable="BASE_IMAGE",
)
COMPILER = BaseImage(
    name="compiler image",
    local=LOCAL_COMPILER,
    remote=PULLED_COMPILER,
    packages="g++",
    variable="COMPILER_IMAGE",
)


@dataclass(frozen=True)
class Image:
    """A local image: its id, and the labels that record what it was built from."""

    id: str
    labels: dict[str, str]


def find_image(site: Site, name: str) -> Image | None:
    """Return the local image of that name, if there is one; ask no registry."""
    answer = site.shell.ask("docker", "image", "inspect", "--format", "{{json .}}", name)
    if answer.code:
        return None
    document = json.loads(answer.out)
    return Image(document["Id"], (document.get("Config") or {}).get("Labels") or {})


@dataclass(frozen=True)
class BaseImageStep:
    """Find the image, pull it, or build it from Debian packages; not needed if no image built on it is stale."""

    site: Site
    base: BaseImage
    spare: Callable[[Site], bool]

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def slug(self) -> str:
        return self.base.name.replace(" ", "-")

    def already_there(self) -> str | None:
        image = self.base.named_by_user(self.site.layout) or self.base.local
        if find_image(self.site, image):
            return image
        return "not needed, the runner images are current" if self.spare(self.site) else None

    def do(self) -> None:
        own = self.base.named_by_user(self.site.layout)
        if own:
            if not self._pull(own):
                raise SetupError(
                    f"the {self.name} {own} (from {self.base.variable}) is not here and cannot be pulled; "
                    f"load it (docker load), or unset {self.base.variable}, and run this again"
                )
        elif self._pull(self.base.remote):
            self.site.shell.run("docker", "tag", self.base.remote, self.base.local)
        else:
            self._build()

    def _pull(self, image: str) -> bool:
        self.site.say(f"pulling {image}")
        try:
            # Without a terminal docker reports a layer only when it begins and ends, so the second limit is longer.
            self.site.shell.run("docker", "pull", image, options=RunOptions(first_output_s=60, quiet_s=600))
        except SetupError as error:
            self.site.say(f"the pull failed: {error.message}")
            return False
        return True

    def _build(self) -> None:
        site = self.site
        if site.shell.which("mmdebstrap") is None:
            if not site.host.installs_packages:
                raise SetupError(
                    f"no registry answered for {self.base.remote}, and a {self.name} cannot be built here; "
                    f"{self.base.by_hand()}"
                )
            site.say(f"installing mmdebstrap: the {self.name} is built from Debian packages instead, and you are root")
            install_packages(site, "mmdebstrap", "debian-archive-keyring")
        # Through a file: a pipe that breaks half-way could import half a system as if it were whole.
        archive = site.layout.scratch / f"{self.slug}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)
        site.say(f"building {self.base.local} from Debian packages")
        try:
            site.shell.run("mmdebstrap", "--variant=minbase", f"--include={self.base.packages}", SUITE, str(archive))
        except SetupError as error:
            if site.host.is_root:
                raise
            raise SetupError(
                f"{error.message}, and no registry answered for {self.base.remote}; {self.base.by_hand()}"
            ) from error
        site.shell.run("docker", "import", str(archive), self.base.local)
        archive.unlink()
