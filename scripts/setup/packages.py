"""Installs packages of the distribution, on Debian and Ubuntu, as root."""

from __future__ import annotations

from scripts.setup.shell import RunOptions
from scripts.setup.steps import Site

_QUIET = {"DEBIAN_FRONTEND": "noninteractive"}
_WAIT_FOR_LOCK = "-oDPkg::Lock::Timeout=300"


def install_packages(site: Site, *names: str) -> None:
    """Install with apt-get, without questions. The caller has checked `site.host.installs_packages`."""
    # An earlier run that was killed leaves dpkg half-way; without this every later install fails.
    # The lock is not passed on: a service that a package starts would keep it for good.
    options = RunOptions(holds_lock=False)
    install = ("apt-get", "install", "--yes", "--no-install-recommends", _WAIT_FOR_LOCK, *names)
    for command in (("dpkg", "--configure", "-a"), ("apt-get", "update", _WAIT_FOR_LOCK), install):
        site.shell.run(*command, env=_QUIET, options=options)
