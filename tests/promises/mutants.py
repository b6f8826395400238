"""Break each promise by one line of the product, in a copy, and see its test fail: `python -m tests.promises.mutants`.

Arguments are promises (`L1 F3`); without any, all that declare a mutation. Three are tested at a time, in a copy each.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from controller.settings import ROOT
from tests.promises.mutation import Mutation, declared

# As many as of the docker tests in `make test`, which hold the same bounds beside each other.
AT_ONCE = 3
# A test that hangs on a broken product has noticed it, too. That counts only when it runs alone: beside another one it
# may merely be slow.
TEST_TIMEOUT_S = 90
FAILS, HANGS, PASSES, NO_VERDICT = "caught", "timed out", "SURVIVED", "no verdict"


@dataclass(frozen=True)
class Mutant:
    """A mutation, and the promise and test file that it belongs to."""

    promise: str
    file: Path
    mutation: Mutation


@dataclass(frozen=True)
class Copy:
    """A copy of the tree, in which one mutant at a time is tested; `number` sets its ports apart from other copies'."""

    number: int
    tree: Path

    def fill(self) -> None:
        """Copy what a clone of the working tree would have."""
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in filter(None, listing.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)

    def verdict_on(self, mutant: Mutant) -> str:
        """Run the mutant's test here. A product that does not even start proves nothing of the promise."""
        mutated_file = self.tree / mutant.mutation.path
        text = mutated_file.read_text(encoding="utf-8")
        report = self.tree / "report.json"
        report.unlink(missing_ok=True)
        try:
            mutated_file.write_text(mutant.mutation.applied(text), encoding="utf-8")
            result = self._run_test(mutant, report)
        finally:
            mutated_file.write_text(text, encoding="utf-8")
        outcomes = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        outcome = outcomes.get(mutant.promise, {})
        if outcome.get("verdict") == "BROKEN":
            return HANGS if outcome["failed"] == outcome["timed_out"] else FAILS
        print(result.stdout[-3000:], file=sys.stderr)
        return PASSES if result.returncode == 0 else NO_VERDICT

    def _run_test(self, mutant: Mutant, report: Path) -> subprocess.CompletedProcess[str]:
        test = str(mutant.file.relative_to(ROOT))
        command = [sys.executable, "-m", "pytest", test, "-k", mutant.mutation.caught_by, "-x", "-q"]
        options = [f"--timeout={TEST_TIMEOUT_S}", "-p", "no:cacheprovider", f"--promises={report}"]
        # As xdist names its workers, by which the tests share out the ports.
        worker = {"PYTEST_XDIST_WORKER": f"gw{self.number}", "PYTEST_XDIST_WORKER_COUNT": str(AT_ONCE)}
        return subprocess.run(
            [*command, *options], cwd=self.tree, env=os.environ | worker, capture_output=True, text=True, check=False
        )


def main(*promises: str) -> int:
    """Print a line for each mutation; return 1 if a test let one pass."""
    mutants = [Mutant(*declaration) for declaration in declared() if not promises or declaration[0] in promises]
    with tempfile.TemporaryDirectory(prefix="orchestrar-mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(AT_ONCE):
            copy = Copy(number, Path(folder, str(number)))
            copy.fill()
            copies.put(copy)

        def attempt(mutant: Mutant) -> str:
            copy, started_at = copies.get(), time.monotonic()
            try:
                verdict = copy.verdict_on(mutant)
            finally:
                copies.put(copy)
            print(_line(mutant, verdict, time.monotonic() - started_at), flush=True)
            return verdict

        with ThreadPoolExecutor(AT_ONCE) as pool:
            verdicts = list(pool.map(attempt, mutants))
        for number, mutant in enumerate(mutants):
            if verdicts[number] == HANGS:
                verdicts[number] = attempt(mutant)
    return 0 if all(verdict in (FAILS, HANGS) for verdict in verdicts) else 1


def _line(mutant: Mutant, verdict: str, duration_s: float) -> str:
    mutation = mutant.mutation
    change = f"{mutation.old.strip()} -> {mutation.new.strip() or '(nothing)'}"
    return f"{mutant.promise:4} {verdict:10} {duration_s:5.1f} s  {mutation.path}: {change}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
