"""Break each promise by one line of the product, in a copy, and see its test fail: `python -m tests.promises.mutants`.

Arguments are promises (`L1 F3`); without any, all that declare a mutation.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from controller.settings import ROOT
from tests.promises.mutation import Mutation, declared

# A test that hangs on a broken product has noticed it, too.
TEST_TIMEOUT_S = 90


def main(*wanted: str) -> int:
    """Print a line for each mutation; 1 when a test let one pass."""
    survived = 0
    with tempfile.TemporaryDirectory(prefix="orchestrar-mutants-") as folder:
        copy = Path(folder, "tree")
        _copy_tree(copy)
        for promise, file, mutation in declared():
            if wanted and promise not in wanted:
                continue
            begun = time.monotonic()
            caught, verdict = _tried(copy, promise, file.relative_to(ROOT), mutation)
            survived += not caught
            line = f"{promise:4} {verdict:9} {time.monotonic() - begun:5.1f} s  {mutation.path}: {mutation.old.strip()}"
            print(f"{line} -> {mutation.new.strip() or '(nothing)'}", flush=True)
    return 1 if survived else 0


def _copy_tree(copy: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)


def _tried(copy: Path, promise: str, test: Path, mutation: Mutation) -> tuple[bool, str]:
    """Whether the test failed by itself: a product that does not even start proves nothing of the promise."""
    mutated = copy / mutation.path
    before = mutated.read_text(encoding="utf-8")
    report = copy / "report.json"
    report.unlink(missing_ok=True)
    try:
        mutated.write_text(mutation.applied(before), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", str(test), "-k", mutation.caught_by, "-x", "-q"]
        options = [f"--timeout={TEST_TIMEOUT_S}", "-p", "no:cacheprovider", f"--promises={report}"]
        done = subprocess.run([*command, *options], cwd=copy, capture_output=True, text=True, check=False)
    finally:
        mutated.write_text(before, encoding="utf-8")
    found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    if found.get(promise, {}).get("verdict") == "BROKEN":
        return True, "caught"
    print(done.stdout[-3000:], file=sys.stderr)
    return False, "SURVIVED" if done.returncode == 0 else "no verdict"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
