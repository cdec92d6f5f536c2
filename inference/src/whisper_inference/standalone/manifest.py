"""The model file: one WhisperModel, in YAML or JSON, read and validated as a whole."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from whisper_inference.settings import Settings
from whispermodel.catalog import canonical_size
from whispermodel.manifests import UnreadableYaml, documents_in
from whispermodel.misspellings import did_you_mean
from whispermodel.planning.schedule import ScheduleError, Timetable
from whispermodel.spec import API_VERSION, KIND, Spec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MOST_BYTES = 2**18
"""Many times the size of a WhisperModel, and read in seconds at most."""
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,47}[a-z0-9])?")


class ManifestError(ValueError):
    """The model file is invalid; one line names the field and what to do. reason: for a condition."""

    def __init__(self, path: Path, why: str, *, reason: str = "InvalidModelFile") -> None:
        super().__init__(f"The model file {path} cannot be used: {why.rstrip('.')}.")
        self.reason = reason


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid name: use up to 49 lower-case letters, digits or hyphens, starting with a letter "
            "and ending with a letter or digit"
        )
    return name


class Metadata(BaseModel):
    """The metadata that users write; the rest belongs to the API server."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, AfterValidator(_name)]
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A WhisperModel as its file has it."""

    metadata: Metadata
    spec: Spec

    @property
    def name(self) -> str:
        """The model's name."""
        return self.metadata.name

    @property
    def document(self) -> dict[str, JsonValue]:
        """The spec in JSON with its defaults; fields for pods only if they were given."""
        unset = {"pod"} - self.spec.model_fields_set
        return self.spec.model_dump(mode="json", exclude_none=True, exclude=unset)


def read_manifest(path: Path) -> Manifest:
    """Return what a file holds. Raises ManifestError."""
    content = _only_document(path)
    try:
        whole = _Whole.model_validate(content, by_alias=True, by_name=False)
        Timetable(whole.spec.schedule)
    except ValidationError as error:
        raise ManifestError(path, "; ".join(_sentences(error.errors()))) from None
    except ScheduleError as error:
        raise ManifestError(path, f"spec.schedule: {error}", reason="InvalidSchedule") from None
    return Manifest(whole.metadata, whole.spec)


def settings_of(spec: Spec, base: Settings) -> Settings:
    """Return the settings with what a spec overrides; of its queue, only the limits that it names."""
    model, queue = spec.model, spec.queue
    limits: dict[str, object] = {}
    for field, setting in (("max_waiting", "max_waiting"), ("max_wait", "max_wait")):
        limits |= {setting: getattr(queue, field)} if field in queue.model_fields_set else {}
    if "max_audio_bytes" in queue.model_fields_set:
        limits["max_stored_bytes"] = queue.max_audio_bytes
        limits["max_audio_bytes"] = min(base.max_audio_bytes, queue.max_audio_bytes)
    return base.model_copy(
        update={
            "model": canonical_size(model.size),
            "engine": model.engine,
            "device": model.device,
            "compute_type": model.compute_type,
            "model_path": Path(model.source.path) if model.source else None,
            "model_sha256": model.source.sha256 if model.source else None,
            # The planner decides when the model is loaded and unloaded.
            "preload_model": False,
            "unload_after": None,
            **limits,
        }
    )


def without_effect(spec: Spec) -> list[str]:
    """Return the fields that have no effect on one machine."""
    given = [f"spec.{field}" for field in ("cache", "pod", "energy") if field in spec.model_fields_set]
    return [*given, *(["spec.replicas"] if spec.replicas > 1 else [])]


class _Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    api_version: Annotated[Literal["audio-transcriber.io/v1alpha1"], Field(alias="apiVersion")]
    kind: Literal["WhisperModel"]
    metadata: Metadata
    spec: Spec
    status: JsonValue = None


def _only_document(path: Path) -> dict[str, object]:
    try:
        documents = [one for one in documents_in(_text_of(path)) if one is not None]
    except UnreadableYaml as error:
        raise ManifestError(path, f"it is not YAML: {error}") from None
    if len(documents) == 1 and isinstance(documents[0], dict):
        return cast("dict[str, object]", documents[0])
    found = f"{len(documents)} documents" if len(documents) != 1 else "something else"
    raise ManifestError(path, f"expected one {KIND} ({API_VERSION}), found {found}")


def _text_of(path: Path) -> str:
    try:
        with open(path, "rb", opener=_opened_without_blocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ManifestError(path, "it is not a regular file")
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        advice = "make it readable for this user" if isinstance(error, PermissionError) else "check the path"
        raise ManifestError(path, f"it cannot be read ({error.strerror}); {advice}") from None
    if len(text) > _MOST_BYTES:
        raise ManifestError(path, f"it is longer than {_MOST_BYTES} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ManifestError(path, "it is not UTF-8 text") from None


def _opened_without_blocking(path: str, flags: int) -> int:
    # Opening a named pipe blocks until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _sentences(problems: list[ErrorDetails]) -> Iterator[str]:
    reported: set[str] = set()
    for problem in problems:
        # The parts of a union name types, which mean nothing to users.
        parts = [str(part) for part in problem["loc"] if "[" not in str(part)]
        where = ".".join(parts)
        if where not in reported:
            reported.add(where)
            yield _sentence(where, parts[-1] if parts else "", problem)


def _sentence(where: str, field: str, problem: ErrorDetails) -> str:
    match problem["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            return f"{where} is not a field: {did_you_mean(field, _known_fields(), otherwise='remove it')}"
        case "value_error":
            return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{where}: {problem['msg']} (it is {problem['input']!r})"


def _known_fields() -> list[str]:
    parts = Spec.model_json_schema(by_alias=True)
    schemas = [parts, *parts["$defs"].values()]
    return sorted({name for schema in schemas for name in schema.get("properties", {})})
