"""`python3 -m scripts.setup VERB`: what the Makefile's targets call."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

from scripts.setup.base_image import BASE, COMPILER, BaseImageStep
from scripts.setup.compose_plugin import ComposeStep
from scripts.setup.console import Console, last_lines
from scripts.setup.controller import (
    ControllerStep,
    controller_pid,
    gunicorn_command,
    make_way,
    remove_build_output,
    stop_controller,
)
from scripts.setup.engine import EngineStep
from scripts.setup.engine_image import build_engine_image, server_steps
from scripts.setup.failure import SetupError
from scripts.setup.host import Host
from scripts.setup.inference_engines import built_engines, runner_engines
from scripts.setup.layout import Layout
from scripts.setup.lock import locked
from scripts.setup.model import ModelStep
from scripts.setup.models import remove_models
from scripts.setup.runner_image import RunnerImageStep, WheelsStep, nothing_is_compiled, runners_are_current
from scripts.setup.shell import RealShell
from scripts.setup.steps import Site, Step, run_steps
from scripts.setup.venv import VenvStep

INTERRUPTED = 130


def machine_steps(site: Site) -> list[Step]:
    """Return the steps that set up everything that the controller needs before it starts."""
    return [
        VenvStep(site),
        EngineStep(site),
        ComposeStep(site),
        BaseImageStep(site, BASE, spare=runners_are_current),
        BaseImageStep(site, COMPILER, spare=nothing_is_compiled),
        *(step(site, name) for name in runner_engines(site.layout.templates) for step in (WheelsStep, RunnerImageStep)),
        ModelStep(site),
    ]


def development_step(site: Site) -> Step:
    """Return the step that installs the tools which check and test the code."""
    return VenvStep(site, name="development tools", slug="venv-dev", requirements="requirements-dev.txt")


def up(site: Site) -> None:
    """Set everything up and run the controller in the background."""
    run_steps(site, [*machine_steps(site), ControllerStep(site)])
    site.console.say(
        f"Orchestrar runs at http://{site.layout.address} (make logs shows its log, make down stops it). Try:\n"
        f"  curl -X POST http://{site.layout.address}/inference "
        """-d '{"model_id": "smollm2-135m", "prompt": "What is the capital of France?", "temperature": 0}'"""
    )
    for warning in site.warnings:
        site.console.say(f"warning: {warning}")


def dev_env(site: Site) -> None:
    """Set up the virtual environment with the development tools."""
    run_steps(site, [VenvStep(site), development_step(site)])


def test_env(site: Site) -> None:
    """Set up everything that the whole test suite needs."""
    first, *rest = machine_steps(site)
    servers = built_engines(site.layout.templates).keys() - runner_engines(site.layout.templates).keys()
    of_servers = [step for name in sorted(servers) for step in server_steps(site, name)]
    run_steps(site, [first, development_step(site), *rest, *of_servers])


def prepare_serve(site: Site) -> None:
    """Set up everything but the controller, which then replaces this process."""
    pid = controller_pid(site.layout)
    if pid is not None:
        raise SetupError(f"the controller is already running (pid {pid}); stop it first: make down")
    run_steps(site, machine_steps(site))
    make_way(site)


def down(site: Site) -> None:
    """Stop the controller, then the models."""
    site.console.say("==> controller")
    site.say("stopped" if stop_controller(site) else "was not running")
    site.console.say("==> models")
    site.shell.log.unlink(missing_ok=True)
    remove_models(site)
    site.say("none is running now; downloads, prepared volumes and images are kept")


def clean(site: Site) -> None:
    """Remove what the set-up can make again."""
    pid = controller_pid(site.layout)
    if pid is not None:
        raise SetupError(f"the controller is running (pid {pid}); stop it first: make down")
    for path in remove_build_output(site.layout):
        site.say(f"removed {path}")
    site.say(f"kept: {site.layout.data} (weights, logs), Docker images and volumes")


VERBS = {"up": up, "serve": prepare_serve, "dev-env": dev_env, "test-env": test_env, "down": down, "clean": clean}
UNLOCKED = ("down",)


def main(arguments: list[str], console: Console) -> int:
    """Do what the verb says and return the exit code; print a failure with the end of its log."""
    parser = argparse.ArgumentParser(prog="python3 -m scripts.setup", description=__doc__)
    parser.add_argument("verb", choices=(*VERBS, "engine-image", "logs"))
    parser.add_argument("engine", nargs="?", help="for engine-image: the engine whose image is built")
    options = parser.parse_args(arguments)
    verb = options.verb
    try:
        layout = Layout.from_environ(os.environ)
        if verb == "logs":
            return follow_logs(layout)
        if verb == "engine-image":
            build_engine_image(layout, console, options.engine, partial(make_site, layout, console, verb))
        elif verb in UNLOCKED:
            VERBS[verb](make_site(layout, console, verb, None))
        else:
            with locked(layout.root, console) as lock_fd:
                VERBS[verb](make_site(layout, console, verb, lock_fd))
        if verb == "serve":
            serve_here(layout)
    except SetupError as error:
        return report(error, console)
    except OSError as error:
        console.say(f"error: {error}; is the disk full, or does the folder belong to another user?")
        return 1
    except KeyboardInterrupt:
        console.say("\ninterrupted; run the same command again to continue where it stopped")
        return INTERRUPTED
    return 0


def make_site(layout: Layout, console: Console, verb: str, lock_fd: int | None) -> Site:
    """Return this machine, for the steps to work on."""
    shell = RealShell(console, layout.setup_logs / f"{verb}.log", lock_fd=lock_fd)
    return Site(layout=layout, host=Host.detect(), shell=shell, console=console, environ=os.environ)


def serve_here(layout: Layout) -> None:
    """Become the controller, in the foreground."""
    os.environ["ORCHESTRAR_DATA"] = str(layout.data)
    os.chdir(layout.root)
    command = gunicorn_command(layout)
    os.execv(command[0], command)


def follow_logs(layout: Layout) -> int:
    """Show the end of the controller's log, and follow it."""
    if not layout.controller_log.exists():
        raise SetupError("the controller has no log yet; start it in the background: make up")
    os.execvp("tail", ["tail", "-n", "100", "-F", str(layout.controller_log)])


def report(error: SetupError, console: Console) -> int:
    """Print what failed, the end of its log and the path of the whole log."""
    console.say(f"error: {error.message}")
    lines = last_lines(error.log, 20) if error.log else []
    if lines:
        console.say("\n".join([f"  the last lines of {error.log}:", *(f"    {line}" for line in lines)]))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Console()))
