"""Installs packages of the distribution, on Debian and Ubuntu, as root."""

from __future__ import annotations

from scripts.setup.steps import Site

_QUIET = {"DEBIAN_FRONTEND": "noninteractive"}
_WAIT_FOR_LOCK = "-oDPkg::Lock::Timeout=300"


def install_packages(site: Site, *names: str) -> None:
    """Install with apt-get; asks nothing. The caller has checked `site.host.installs_packages`."""
    # An earlier run that was killed leaves dpkg half-way; without this each later install fails.
    # No lock is handed on: a service that a package starts would keep it for good.
    site.shell.run("dpkg", "--configure", "-a", env=_QUIET, holds_lock=False)
    site.shell.run("apt-get", "update", _WAIT_FOR_LOCK, env=_QUIET, holds_lock=False)
    site.shell.run(
        "apt-get", "install", "--yes", "--no-install-recommends", _WAIT_FOR_LOCK, *names, env=_QUIET, holds_lock=False
    )
