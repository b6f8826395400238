"""The generated file as Compose itself judges it, and the containers that the engine makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.controller.deployment.test_rendering import GOLDEN, golden_targets, render_text
from tests.docker.conftest import Build
from tests.docker.house import House, docker


@pytest.fixture(scope="module")
def house(build_house: Build) -> House:
    # `echo` is a prefix of `echo.1`: Compose once took such names for a cycle of references.
    return build_house({"echo": {"env": {"TRICKY": "$HOME ${X} $$ \" ' \n é 🙂"}}, "echo.1": {"gguf": True}})


def compose_schema() -> dict[str, Any]:
    """Return the Compose specification's JSON schema, which the installed Compose contains in its binary."""
    info = docker("info", "--format", '{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{.Path}}{{end}}{{end}}')
    binary = Path(info).read_bytes()
    for match in re.finditer(rb'\{\s*"\$schema"', binary):
        text = binary[match.start() : match.start() + 1_000_000].decode("latin-1")
        schema, _ = json.JSONDecoder().raw_decode(text)
        if schema.get("title") == "Compose Specification":
            return dict(schema)
    raise AssertionError("the Compose binary contains no schema")


@pytest.mark.parametrize("case", sorted(GOLDEN.iterdir()), ids=lambda case: case.name)
def test_golden_files_are_valid(case: Path, tmp_path: Path) -> None:
    """Every golden file is valid by the specification's schema and by `docker compose config`."""
    text = render_text(golden_targets(case))
    jsonschema.validate(yaml.safe_load(text), compose_schema())
    (tmp_path / "compose.yaml").write_text(text)
    docker("compose", "--profile", "*", "config", "--quiet", cwd=tmp_path)


def test_compose_reads_text_and_names_unchanged(house: House) -> None:
    """Any text in `env` reaches the container unchanged, and ids that contain each other are kept apart."""
    house.ask("echo", "hello").raise_for_status()
    (container,) = house.containers("echo")
    environment = json.loads(docker("inspect", "--format", "{{json .Config.Env}}", container))
    assert "TRICKY=$HOME ${X} $$ \" ' \n é 🙂" in environment
    assert house.ask("echo.1", "hello").json()["text"] == "hello"


def test_the_container_is_hardened(house: House) -> None:
    """The container is non-root, read-only, without capabilities, bounded, on loopback; no host path is writable."""
    house.ask("echo", "hello").raise_for_status()
    (container,) = house.containers("echo")
    (details,) = json.loads(docker("inspect", container))
    host = details["HostConfig"]
    assert details["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Privileged"] is False
    assert host["PidsLimit"] == 512
    assert host["Init"] is True
    assert host["Memory"] == host["MemorySwap"] == 128 * 1024**2
    assert host["NanoCpus"] == 1_000_000_000
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert [binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings] == ["127.0.0.1"]
    assert [mount["RW"] for mount in details["Mounts"]] == [False]
    assert not any("docker.sock" in mount["Source"] for mount in details["Mounts"])


def test_the_process_has_no_rights(house: House) -> None:
    """Seen from inside: not root, no capabilities, no new privileges, nothing writable, no name resolution."""
    house.ask("echo", "hello").raise_for_status()
    (container,) = house.containers("echo")
    status = docker("exec", container, "cat", "/proc/self/status")
    assert re.search(r"^Uid:\s+10001", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    probe = (
        "import socket\n"
        "def fails(call):\n"
        "    try: call()\n"
        "    except OSError: return True\n"
        "    return False\n"
        "socket.setdefaulttimeout(2)\n"
        "print(fails(lambda: open('/x', 'w')), fails(lambda: open('/model/x', 'w')),"
        " fails(lambda: socket.getaddrinfo('example.com', 80)))"
    )
    assert docker("exec", container, "python", "-c", probe).split() == ["True"] * 3


def test_models_cannot_reach_each_other(house: House) -> None:
    """One model's container cannot connect to another's, though both are on one network."""
    for model_id in ("echo", "echo.1"):
        house.ask(model_id, "hello").raise_for_status()
    (first,), (second,) = house.containers("echo"), house.containers("echo.1")
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = docker("inspect", "--format", template, second)
    probe = f"import socket; socket.create_connection(('{address}', 8000), 2)"
    output = docker("exec", first, "sh", "-c", f'python -c "{probe}" 2>&1 || true')
    assert re.search("timed out|No route|refused|unreachable", output), output
