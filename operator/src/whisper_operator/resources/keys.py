"""The Secret with the operator's own key to the pods of a namespace: the key itself, and the servers' key file."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import cast

from pydantic import JsonValue

from whisper_operator.names import KEYS_SECRET, MANAGED_BY, OPERATOR

KEY_ENTRY = "operator"
FILE_ENTRY = "keys.yaml"


def keys_secret(namespace: str, key: str) -> dict[str, JsonValue]:
    """Return the Secret: a key of scope operator, and the file by which servers know its digest."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    # JSON is YAML.
    entries = json.dumps([{"name": OPERATOR, "sha256": digest, "scopes": ["operator"]}])
    return {
        "metadata": {"name": KEYS_SECRET, "namespace": namespace, "labels": {MANAGED_BY: OPERATOR}},
        "type": "Opaque",
        "data": {KEY_ENTRY: _encoded(key), FILE_ENTRY: _encoded(entries)},
    }


def operator_key(secret: dict[str, object]) -> str | None:
    """Return the operator's key out of a Secret; None: it lacks one that can be sent, and that the servers know."""
    data = cast("dict[str, str]", secret.get("data") or {})
    key, file = (base64.b64decode(data.get(entry, "")) for entry in (KEY_ENTRY, FILE_ENTRY))
    known_to_servers = hashlib.sha256(key).hexdigest().encode() in file
    # What stands in a header has no line's end, which people's own keys often carry.
    return key.decode() if known_to_servers and key and key.isascii() and key.decode().isprintable() else None


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
