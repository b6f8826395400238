"""The environment, read as settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import ConfigInvalid
from controller.settings import ROOT, Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    """An empty environment gives the documented defaults, with folders beside the code."""
    settings = Settings.from_environ({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.project) == ("127.0.0.1", 8000, "orchestrar")
    assert settings.config_file == ROOT / "config" / "models.yaml"


def test_paths_become_absolute() -> None:
    """A relative folder is relative to where the controller is started."""
    assert Settings.from_environ({"ORCHESTRAR_DATA": "some/where"}).data_dir == Path.cwd() / "some" / "where"


def test_all_mistakes_are_reported_at_once() -> None:
    """Each wrong variable gets a line with its remedy, not only the first one."""
    with pytest.raises(ConfigInvalid) as exc_info:
        Settings.from_environ(
            {
                "ORCHESTRAR_PORT": "eighty",
                "ORCHESTRAR_PROJECT": "My Project",
                "ORCHESTRAR_LOG_LEVEL": "loud",
                "ORCHESTRAR_HOST": "0.0.0.0",
                "ORCHESTRAR_MAX_IN_FLIGHT": "0",
            }
        )
    assert [problem.split(":")[1].strip() for problem in exc_info.value.problems] == [
        "ORCHESTRAR_HOST",
        "ORCHESTRAR_PORT",
        "ORCHESTRAR_PROJECT",
        "ORCHESTRAR_MAX_IN_FLIGHT",
        "ORCHESTRAR_LOG_LEVEL",
    ]


def test_only_loopback_is_bound() -> None:
    """Without API keys no other machine is served; loopback may be written in any way."""
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert Settings.from_environ({"ORCHESTRAR_HOST": host}).host == host
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(ConfigInvalid, match="not a loopback address"):
            Settings.from_environ({"ORCHESTRAR_HOST": host})


def test_blank_host_names_are_none() -> None:
    """A trailing comma does not allow the empty name."""
    assert Settings.from_environ({"ORCHESTRAR_ALLOWED_HOSTS": "A.example, ,"}).allowed_hosts == ("a.example",)


def test_the_token_is_never_printed() -> None:
    """The hub's token is not part of the settings' text, which a log might print."""
    assert "secret" not in repr(Settings.from_environ({"HF_TOKEN": "secret"}))
