"""The settings: environment variables with the prefix WHISPER_, also read from a file .env."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import DotEnvSettingsSource

from whispermodel.catalog import ComputeType, Device, Engine, canonical_size, conflicts, find_size
from whispermodel.durations import parse_duration
from whispermodel.misspellings import unknown_setting
from whispermodel.quantities import QuantityError, parse_bytes

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PREFIX = "WHISPER_"

# What Kubernetes puts into every pod for a Service named whisper or whisper-* (k8s.io/kubernetes, pkg/kubelet/envvars).
_SERVICE_LINK = re.compile(
    r"WHISPER_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_URL_NAME = re.compile(r"WHISPER_([A-Z0-9_]+_)?PORT")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")

_DEFAULT_MAX_FILE = 2**30

_SQLITE_FILE = re.compile(r"sqlite(?:\+aiosqlite)?:///(.+)")


class SettingsError(ValueError):
    """The settings are invalid. problems: one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _positive(span: timedelta) -> timedelta:
    if span <= timedelta():
        raise ValueError("the duration must be longer than 0s")
    return span


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("a SHA-256 digest has 64 hexadecimal digits, as sha256sum prints them")
    return text.lower()


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Return the cache folder (XDG Base Directory Specification 0.8, which ignores relative paths)."""
    configured = Path(environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path("~/.cache").expanduser()
    return base / "whisper-operator"


Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Span = Annotated[timedelta, BeforeValidator(_duration)]
Duration = Annotated[Span, AfterValidator(_positive)]


class CommonSettings(BaseSettings):
    """The settings of every process with the HTTP API; `load` reads the environment, the constructor does not."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    data_dir: Path = Path("var/data")
    """The folder for jobs and their audio. Only one server can use it at a time."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """The address to listen on. 0.0.0.0 accepts connections from other machines: configure API keys in that case."""

    port: int = Field(default=8002, ge=0, le=65535)
    """The TCP port to listen on; 0: any free port."""

    max_audio_bytes: Bytes = _DEFAULT_MAX_FILE
    """The largest accepted audio file; larger uploads are aborted with 413. Not set: 1Gi, or WHISPER_MAX_STORED_BYTES
    if that is less."""

    max_audio_seconds: Annotated[int, Field(gt=0)] = 86_400
    """The longest accepted audio, in seconds; longer audio gets 422."""

    max_stored_bytes: Bytes = 10 * 2**30
    """How much audio all stored jobs together may take; further uploads get 429."""

    max_waiting: Annotated[int, Field(ge=0)] = 100
    """How many clients may wait for a result at the same time; others get 429. POST /jobs does not wait. The
    unfinished uploads of one API key may take half of these places."""

    max_wait: Span = timedelta(minutes=10)
    """How long a client waits for its result before it gets 503 with the location of its job, which continues."""

    retry_window: Span = timedelta(seconds=60)
    """How long the job of a client that lost its connection goes on. The same request by the same key joins the job
    within this time, while it runs or when it has just succeeded, also without an Idempotency-Key. 0s: the job is
    cancelled at once."""

    drain: Span = timedelta()
    """How long a server that is stopped (SIGTERM, Ctrl-C) may take to finish accepted work and to wait for clients to
    collect the results; new work gets 503 meanwhile. A second signal stops it immediately. Unfinished jobs continue
    after the next start."""

    job_retention: Duration = timedelta(hours=24)
    """How long a finished job and its result are kept."""

    api_keys_file: Path | None = None
    """A YAML file of API keys (see below), reread when it changes. Not set: every client may do everything."""

    metrics_auth: Literal["none", "key"] = "none"
    """Whether /metrics requires an API key: none or key."""

    database_url: str | None = None
    """The database of jobs: sqlite:/// and a path. Not set: jobs.sqlite3 in WHISPER_DATA_DIR."""

    object_store_url: str | None = None
    """The store for audio: file:/// and a folder, or another store that obstore supports. Not set: the folder audio in
    WHISPER_DATA_DIR."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments only: load_settings picks the environment and filters the names in it."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _cap_file_size_to_total(cls, given: dict[str, object]) -> dict[str, object]:
        """Apply a limit for all files to each file if there is no other."""
        stored = given.get("max_stored_bytes")
        with suppress(QuantityError):
            stored = _bytes(stored)
        if not isinstance(stored, int) or "max_audio_bytes" in given:
            return given
        return {**given, "max_audio_bytes": min(stored, _DEFAULT_MAX_FILE)}

    @field_validator("database_url")
    @classmethod
    def _sqlite(cls, url: str | None) -> str | None:
        if url is None or (_SQLITE_FILE.fullmatch(url) and ":memory:" not in url):
            return url
        raise ValueError("only SQLite files are supported: use sqlite:/// and a path, such as sqlite:////srv/jobs.db")

    @field_validator("object_store_url")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        if url is None or re.match(r"(?!memory:)[a-z][a-z0-9+.-]*://", url):
            return url
        raise ValueError("use the URL of a persistent store, such as file:///srv/audio")

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.max_audio_bytes > self.max_stored_bytes:
            raise ValueError(
                "WHISPER_MAX_AUDIO_BYTES must not exceed WHISPER_MAX_STORED_BYTES: the file would never fit"
            )
        return self

    @property
    def database(self) -> str:
        """The URL for SQLAlchemy's engine."""
        path = self.data_dir / "jobs.sqlite3"
        if self.database_url and (match := _SQLITE_FILE.fullmatch(self.database_url)):
            path = Path(match[1])
        return f"sqlite:///{path.absolute()}"


class Settings(CommonSettings):
    """The settings of one server."""

    model: str = "base"
    """The Whisper model: tiny, base, small, medium (each also as .en), large-v1, large-v2, large-v3, large, turbo, and
    distil-* with faster-whisper."""

    engine: Engine = Engine.OPENAI_WHISPER
    """The library that runs the model: openai-whisper or faster-whisper."""

    device: Device | None = None
    """cuda or cpu. Not set: the GPU if there is one."""

    compute_type: ComputeType | None = None
    """float32, float16 (on cuda) or int8 (with faster-whisper). Not set: the best for the device."""

    preload_model: bool = True
    """true: load the model at the start; false: with the first request. A failed load never stops the server."""

    model_path: Path | None = None
    """A checkpoint on this machine: a .pt file for openai-whisper, a CTranslate2 folder for faster-whisper. Not set:
    the official checkpoint, downloaded once and verified."""

    model_sha256: Annotated[str, AfterValidator(_digest)] | None = None
    """The expected SHA-256 of WHISPER_MODEL_PATH: of the .pt file, or of model.bin in the folder. If it differs, the
    load fails. Not set: not verified."""

    model_file: Path | None = None
    """A WhisperModel in YAML or JSON that this server follows without an operator: model, schedule, idle times. It is
    reread when it changes, and overrides the other model settings, WHISPER_PRELOAD_MODEL, WHISPER_UNLOAD_AFTER and the
    limits that its queue sets. Not set: the settings apply."""

    cache_dir: Path = Field(default_factory=lambda: default_cache_dir(os.environ))
    """The folder for downloaded and converted checkpoints, which may be emptied at any time. Not set: whisper-operator
    in XDG_CACHE_HOME, or in ~/.cache."""

    unload_after: Duration | None = None
    """Idle time after which the model is unloaded. After the same time again, the process that is kept warm for the
    next load exits as well. Not set: never."""

    @field_validator("model")
    @classmethod
    def _canonical(cls, model: str) -> str:
        return canonical_size(model)

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        problems = conflicts(find_size(self.model), self.engine, device=self.device, compute_type=self.compute_type)
        if self.model_sha256 and self.model_path is None:
            problems.append(
                "WHISPER_MODEL_SHA256 requires WHISPER_MODEL_PATH: official checkpoints are always verified"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self


SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def load_settings(environ: Mapping[str, str], *, dotenv: Path | None = Path(".env")) -> Settings:
    """Return the server's settings. Raises SettingsError."""
    return load(Settings, environ, dotenv=dotenv)


def load(kind: type[SettingsT], environ: Mapping[str, str], *, dotenv: Path | None = Path(".env")) -> SettingsT:
    """Return the settings of an environment, which overrides the file .env. An empty value counts as not set.

    Raises SettingsError for unknown names and invalid values.
    """
    file: Mapping[str, str | None] = _read_dotenv(kind, dotenv) if dotenv else {}
    given = {name.upper(): value for name, value in (*file.items(), *environ.items()) if value}
    ours = {
        name: value for name, value in given.items() if name.startswith(PREFIX) and not _is_service_link(name, value)
    }
    known = setting_names(kind)
    if unknown := [unknown_setting(name, known, prefix=PREFIX) for name in sorted(ours.keys() - known)]:
        raise SettingsError(unknown)
    source = EnvSettingsSource(kind)
    source.env_vars = {name.lower(): value for name, value in ours.items()}
    defaults = {"cache_dir": default_cache_dir(environ)} if "cache_dir" in kind.model_fields else {}
    try:
        return kind.model_validate(defaults | source())
    except ValidationError as error:
        # Pydantic's message may include a value, and a URL may contain a password: suppress the chained traceback too.
        raise SettingsError([_sentence(problem) for problem in error.errors()]) from None


def _read_dotenv(kind: type[CommonSettings], dotenv: Path) -> Mapping[str, str | None]:
    try:
        return DotEnvSettingsSource(kind, env_file=dotenv).env_vars
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"The file {dotenv} cannot be read: {error}."]) from None


def setting_names(kind: type[CommonSettings] = Settings) -> set[str]:
    """Return the names of all settings, as environment variables."""
    return {PREFIX + field.upper() for field in kind.model_fields}


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or (_SERVICE_URL_NAME.fullmatch(name) and _SERVICE_URL.match(value)))


def _sentence(problem: ErrorDetails) -> str:
    reason = problem["msg"].removeprefix("Value error, ").rstrip(".")
    if not problem["loc"]:
        return f"The settings conflict: {reason}."
    name = PREFIX + str(problem["loc"][0]).upper()
    shown = "" if name.endswith("_URL") or problem["type"] == "value_error" else f" (got {problem['input']!r})"
    return f"{name}: {reason}{shown}."
