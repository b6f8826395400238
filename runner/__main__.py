"""`python -m runner`: serves the model. This is the image's default command."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Run gunicorn in this process; never return."""
    from gunicorn.app.wsgiapp import run

    config = Path(__file__).with_name("gunicorn_conf.py")
    sys.argv = ["gunicorn", "--config", str(config), "runner.app:application()"]
    run()


if __name__ == "__main__":
    main()
