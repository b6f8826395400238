"""`python -m controller.provision`: which failures end it how."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from controller import provision
from controller.errors import DockerError, ImageMissing, OrchestrarError, PreparationFailed, SourceError

MODELS = "models:\n  tiny: {source: hf://owner/name, aliases: [small]}\n  other: {source: hf://owner/other}\n"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Set up a models.yaml without Docker; the list holds the models that are prepared."""
    (tmp_path / "models.yaml").write_text(MODELS)
    monkeypatch.setenv("ORCHESTRAR_CONFIG", str(tmp_path / "models.yaml"))
    monkeypatch.setenv("ORCHESTRAR_DATA", str(tmp_path))
    monkeypatch.setattr(provision, "DockerService", lambda **_: SimpleNamespace(config_hashes=lambda: {}))
    return []


def end(monkeypatch: pytest.MonkeyPatch, asked: list[str], error: OrchestrarError | None = None) -> None:
    """Let each preparation end like this."""

    def prepare(model_id: str, *_: object) -> None:
        asked.append(model_id)
        if error is not None:
            raise error

    deployment = SimpleNamespace(prepare=prepare, write=lambda: None)
    monkeypatch.setattr(provision, "compose_deployment", lambda *_: deployment)


def test_the_first_model_is_prepared_if_none_is_named(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are ids or aliases."""
    end(monkeypatch, asked)
    assert (0, 0) == (provision.main([]), provision.main(["other", "small"]))
    assert ["tiny", "other", "tiny"] == asked


@pytest.mark.parametrize("kind", [PreparationFailed, SourceError, ImageMissing])
def test_a_first_model_that_fails_has_an_exit_code_of_its_own(
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[OrchestrarError],
) -> None:
    """The set-up goes on after it. For a model that was named it is an ordinary failure. The sentence comes last."""
    end(monkeypatch, asked, kind("tiny: its rope is not known"))
    assert provision.FIRST_MODEL_FAILED == provision.main([])
    assert 1 == provision.main(["tiny"])
    assert "tiny: its rope is not known\n" * 2 == capsys.readouterr().err


def test_the_engines_are_those_that_the_files_decided(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make up` builds their images, so that an image which a choice needs is not missing for ever."""
    decided = {"tiny": "openvino", "other": "transformers"}
    deployment = SimpleNamespace(decided=lambda spec: spec.on(decided[spec.id], ""))
    monkeypatch.setattr(provision, "compose_deployment", lambda *_: deployment)
    assert 0 == provision.main(["--engines"])
    assert ["openvino", "transformers"] == capsys.readouterr().out.split()


def test_what_is_no_fault_of_the_model_fails(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Docker the controller could serve no model at all."""
    end(monkeypatch, asked, DockerError("Docker is away"))
    assert 1 == provision.main([])
