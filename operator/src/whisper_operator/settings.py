"""The operator's settings: WHISPER_OPERATOR_* in the environment."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"


def _identity() -> str:
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


class Settings(BaseSettings):
    """Read once, at the start."""

    model_config = SettingsConfigDict(env_prefix="WHISPER_OPERATOR_", frozen=True)

    image: str = "whisper-inference:0.1.0"
    """Of the pods whose WhisperModel names none."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """The same for how it is pulled."""

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Whose WhisperModels are obeyed, separated by commas; none named: those of all namespaces."""

    workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Models that are worked on at once. Most of the time of each is spent waiting for an answer."""

    resync_seconds: Annotated[float, Field(ge=1)] = 300.0
    """Between two lists of everything, which find what a watch missed while it was cut off."""

    lease_namespace: str = Field(default_factory=_own_namespace)
    """Where the replicas agree on a leader. Default: the operator's own namespace."""

    lease_name: str = "whisper-operator"
    """The Lease by which they do; another one for each operator with namespaces of its own."""

    identity: str = Field(default_factory=_identity)
    """Of this replica, unique among all. Default: the host's name and a random part."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    """Of GET /metrics; 0: none."""

    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Of GET /healthz, which fails while the operator is stuck; 0: none."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: readable on a terminal, JSON elsewhere."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """From which level on."""

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
