"""The set-up's runner of steps, its shell, lock, and virtual environment."""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller import provision
from controller.settings import ROOT
from scripts.setup import __main__ as program
from scripts.setup.console import Console, last_lines
from scripts.setup.failure import SetupError
from scripts.setup.layout import Layout
from scripts.setup.lock import locked
from scripts.setup.model import FIRST_MODEL_FAILED, ModelStep
from scripts.setup.shell import Answer, RealShell, RunOptions
from scripts.setup.steps import Outcome, Step, format_table, run_steps
from scripts.setup.venv import VenvStep, interpreter
from tests.setup.fakes import fails, make_host, make_site, shell_of


@dataclass
class FakeStep:
    """Is done once its `do` ran to the end."""

    name: str
    effect: Callable[[], None] = lambda: None
    slug: str = "fake"
    times_run: int = 0
    is_finished: bool = False

    def already_there(self) -> str | None:
        return "here" if self.is_finished else None

    def do(self) -> None:
        self.times_run += 1
        self.effect()
        self.is_finished = True


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_second_run_skips_what_is_done(tmp_path: Path) -> None:
    """Steps run once, in order; the next run finds them done."""
    site, steps = make_site(tmp_path), [FakeStep("one"), FakeStep("two")]
    assert [o.result for o in run_steps(site, steps)] == ["done", "done"]
    assert [o.result for o in run_steps(site, steps)] == ["already there", "already there"]
    assert [step.times_run for step in steps] == [1, 1]


@pytest.mark.parametrize(("effect", "expected"), [(interrupt, KeyboardInterrupt), (fails(), SetupError)])
def test_the_next_run_goes_on_where_one_stopped(
    tmp_path: Path, effect: Callable[[], None], expected: type[BaseException]
) -> None:
    """A step that was interrupted or failed is run again, those before it are not, and those after it come later."""
    first, second, third = FakeStep("first"), FakeStep("second", effect), FakeStep("third")
    site = make_site(tmp_path)
    with pytest.raises(expected):
        run_steps(site, [first, second, third])
    second.effect = lambda: None
    run_steps(site, [first, second, third])
    assert [first.times_run, second.times_run, third.times_run] == [1, 2, 1]


def test_the_table_shows_each_step_with_its_seconds() -> None:
    """The closing table aligns names, results and seconds, and adds them up."""
    table = format_table([Outcome("engine", "already there", 0.14), Outcome("runner image", "done", 84.1)])
    assert table.splitlines() == [
        "",
        "  engine        already there      0.1 s",
        "  runner image  done              84.1 s",
        "  total                           84.2 s",
    ]


def test_an_error_names_its_log_and_shows_its_end(tmp_path: Path) -> None:
    """A failed command's error has its exit code, the log's path and the last lines."""
    out = io.StringIO()
    shell = RealShell(Console(out), tmp_path / "logs" / "step.log")
    with pytest.raises(SetupError) as failure:
        shell.run("sh", "-c", "echo first; echo last words >&2; exit 3")
    assert failure.value.exit_code == 3
    assert program.report(failure.value, Console(out)) == 3
    assert str(shell.log) in out.getvalue()
    assert out.getvalue().rstrip().endswith("last words")


def test_a_silent_command_is_stopped(tmp_path: Path) -> None:
    """A command that says nothing for too long is ended, and the error says so."""
    shell = RealShell(Console(io.StringIO()), tmp_path / "step.log")
    began = time.monotonic()
    with pytest.raises(SetupError, match="said nothing"):
        shell.run("sleep", "60", options=RunOptions(first_output_s=0.1))
    assert time.monotonic() - began < 30


def test_a_missing_program_is_an_answer_or_an_error_never_a_traceback(tmp_path: Path) -> None:
    """A program that is not there is exit code 127 for a question and a SetupError for a command."""
    shell = RealShell(Console(io.StringIO()), tmp_path / "step.log")
    assert shell.ask("no-such-program-here").code == 127
    with pytest.raises(SetupError, match="no-such-program-here"):
        shell.run("no-such-program-here")


def test_the_tail_of_a_log_is_readable(tmp_path: Path) -> None:
    """Colours, blank lines and the earlier states of a progress bar are left out."""
    log = tmp_path / "log"
    log.write_bytes(b"before\n\x1b[31mred\x1b[0m\n\n10%\r20%\r30%\r")
    assert last_lines(log, 2) == ["red", "30%"]
    assert last_lines(log, 9, start=7) == ["red", "30%"]
    assert last_lines(tmp_path / "missing", 2) == []


def test_a_command_of_a_killed_set_up_keeps_the_lock(tmp_path: Path) -> None:
    """Every process with the descriptor holds the lock, so the next set-up waits for a command of a killed one."""
    with locked(tmp_path, Console(io.StringIO())) as descriptor:
        inherited = os.dup(descriptor)
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(inherited)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(other)


class TestVenv:
    """`.venv` is created, completed or created again."""

    @pytest.fixture
    def step(self, tmp_path: Path) -> VenvStep:
        (tmp_path / "requirements.txt").write_text("flask==1\n")
        (tmp_path / ".venv").mkdir()
        return VenvStep(make_site(tmp_path))

    def works(self, step: VenvStep) -> None:
        shell_of(step.site).answers[str(step.site.layout.python)] = Answer(0)
        shell_of(step.site).answers[f"{interpreter()} -c import ensurepip"] = Answer(0)

    def test_a_fresh_one_is_made_and_filled(self, step: VenvStep) -> None:
        """Without an environment, one is created and the pins installed; then the step is done until they change."""
        shell = shell_of(step.site)
        shell.answers[f"{interpreter()} -c import ensurepip"] = Answer(0)
        shell.effects[f"{interpreter()} -m venv"] = lambda: self.works(step)
        step.do()
        assert len(shell.ran_like("-m venv --clear")) == 1
        assert step.already_there() is not None
        (step.site.layout.root / "requirements.txt").write_text("flask==2\n")
        assert step.already_there() is None

    def test_one_made_by_hand_is_completed_not_cleared(self, step: VenvStep) -> None:
        """An environment that the user made is filled, never wiped."""
        self.works(step)
        assert step.already_there() is None
        step.do()
        assert shell_of(step.site).ran_like("--clear") == []
        assert len(shell_of(step.site).ran_like("pip install")) == 1

    def test_an_interrupted_install_begins_again(self, step: VenvStep) -> None:
        """After an install that did not end, the environment is wiped: pip may have left half a package."""
        self.works(step)
        shell = shell_of(step.site)
        shell.effects[f"{step.site.layout.python} -m pip install"] = interrupt
        with pytest.raises(KeyboardInterrupt):
            step.do()
        assert step.already_there() is None
        del shell.effects[f"{step.site.layout.python} -m pip install"]
        step.do()
        assert len(shell.ran_like("-m venv --clear")) == 1
        assert step.already_there() is not None

    def test_a_moved_checkout_is_not_taken_for_done(self, step: VenvStep, tmp_path: Path) -> None:
        """The scripts inside name their folder, so the same files elsewhere do not count."""
        self.works(step)
        step.do()
        new_place = tmp_path / "elsewhere"
        new_place.mkdir()
        for name in (".venv", "requirements.txt"):
            (tmp_path / name).rename(new_place / name)
        other = VenvStep(make_site(new_place))
        self.works(other)
        assert other.already_there() is None

    def test_ensurepip_is_installed_for_root_on_debian_only(self, step: VenvStep, tmp_path: Path) -> None:
        """Debian's missing ensurepip is installed for root; for another user the message names the package."""
        step.do()
        assert any(line.endswith(f"python3.{sys.version_info.minor}-venv") for line in shell_of(step.site).ran)
        plain = VenvStep(make_site(tmp_path, host=make_host(root=False)))
        with pytest.raises(SetupError, match="sudo apt-get install python3"):
            plain.do()


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (1, 1), (137, 1)])
def test_a_broken_configuration_keeps_its_exit_code(tmp_path: Path, code: int, expected: int) -> None:
    """Exit code 2 means a broken models.yaml and is passed on; any other failure is 1."""
    site = make_site(tmp_path)
    shell_of(site).effects[f"{site.layout.python} -m controller.provision"] = fails("no", exit_code=code)
    with pytest.raises(SetupError) as failure:
        ModelStep(site).do()
    assert failure.value.exit_code == expected


def test_a_first_model_that_fails_is_a_warning(tmp_path: Path) -> None:
    """The set-up goes on to start the controller, and its last words say which sentence the model failed with."""
    site = make_site(tmp_path)
    log = tmp_path / "model.log"
    log.write_text("tiny: downloading\ntiny: its rope is not known; choose another model\n")

    def effect() -> None:
        raise SetupError("ended with exit code 3", exit_code=FIRST_MODEL_FAILED, log=log)

    shell_of(site).effects[f"{site.layout.python} -m controller.provision"] = effect
    ModelStep(site).do()
    (warning,) = site.warnings
    assert "cannot be served now: tiny: its rope is not known; choose another model" in warning


def test_the_program_and_the_set_up_agree_on_the_exit_code() -> None:
    """The set-up cannot import the controller, which is not installed yet when it begins."""
    assert provision.FIRST_MODEL_FAILED == FIRST_MODEL_FAILED


def test_settings_of_the_layout() -> None:
    """The environment's folders and numbers reach the layout; an invalid port is refused by name."""
    layout = Layout.from_environ({"ORCHESTRAR_DATA": "/d", "ORCHESTRAR_PORT": "8010", "ORCHESTRAR_HOST": "::1"})
    assert (layout.data, layout.address) == (Path("/d"), "[::1]:8010")
    with pytest.raises(SetupError, match="ORCHESTRAR_PORT") as failure:
        Layout.from_environ({"ORCHESTRAR_PORT": "80a"})
    assert failure.value.exit_code == 2


def test_the_set_up_runs_before_any_package_is_installed() -> None:
    """It imports the standard library, itself and the controller's settings, and nothing that has to be installed."""
    command = [sys.executable, "-S", "-c", "import scripts.setup.__main__"]
    subprocess.run(command, cwd=ROOT, check=True)


def test_the_order_of_the_steps() -> None:
    """Each step of `make up` comes after those that it depends on."""
    steps: list[Step] = program.machine_steps(make_site(Path("/nowhere")))
    assert [step.slug for step in steps] == [
        "venv", "engine", "compose", "base-image", "compiler-image", "wheels-openvino", "image-openvino",
            "wheels-transformers", "image-transformers", "model",
    ]  # fmt: skip
