"""Stops and removes the models' containers of one project."""

from __future__ import annotations

from scripts.setup.failure import SetupError
from scripts.setup.steps import Site

PROFILES = ("--profile", "models", "--profile", "prepare")


def remove_models(site: Site) -> None:
    """Run `docker compose down` with the generated file and the user's override; raises SetupError if that fails."""
    if site.shell.ask("docker", "version", timeout_s=20).code:
        site.say("no Docker engine answers, so no models are running")
        return
    try:
        site.shell.run("docker", "compose", "--project-name", site.layout.project, *_files(site), *PROFILES, "down")
    except SetupError as error:
        # A file that is broken or gone must not keep the models running: their labels suffice to find them.
        site.say(f"{error.message}; removing the containers by their labels")
    _remove_left_over(site)


def _files(site: Site) -> list[str]:
    folder = site.layout.compose_dir
    if not (folder / "compose.yaml").exists():
        return []
    words = ["--project-directory", str(folder), "--file", str(folder / "compose.yaml")]
    override = folder / "compose.override.yaml"
    return [*words, "--file", str(override)] if override.exists() else words


def _remove_left_over(site: Site) -> None:
    """Remove models that the file no longer names; the user's own services in an override have no such label."""
    project = f"label=com.docker.compose.project={site.layout.project}"
    listing = site.shell.ask(
        "docker", "ps", "--all", "--quiet", "--filter", project, "--filter", "label=orchestrar.model"
    )
    for container in listing.out.split():
        site.shell.run("docker", "stop", container)
        site.shell.run("docker", "rm", "--force", container)
