"""The controller and its gunicorn with a wall clock that is wrong by the seconds in the file ORCHESTRAR_TEST_CLOCK."""

import os
import time
from pathlib import Path

_right = time.time
_offset = Path(os.environ["ORCHESTRAR_TEST_CLOCK"])
time.time = lambda: _right() + float(_offset.read_text())

from controller.server.gunicorn_conf import *  # noqa: E402, F403
