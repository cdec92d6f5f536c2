"""The operator's settings: WHISPER_OPERATOR_* in the environment."""

from __future__ import annotations

import difflib
import json
import re
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from whispermodel.spec import Pod

PREFIX = "WHISPER_OPERATOR_"
_FROM_SERVICES = re.compile(r"(^|_)(SERVICE|PORT)(_|$)")
"""What Kubernetes adds for a Service named whisper-operator."""
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
        raise ValueError("a peer has podSelector, namespaceSelector or ipBlock, and nothing else")
    for name, part in value.items():
        if not isinstance(part, dict) or set(part) - _PARTS_OF_PEER[name]:
            raise ValueError(f"{name} has {' and '.join(sorted(_PARTS_OF_PEER[name], reverse=True))}, and nothing else")
    return value


_Peer = Annotated[dict[str, JsonValue], AfterValidator(_peer)]


def _json_of(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("this is nested too deeply to be read") from None


def _without_image(value: Pod) -> Pod:
    if value.image or value.image_pull_policy:
        raise ValueError("the image and how it is pulled have settings of their own")
    return value


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return "default"


def _identity() -> str:
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


class Settings(BaseSettings):
    """Read once, at the start."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    image: str = "whisper-inference:0.1.0"
    """Of the pods whose WhisperModel names none."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """The same for how it is pulled."""

    pod_defaults: Annotated[Pod, NoDecode, AfterValidator(_without_image)] = Pod()
    """What spec.pod says where a WhisperModel says nothing, as JSON, such as {"nodeSelector": {"gpu": "yes"}}."""

    namespaces: Annotated[tuple[_Namespace, ...], NoDecode] = ()
    """Whose WhisperModels are obeyed, separated by commas; none named: those of all namespaces."""

    allow_from: Annotated[tuple[_Peer, ...] | None, NoDecode] = None
    """Who may reach the pods of models, as a JSON list of NetworkPolicyPeers: each model gets a NetworkPolicy. It must
    name the operator's own pods. Not set: no policy."""

    workers: Annotated[int, Field(ge=1, le=512)] = 64
    """Models that are worked on at once. Most of the time of each is spent waiting for an answer."""

    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """Between two lists of everything, which find what a watch missed while it was cut off."""

    lease_namespace: Annotated[str, Field(pattern=_LABEL, max_length=63)] = Field(default_factory=_own_namespace)
    """Where the replicas agree on a leader. Default: the operator's own namespace."""

    lease_name: Annotated[str, Field(pattern=_NAME, max_length=253)] = "whisper-operator"
    """The Lease by which they do; another one for each operator with namespaces of its own."""

    identity: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=253)] = Field(default_factory=_identity)
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

    @field_validator("allow_from", "pod_defaults", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return _json_of(value) if isinstance(value, str) else value


def misspelt(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name of the environment that looks like a setting and is none."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    unknown = [name for name in names if name.startswith(PREFIX) and name not in known]
    wrong = sorted(name for name in unknown if not _FROM_SERVICES.search(name.removeprefix(PREFIX)))
    return [f"{name} is no setting{_hint(name, known)}" for name in wrong]


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f": {near[0]} is the nearest" if near else ": docs/settings.md lists them"
