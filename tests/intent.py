"""What a Compose file must contain for a model, written a second time, independent of the templates."""

from __future__ import annotations

from typing import Any

from controller.deployment.rendering.target import Target

HARDENED: dict[str, Any] = {
    "user": "10001:10001",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "pids_limit": 512,
    "init": True,
    "tmpfs": ["/tmp:size=64m,mode=1777,noexec,nosuid,nodev"],
    "restart": "no",
    "pull_policy": "never",
    "stop_grace_period": "30s",
    "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
}


def intended_file(targets: list[Target], project: str) -> dict[str, Any]:
    """Return the whole file as data, before `$` is doubled."""
    services: dict[str, Any] = {}
    volumes = {}
    for target in targets:
        services[target.spec.id] = _serve(target)
        if target.files.volume is not None:
            services[f"{target.spec.id}..prepare"] = _prepare(target)
            volumes[target.files.volume] = {
                "name": target.files.volume,
                "labels": {"orchestrar.prepare": target.spec.id},
            }
    network = {
        "driver": "bridge",
        "enable_ipv6": False,
        "driver_opts": {
            "com.docker.network.bridge.enable_ip_masquerade": "false",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        },
    }
    whole = {"name": project, "services": services, "networks": {"models": network}}
    return {**whole, "volumes": volumes} if volumes else whole


def _serve(target: Target) -> dict[str, Any]:
    spec, files = target.spec, target.files
    mounts = [_volume(files.volume, "/model", read_only=True)] if files.volume else _binds(target, "/model", "/model")
    service: dict[str, Any] = {
        **HARDENED,
        "image": spec.image or "orchestrar-runner:latest",
        "profiles": ["models"],
        "labels": {
            "orchestrar.model": spec.id,
            "orchestrar.engine": "transformers",
            "orchestrar.port": "8000",
            "orchestrar.ready": "/health",
        },
        "cpus": spec.resources.cpus,
        "mem_limit": spec.resources.memory_bytes,
        "memswap_limit": spec.resources.memory_bytes,
        "ports": [{"target": 8000, "published": str(target.port), "host_ip": "127.0.0.1", "protocol": "tcp"}],
        "networks": ["models"],
        "dns": ["127.0.0.1"],
        "volumes": mounts,
    }
    if (template := spec.chat_template) is not None:
        service["labels"]["orchestrar.chat_template"] = template.sha256
        service["volumes"].append(
            {
                "type": "bind",
                "source": str(template.path),
                "target": f"/chat-template/{template.path.name}",
                "read_only": True,
                "bind": {"create_host_path": False},
            }
        )
    if spec.resources.gpus:
        device = {"driver": "nvidia", "count": spec.resources.gpus, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _prepare(target: Target) -> dict[str, Any]:
    spec, files = target.spec, target.files
    return {
        **HARDENED,
        "image": spec.image or "orchestrar-runner:latest",
        "profiles": ["prepare"],
        "labels": {"orchestrar.prepare": spec.id},
        "command": ["python", "-m", "runner.prepare"],
        "cpus": spec.resources.cpus,
        "network_mode": "none",
        "volumes": [*_binds(target, "/source", "/source/model"), _volume(files.volume, "/prepared", read_only=False)],
    }


def _binds(target: Target, place: str, folder: str) -> list[dict[str, Any]]:
    files = target.files
    places = {str(files.source): folder if files.source_is_folder else f"{place}/{files.source.name}"}
    if files.parts:
        places = {f"{files.source}/{part}": f"{place}/{part}" for part in files.parts}
    rest: dict[str, Any] = {"read_only": True, "bind": {"create_host_path": False}}
    return [{"type": "bind", "source": source, "target": inside, **rest} for source, inside in places.items()]


def _volume(name: str | None, inside: str, *, read_only: bool) -> dict[str, Any]:
    return {"type": "volume", "source": name, "target": inside, "read_only": read_only}
