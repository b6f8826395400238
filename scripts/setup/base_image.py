"""The images that the runner's images are built from: Debian with Python, and the same with a compiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from scripts.setup.failure import SetupError
from scripts.setup.layout import LOCAL_BASE, LOCAL_COMPILER, PULLED_BASE, PULLED_COMPILER, Layout
from scripts.setup.packages import install_packages
from scripts.setup.steps import Site

SUITE = "bookworm"


@dataclass(frozen=True, kw_only=True)
class Basis:
    """An image to build on: what it is called here, what it is pulled as, and else the packages it is made of."""

    name: str
    local: str
    pulled: str
    packages: str
    variable: str

    def named_by_user(self, layout: Layout) -> str | None:
        return {BASE.variable: layout.base_override, COMPILER.variable: layout.compiler_override}[self.variable]

    def by_hand(self) -> str:
        """What a user without root can ask an administrator to run."""
        return (
            f"ask for it to be made once, as root: mmdebstrap --variant=minbase --include={self.packages} {SUITE} - "
            f"| docker import - {self.local}; or load another and name it: {self.variable}=name make up"
        )


BASE = Basis(
    name="base image",
    local=LOCAL_BASE,
    pulled=PULLED_BASE,
    packages="python3,python3-venv,python3-pip,libstdc++6,libgomp1,ca-certificates",
    variable="BASE_IMAGE",
)
COMPILER = Basis(
    name="compiler image",
    local=LOCAL_COMPILER,
    pulled=PULLED_COMPILER,
    packages="g++",
    variable="COMPILER_IMAGE",
)


@dataclass(frozen=True)
class Image:
    """A local image: its id, and the labels that tell what it was built from."""

    id: str
    labels: dict[str, str]


def find_image(site: Site, name: str) -> Image | None:
    """The local image of that name; no registry is asked."""
    answer = site.shell.ask("docker", "image", "inspect", "--format", "{{json .}}", name)
    if answer.code:
        return None
    document = json.loads(answer.out)
    return Image(document["Id"], (document.get("Config") or {}).get("Labels") or {})


@dataclass(frozen=True)
class BaseImageStep:
    """Present, or pulled, or built from Debian packages; not needed when none of the images built on it is stale."""

    site: Site
    basis: Basis
    spare: Callable[[Site], bool]

    @property
    def name(self) -> str:
        return self.basis.name

    @property
    def slug(self) -> str:
        return self.basis.name.replace(" ", "-")

    def done(self) -> str | None:
        image = self.basis.named_by_user(self.site.layout) or self.basis.local
        if find_image(self.site, image):
            return image
        return "not needed, the runner images are current" if self.spare(self.site) else None

    def do(self) -> None:
        own = self.basis.named_by_user(self.site.layout)
        if own:
            if not self._pull(own):
                raise SetupError(
                    f"the {self.name} {own} (from {self.basis.variable}) is not here and cannot be pulled; "
                    f"load it (docker load), or unset {self.basis.variable}, and run this again"
                )
        elif self._pull(self.basis.pulled):
            self.site.shell.run("docker", "tag", self.basis.pulled, self.basis.local)
        else:
            self._build()

    def _pull(self, image: str) -> bool:
        self.site.say(f"pulling {image}")
        try:
            # Without a terminal docker names each layer only when it begins and ends: hence the second, longer limit.
            self.site.shell.run("docker", "pull", image, first_output_s=60, quiet_s=600)
        except SetupError as error:
            self.site.say(f"it cannot be pulled: {error.message}")
            return False
        return True

    def _build(self) -> None:
        site = self.site
        if site.shell.which("mmdebstrap") is None:
            if not site.host.installs_packages:
                raise SetupError(
                    f"no registry answered for {self.basis.pulled}, and a {self.name} cannot be built here; "
                    f"{self.basis.by_hand()}"
                )
            site.say(f"installing mmdebstrap: the {self.name} is built from Debian packages instead, and you are root")
            install_packages(site, "mmdebstrap", "debian-archive-keyring")
        # By way of a file: a pipe that breaks in the middle could import half a system as if it were whole.
        archive = site.layout.scratch / f"{self.slug}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)
        site.say(f"building {self.basis.local} from Debian packages")
        try:
            site.shell.run("mmdebstrap", "--variant=minbase", f"--include={self.basis.packages}", SUITE, str(archive))
        except SetupError as error:
            if site.host.is_root:
                raise
            raise SetupError(
                f"{error.message}, and no registry answered for {self.basis.pulled}; {self.basis.by_hand()}"
            ) from error
        site.shell.run("docker", "import", str(archive), self.basis.local)
        archive.unlink()
