"""`engine-image NAME`: build one engine's image now, whether a model uses it or not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

from scripts.setup.base_image import BASE, COMPILER, BaseImageStep
from scripts.setup.console import Console
from scripts.setup.engine import EngineStep
from scripts.setup.failure import SetupError
from scripts.setup.inference_engines import built_engines
from scripts.setup.layout import Layout
from scripts.setup.lock import locked
from scripts.setup.runner_image import RunnerImageStep, WheelsStep, runner_is_current
from scripts.setup.server_image import ServerImageStep, ServerSourcesStep, server_is_current
from scripts.setup.steps import Site, Step, run_steps

NewSite = Callable[[int], Site]


def build_engine_image(layout: Layout, console: Console, engine: str | None, new_site: NewSite) -> None:
    """Build the image unless it is current; `new_site` gives the machine for the holder of the lock with that number.

    The checkout's lock is held while what several images share is made, but not while a server is compiled: that takes
    minutes, for which `make up` need not wait. A lock of the server's own keeps two of its builds apart.
    """
    engines = built_engines(layout.templates)
    if engine not in engines:
        raise SetupError(
            f"{engine or 'no name'} is no engine whose image is built here; write one of {', '.join(engines)}"
        )
    # The controller ends a build with it. As with Ctrl-C, Docker's own command has to be ended with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with locked(layout.root, console) as lock_fd:
        site = new_site(lock_fd)
        run_steps(site, [EngineStep(site), *shared_steps(site, engine)])
    if not engines[engine].is_own:
        with locked(layout.servers / engine, console) as lock_fd:
            site = new_site(lock_fd)
            run_steps(site, [ServerImageStep(site, engine)])


def shared_steps(site: Site, engine: str) -> list[Step]:
    """Return the steps that the checkout's lock guards: base images, sources, and all of an image with our runner."""
    if not built_engines(site.layout.templates)[engine].is_own:
        return server_steps(site, engine)[:-1]
    return [
        *_base_steps(site, engine, is_current=partial(runner_is_current, engine=engine)),
        WheelsStep(site, engine, is_asked=True),
        RunnerImageStep(site, engine, is_asked=True),
    ]


def server_steps(site: Site, engine: str) -> list[Step]:
    """Return the steps that build the image of a server that is not ours; the last one compiles it."""
    return [
        *_base_steps(site, engine, is_current=partial(server_is_current, engine=engine)),
        ServerSourcesStep(site, engine),
        ServerImageStep(site, engine),
    ]


def _base_steps(site: Site, engine: str, is_current: Callable[[Site], bool]) -> list[Step]:
    if not built_engines(site.layout.templates)[engine].needs_compiler:
        return [BaseImageStep(site, BASE, spare=is_current)]
    return [BaseImageStep(site, BASE, spare=is_current), BaseImageStep(site, COMPILER, spare=is_current)]
