"""The gateway's settings."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from whisper_inference.settings import Bytes, CommonSettings, default_cache_dir

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return "default"


def _names(value: object) -> object:
    return tuple(name for part in value.split(",") if (name := part.strip())) if isinstance(value, str) else value


class GatewaySettings(CommonSettings):
    """The settings of one gateway."""

    namespace: str = Field(default_factory=_own_namespace, min_length=1)
    """The namespace whose models are named without it. Not set: the one that the gateway's pod is in."""

    namespaces: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ()
    """The namespaces whose WhisperModels are served, separated by commas. Not set: all."""

    gateway_id: str = Field(default_factory=socket.gethostname, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    """This gateway's name in its demand Leases, the same after a restart. Not set: the host's name."""

    model_file: Path | None = None
    """A folder of WhisperModels, one in each YAML or JSON file, that are served on this machine without a cluster: a
    server process for each. Not set: the cluster's WhisperModels."""

    memory_budget: Bytes | None = None
    """With WHISPER_MODEL_FILE: how much of the machine's memory all models together may hold. Not set: 80 % of it, or
    of what its cgroup allows."""

    cache_dir: Path = Field(default_factory=lambda: default_cache_dir(os.environ))
    """With WHISPER_MODEL_FILE: the folder for downloaded and converted checkpoints, which may be emptied at any time.
    Not set: whisper-operator in XDG_CACHE_HOME, or in ~/.cache."""
