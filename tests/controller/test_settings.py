"""The environment as settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import ConfigInvalid
from controller.settings import ROOT, Settings


def test_nothing_set_means_the_defaults() -> None:
    """An empty environment gives the documented defaults, with folders beside the code."""
    settings = Settings.from_environ({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.project) == ("127.0.0.1", 8000, "orchestrar")
    assert settings.config_file == ROOT / "config" / "models.yaml"


def test_paths_become_absolute() -> None:
    """A relative folder is meant from where the controller is started."""
    assert Settings.from_environ({"ORCHESTRAR_DATA": "some/where"}).data_dir == Path.cwd() / "some" / "where"


def test_all_mistakes_are_told_at_once() -> None:
    """Each wrong variable gets its line with what to write, not only the first."""
    with pytest.raises(ConfigInvalid) as caught:
        Settings.from_environ(
            {
                "ORCHESTRAR_PORT": "eighty",
                "ORCHESTRAR_PROJECT": "My Project",
                "ORCHESTRAR_LOG_LEVEL": "loud",
                "ORCHESTRAR_HOST": "0.0.0.0",
                "ORCHESTRAR_MAX_IN_FLIGHT": "0",
            }
        )
    assert [problem.split(":")[1].strip() for problem in caught.value.problems] == [
        "ORCHESTRAR_HOST",
        "ORCHESTRAR_PORT",
        "ORCHESTRAR_PROJECT",
        "ORCHESTRAR_MAX_IN_FLIGHT",
        "ORCHESTRAR_LOG_LEVEL",
    ]


def test_only_loopback_is_bound() -> None:
    """Without API keys no other machine may be served; every way to write loopback is fine."""
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert Settings.from_environ({"ORCHESTRAR_HOST": host}).host == host
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(ConfigInvalid, match="not a loopback address"):
            Settings.from_environ({"ORCHESTRAR_HOST": host})


def test_blank_host_names_are_none() -> None:
    """A trailing comma allows nobody, least of all the empty name."""
    assert Settings.from_environ({"ORCHESTRAR_ALLOWED_HOSTS": "A.example, ,"}).allowed_hosts == ("a.example",)


def test_the_token_is_never_printed() -> None:
    """The hub's token stays out of what a log might print of the settings."""
    assert "secret" not in repr(Settings.from_environ({"HF_TOKEN": "secret"}))
