"""Sets up a checkout and runs its controller; standard library only, since it runs before the environment exists."""

import sys

# Checked here, before any module with newer syntax is compiled.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        "error: Orchestrar needs Python 3.11 or newer, and this is {}.{}. "
        "Install one and name it: make up PYTHON=python3.11".format(*sys.version_info[:2])
    )
