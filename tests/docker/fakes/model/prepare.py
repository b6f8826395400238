"""Prepares like the real runner, by writing a few bytes; FAKE_PREPARE_EXIT makes it fail, FAKE_PREPARE_S delays it.

FAKE_PREPARE_ERROR is the line of JSON with which it refuses the model.
"""

import json
import os
import sys
import time
from pathlib import Path

if code := int(os.environ.get("FAKE_PREPARE_EXIT", "0")):
    print("the fake fails as FAKE_PREPARE_EXIT says", file=sys.stderr)
    sys.exit(code)
print(json.dumps({"phase": "converting", "fraction": 0.5}), flush=True)
if error := os.environ.get("FAKE_PREPARE_ERROR"):
    print(error, flush=True)
    sys.exit(1)
time.sleep(float(os.environ.get("FAKE_PREPARE_S", "0")))
facts = {"format": 1, "weights_bytes": 1000, "parameters": 500, "kv_bytes_per_token": 10, "context_length": 128}
Path("/prepared/weights").mkdir(exist_ok=True)
Path("/prepared/complete.json").write_text(json.dumps(facts), encoding="utf-8")
print(json.dumps(facts), flush=True)
