"""The Secret with the API keys of a namespace's pods: the operator's, one for clients, and the servers' key file."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import cast

from pydantic import JsonValue

from whisper_cluster.names import KEYS_SECRET, MANAGED_BY, OPERATOR

OPERATOR_ENTRY, CLIENT_ENTRY = "operator", "client"
FILE_ENTRY = "keys.yaml"


def keys_secret(namespace: str, *, operator: str, client: str) -> dict[str, JsonValue]:
    """Return the Secret: a key with the scope operator, one for clients, and the file with their digests."""
    known = [
        {"name": OPERATOR, "sha256": _digest(operator), "scopes": ["operator"]},
        {"name": CLIENT_ENTRY, "sha256": _digest(client), "scopes": ["use", "control"]},
    ]
    return {
        "metadata": {"name": KEYS_SECRET, "namespace": namespace, "labels": {MANAGED_BY: OPERATOR}},
        "type": "Opaque",
        "data": {
            OPERATOR_ENTRY: _encoded(operator),
            CLIENT_ENTRY: _encoded(client),
            # JSON is YAML.
            FILE_ENTRY: _encoded(json.dumps(known)),
        },
    }


def operator_key(secret: dict[str, object]) -> str | None:
    """Return the operator's key from a Secret; None: there is none that can be sent and that the servers accept."""
    data = cast("dict[str, str]", secret.get("data") or {})
    key, file = (base64.b64decode(data.get(entry, "")) for entry in (OPERATOR_ENTRY, FILE_ENTRY))
    known_to_servers = hashlib.sha256(key).hexdigest().encode() in file
    # A header must not contain a line break, which hand-made keys often end with.
    return key.decode() if known_to_servers and key and key.isascii() and key.decode().isprintable() else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
