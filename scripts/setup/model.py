"""The default model, downloaded and prepared by the controller's own code."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.setup.console import last_lines
from scripts.setup.failure import SetupError
from scripts.setup.steps import Site

# What `controller.provision` ends with if the model is not usable and all else is in order.
FIRST_MODEL_FAILED = 3


@dataclass(frozen=True)
class ModelStep:
    """Always run: `controller.provision` also checks `models.yaml`, and is quick if everything is there."""

    site: Site
    name: str = "default model"
    slug: str = "model"

    def already_there(self) -> str | None:
        return None

    def do(self) -> None:
        layout = self.site.layout
        try:
            self.site.shell.run(
                str(layout.python), "-m", "controller.provision", env={"ORCHESTRAR_DATA": str(layout.data)}
            )
        except SetupError as error:
            if error.exit_code == FIRST_MODEL_FAILED:
                # The controller serves the other models, and tells each client of this one what is wrong.
                reason = "".join(last_lines(error.log, 1)) if error.log else ""
                self.site.warn(f"the first model of models.yaml cannot be served now: {reason or error.message}")
                return
            what = (
                "the configuration is not valid" if error.exit_code == 2 else "the default model could not be prepared"
            )
            raise SetupError(what, exit_code=2 if error.exit_code == 2 else 1, log=error.log) from error
