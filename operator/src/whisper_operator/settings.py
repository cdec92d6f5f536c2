"""The operator's settings: WHISPER_OPERATOR_* environment variables."""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from whispermodel.misspellings import unknown_setting
from whispermodel.spec import Pod

PREFIX = "WHISPER_OPERATOR_"
_FROM_SERVICES = re.compile(r"(^|_)(SERVICE|PORT)(_|$)")
"""Variables that Kubernetes adds for a Service named whisper-operator."""
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


_LABEL = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
_NAME = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
_Namespace = Annotated[str, Field(pattern=_LABEL, max_length=63)]


_PARTS_OF_PEER = {
    "podSelector": {"matchLabels", "matchExpressions"},
    "namespaceSelector": {"matchLabels", "matchExpressions"},
    "ipBlock": {"cidr", "except"},
}


def _peer(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if not value or set(value) - set(_PARTS_OF_PEER):
        raise ValueError("a peer must have podSelector, namespaceSelector or ipBlock, and nothing else")
    for name, part in value.items():
        if not isinstance(part, dict) or set(part) - _PARTS_OF_PEER[name]:
            raise ValueError(
                f"{name} may have {' and '.join(sorted(_PARTS_OF_PEER[name], reverse=True))}, and nothing else"
            )
    return value


_Peer = Annotated[dict[str, JsonValue], AfterValidator(_peer)]


def _json_of(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _without_image(value: Pod) -> Pod:
    if value.image or value.image_pull_policy:
        raise ValueError("image and imagePullPolicy have settings of their own")
    return value


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"


def _identity() -> str:
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


class Settings(BaseSettings):
    """Read once, when the operator starts."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    image: str = "whisper-inference:0.1.0"
    """The image of pods whose WhisperModel sets none."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """The imagePullPolicy of pods whose WhisperModel sets none."""

    pod_defaults: Annotated[Pod, NoDecode, AfterValidator(_without_image)] = Pod()
    """Fields of spec.pod for WhisperModels that do not set them, as JSON, such as {"nodeSelector": {"gpu": "yes"}}."""

    namespaces: Annotated[tuple[_Namespace, ...], NoDecode] = ()
    """The namespaces whose WhisperModels are managed, separated by commas. Not set: all namespaces."""

    allow_from: Annotated[tuple[_Peer, ...] | None, NoDecode] = None
    """Who may connect to the pods of models, as a JSON list of NetworkPolicyPeers: each model gets a NetworkPolicy. The
    list must include the operator's own pods. Not set: no policy."""

    workers: Annotated[int, Field(ge=1, le=512)] = 64
    """How many models are reconciled at once. Each spends most of its time waiting for responses."""

    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """How often everything is listed, to find what a watch missed while it was disconnected."""

    lease_namespace: Annotated[str, Field(pattern=_LABEL, max_length=63)] = Field(default_factory=_own_namespace)
    """The namespace of the leader election Lease. Default: the operator's own namespace."""

    lease_name: Annotated[str, Field(pattern=_NAME, max_length=253)] = "whisper-operator"
    """The name of the leader election Lease. Operators with different namespaces need different Leases."""

    identity: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=253)] = Field(default_factory=_identity)
    """The unique name of this replica. Default: the host name and a random suffix."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    """The port of GET /metrics; 0: none."""

    health_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port of GET /healthz, which fails while the operator is stuck; 0: none."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: text on a terminal, JSON elsewhere."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged."""

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("allow_from", "pod_defaults", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return _json_of(value) if isinstance(value, str) else value


def misspelt(names: Iterable[str]) -> list[str]:
    """Return a sentence for each environment variable that looks like a setting but is not known."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    unknown = [name for name in names if name.startswith(PREFIX) and name not in known]
    misspelt_names = sorted(name for name in unknown if not _FROM_SERVICES.search(name.removeprefix(PREFIX)))
    return [unknown_setting(name, known, prefix=PREFIX) for name in misspelt_names]
