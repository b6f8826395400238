"""The image that the runner's image is built from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from scripts.setup.failure import SetupError
from scripts.setup.layout import LOCAL_BASE, PULLED_BASE
from scripts.setup.packages import install_packages
from scripts.setup.steps import Site

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,python3-pip,libstdc++6,libgomp1,ca-certificates"


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
    """Present, or pulled, or built from Debian packages; not needed when `spare` says so."""

    site: Site
    spare: Callable[[Site], bool]
    name: str = "base image"
    slug: str = "base-image"

    def done(self) -> str | None:
        image = self.site.layout.base_image
        if find_image(self.site, image):
            return image
        return "not needed, the runner images are current" if self.spare(self.site) else None

    def do(self) -> None:
        layout = self.site.layout
        if layout.base_override:
            if not self._pull(layout.base_override):
                raise SetupError(
                    f"the base image {layout.base_override} (from BASE_IMAGE) is not here and cannot be pulled; "
                    "load it (docker load), or unset BASE_IMAGE, and run this again"
                )
        elif self._pull(PULLED_BASE):
            self.site.shell.run("docker", "tag", PULLED_BASE, LOCAL_BASE)
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
                    f"no registry answered for {PULLED_BASE}, and a base image cannot be built here; {by_hand()}"
                )
            site.say("installing mmdebstrap: the base image is built from Debian packages instead, and you are root")
            install_packages(site, "mmdebstrap", "debian-archive-keyring")
        # By way of a file: a pipe that breaks in the middle could import half a system as if it were whole.
        archive = site.layout.scratch / "base.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.unlink(missing_ok=True)
        site.say(f"building {LOCAL_BASE} from Debian packages")
        try:
            site.shell.run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(archive))
        except SetupError as error:
            if site.host.is_root:
                raise
            raise SetupError(f"{error.message}, and no registry answered for {PULLED_BASE}; {by_hand()}") from error
        site.shell.run("docker", "import", str(archive), LOCAL_BASE)
        archive.unlink()


def by_hand() -> str:
    """What a user without root can ask an administrator to run."""
    return (
        f"ask for it to be made once, as root: mmdebstrap --variant=minbase --include={PACKAGES} {SUITE} - "
        f"| docker import - {LOCAL_BASE}; or load another Debian image with Python and name it: BASE_IMAGE=name make up"
    )
