"""The default model, downloaded and prepared by the controller's own code."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.setup.failure import SetupError
from scripts.setup.steps import Site


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
            what = (
                "the configuration is not valid" if error.exit_code == 2 else "the default model could not be prepared"
            )
            raise SetupError(what, exit_code=2 if error.exit_code == 2 else 1, log=error.log) from error
