"""The set-up's image steps: what they pull, build and download, and when they need none of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from scripts.setup.base_image import BASE, COMPILER, BaseImageStep
from scripts.setup.failure import SetupError
from scripts.setup.runner_image import (
    UNUSED,
    RunnerImageStep,
    WheelsStep,
    drop_broken_wheels,
    engines_in_use,
    nothing_is_compiled,
    runner_content,
    runners_are_current,
)
from scripts.setup.shell import Answer
from scripts.setup.steps import Site
from tests.setup.fakes import FakeShell, fails, image_answer, make_host, make_site, shell_of

INSPECT = "docker image inspect --format {{json .}}"
LOCAL = "orchestrar-base:bookworm"
REMOTE = "python:3.11-slim-bookworm"


def base_step(site: Site) -> BaseImageStep:
    return BaseImageStep(site, BASE, spare=runners_are_current)


def runner_site(root: Path) -> Site:
    """Return a checkout with a runner folder, and a base image with Python 3.11."""
    site = make_site(root)
    site.layout.runner.mkdir()
    (site.layout.runner / "Dockerfile").write_text("FROM base\n")
    (site.layout.runner / "requirements-transformers.txt").write_text("torch==1\n")
    shell_of(site).answers[f"{INSPECT} {LOCAL}"] = image_answer("sha256:base")
    shell_of(site).answers["docker run"] = Answer(0, "3.11\n")
    shell_of(site).answers[f"{site.layout.python} -m controller.provision --engines"] = Answer(0, "transformers\n")
    return site


def have_current_image(site: Site, *, base: str = "sha256:base") -> None:
    shell_of(site).answers[f"{INSPECT} orchestrar-runner:latest"] = image_answer(
        "sha256:runner", orchestrar__content=runner_content(site), orchestrar__base=base
    )


def test_a_base_image_that_is_here_is_used(tmp_path: Path) -> None:
    """No registry is asked for an image that is present."""
    site = make_site(tmp_path)
    shell_of(site).answers[f"{INSPECT} {LOCAL}"] = image_answer("sha256:base")
    assert base_step(site).already_there() == LOCAL


def test_a_pulled_base_gets_the_local_name(tmp_path: Path) -> None:
    """If a registry answers, its image is pulled and tagged; nothing is built."""
    site = make_site(tmp_path)
    base_step(site).do()
    assert shell_of(site).ran == [f"docker pull {REMOTE}", f"docker tag {REMOTE} {LOCAL}"]


def test_without_a_registry_root_builds_from_debian_packages(tmp_path: Path) -> None:
    """If no registry answers, mmdebstrap is installed for root and the image imported from a whole archive."""
    site = make_site(tmp_path)
    shell = shell_of(site)
    archive = site.layout.scratch / "base-image.tar"
    shell.effects["docker pull"] = fails()
    shell.effects["mmdebstrap"] = lambda: void(archive.write_text("tar"))
    base_step(site).do()
    assert any(line.startswith("apt-get install") and "mmdebstrap" in line for line in shell.ran)
    assert shell.ran[-2].startswith("mmdebstrap --variant=minbase --include=python3,")
    assert shell.ran[-1] == f"docker import {archive} {LOCAL}"
    assert not archive.exists()


def test_a_broken_build_of_the_base_imports_nothing(tmp_path: Path) -> None:
    """A build that fails never becomes an image."""
    site = make_site(tmp_path)
    shell = shell_of(site)
    shell.programs.add("mmdebstrap")
    shell.effects.update({"docker pull": fails(), "mmdebstrap": fails("no space left")})
    with pytest.raises(SetupError, match="no space left"):
        base_step(site).do()
    assert shell.ran_like("docker import") == []


@pytest.mark.parametrize("has_mmdebstrap", [False, True])
def test_a_plain_user_without_a_registry_is_told_what_to_ask_for(tmp_path: Path, has_mmdebstrap: bool) -> None:
    """A plain user who can neither pull nor build gets the exact command for an administrator."""
    site = make_site(tmp_path, host=make_host(root=False))
    shell = shell_of(site)
    shell.effects.update({"docker pull": fails(), "mmdebstrap": fails()})
    if has_mmdebstrap:
        shell.programs.add("mmdebstrap")
    with pytest.raises(SetupError, match=r"as root: mmdebstrap .* \| docker import - orchestrar-base:bookworm"):
        base_step(site).do()
    assert shell.ran_like("apt-get") == []


def test_the_users_own_base_is_never_replaced_by_another(tmp_path: Path) -> None:
    """A BASE_IMAGE that cannot be pulled is an error; no other image is built under its name."""
    site = make_site(tmp_path, environ={"BASE_IMAGE": "mine:1"})
    shell_of(site).effects["docker pull"] = fails()
    with pytest.raises(SetupError, match="mine:1"):
        base_step(site).do()
    assert shell_of(site).ran == ["docker pull mine:1"]


def test_a_compiler_is_needed_only_for_the_kernels(tmp_path: Path) -> None:
    """The compiler image is built from Debian packages if none is pulled, and not at all for transformers."""
    site = runner_site(tmp_path)
    step = BaseImageStep(site, COMPILER, spare=nothing_is_compiled)
    assert step.already_there() == "not needed, the runner images are current"
    shell = shell_of(site)
    shell.answers[f"{site.layout.python} -m controller.provision --engines"] = Answer(0, "openvino\n")
    assert step.already_there() is None
    archive = site.layout.scratch / "compiler-image.tar"
    shell.programs.add("mmdebstrap")
    shell.effects.update({"docker pull": fails(), "mmdebstrap": lambda: void(archive.write_text("tar"))})
    step.do()
    assert shell.ran[-2].startswith("mmdebstrap --variant=minbase --include=g++ ")
    assert shell.ran[-1] == f"docker import {archive} {COMPILER.local}"


def test_a_current_runner_image_needs_nothing_else(tmp_path: Path) -> None:
    """With a current runner image, neither a base (it may be gone), nor wheels, nor a build are needed."""
    site = runner_site(tmp_path)
    have_current_image(site)
    assert WheelsStep(site, "transformers").already_there() is not None
    assert RunnerImageStep(site, "transformers").already_there() is not None
    del shell_of(site).answers[f"{INSPECT} {LOCAL}"]
    assert base_step(site).already_there() == "not needed, the runner images are current"
    assert RunnerImageStep(site, "transformers").already_there() is not None


def test_an_engine_that_no_model_uses_is_not_built(tmp_path: Path) -> None:
    """Only the images that models.yaml asks for are built; for a file that cannot be read, all of them."""
    site = runner_site(tmp_path)
    assert WheelsStep(site, "openvino").already_there() == RunnerImageStep(site, "openvino").already_there() == UNUSED
    have_current_image(site)
    assert runners_are_current(site)
    shell_of(site).answers[f"{site.layout.python} -m controller.provision --engines"] = Answer(2, err="not valid")
    assert engines_in_use(site) == {"openvino", "transformers"}
    assert RunnerImageStep(site, "openvino").already_there() is None
    assert not runners_are_current(site)


def test_each_engine_has_its_image(tmp_path: Path) -> None:
    """An engine's image is built from its own target under the name that its template asks for."""
    site = runner_site(tmp_path)
    RunnerImageStep(site, "openvino").do()
    (line,) = shell_of(site).ran
    assert "--target openvino" in line
    assert "--tag orchestrar-runner:openvino" in line


def test_a_changed_runner_or_base_makes_the_image_stale(tmp_path: Path) -> None:
    """An edited file, or another base image under the same name, causes a rebuild; caches and wheels do not."""
    site = runner_site(tmp_path)
    have_current_image(site)
    for name in ("wheelhouse/transformers/torch.whl", "__pycache__/x.pyc", ".mypy_cache/x"):
        (site.layout.runner / name).parent.mkdir(parents=True)
        (site.layout.runner / name).write_text("x")
    assert RunnerImageStep(site, "transformers").already_there() is not None
    have_current_image(site, base="sha256:older")
    assert RunnerImageStep(site, "transformers").already_there() is None
    have_current_image(site)
    (site.layout.runner / "server.py").write_text("pass\n")
    assert RunnerImageStep(site, "transformers").already_there() is None


def test_an_image_built_by_hand_is_built_again(tmp_path: Path) -> None:
    """An image without our labels is not trusted to be current."""
    site = runner_site(tmp_path)
    shell_of(site).answers[f"{INSPECT} orchestrar-runner:latest"] = Answer(0, '{"Id": "x", "Config": {"Labels": null}}')
    assert RunnerImageStep(site, "transformers").already_there() is None


@pytest.mark.parametrize(("buildx", "expected"), [(Answer(0), {}), (Answer(1), {"DOCKER_BUILDKIT": "0"})])
def test_the_build_works_with_and_without_buildx(tmp_path: Path, buildx: Answer, expected: dict[str, str]) -> None:
    """The classic builder is used if the new one's plugin is missing; the labels record what was built."""
    site = runner_site(tmp_path)
    shell_of(site).answers["docker buildx version"] = buildx
    RunnerImageStep(site, "transformers").do()
    assert shell_of(site).environments == [expected]
    (line,) = shell_of(site).ran
    assert f"--build-arg BASE_IMAGE={LOCAL} --build-arg COMPILER_IMAGE={COMPILER.local}" in line
    assert "--build-arg ENGINE=transformers --target transformers" in line
    assert f"--label orchestrar.content={runner_content(site)} --label orchestrar.base=sha256:base" in line


def download_into(site: Site, shell: FakeShell, name: str) -> None:
    part = site.layout.wheelhouse / ".transformers.part"
    shell.effects[f"{site.layout.python} -m pip download"] = lambda: void((part / name).write_text("wheel"))


def test_wheels_appear_all_at_once_and_are_not_fetched_again(tmp_path: Path) -> None:
    """A finished download replaces the old wheels in one move, and counts until the requirements change."""
    site = runner_site(tmp_path)
    download_into(site, shell_of(site), "torch.whl")
    assert WheelsStep(site, "transformers").already_there() is None
    WheelsStep(site, "transformers").do()
    assert WheelsStep(site, "transformers").already_there() == "1 wheels"
    assert {path.name for path in site.layout.wheelhouse.iterdir()} == {"transformers", "transformers.stamp"}
    (site.layout.runner / "requirements-transformers.txt").write_text("torch==2\n")
    assert WheelsStep(site, "transformers").already_there() is None
    download_into(site, shell_of(site), "torch2.whl")
    WheelsStep(site, "transformers").do()
    assert [p.name for p in (site.layout.wheelhouse / "transformers").iterdir()] == ["torch2.whl"]


def test_a_failed_download_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """After a failure the old wheels are still there, and the step is not done."""
    site = runner_site(tmp_path)
    shell_of(site).effects[f"{site.layout.python} -m pip download"] = fails("no network")
    with pytest.raises(SetupError, match="no network"):
        WheelsStep(site, "transformers").do()
    assert WheelsStep(site, "transformers").already_there() is None
    assert not (site.layout.wheelhouse / "transformers").exists()


def test_wheels_are_for_the_images_python(tmp_path: Path) -> None:
    """If the image's Python differs from the host's, pip gets its version."""
    site = runner_site(tmp_path)
    shell_of(site).answers["docker run"] = Answer(0, "3.99\n")
    WheelsStep(site, "transformers").do()
    assert "--python-version 3.99" in shell_of(site).ran[0]


def test_a_base_without_python_is_named(tmp_path: Path) -> None:
    """A base image without python3 is an error that names it."""
    site = runner_site(tmp_path)
    shell_of(site).answers["docker run"] = Answer(127, "", "python3: not found")
    with pytest.raises(SetupError, match=f"{LOCAL} cannot run python3"):
        WheelsStep(site, "transformers").do()


def test_wheels_cut_short_are_dropped(tmp_path: Path) -> None:
    """A truncated wheel, as after a kill, is removed before pip sees it; complete ones stay."""
    with zipfile.ZipFile(tmp_path / "whole.whl", "w") as archive:
        archive.writestr("module.py", "pass\n" * 1000)
    (tmp_path / "short.whl").write_bytes((tmp_path / "whole.whl").read_bytes()[:200])
    drop_broken_wheels(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.whl"]


def void(_: object) -> None:
    """Turn an expression into an effect without a result."""
