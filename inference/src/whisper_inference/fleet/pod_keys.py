"""The keys to the pods: the operator's own, from the Secret that it keeps in each namespace with models."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from whisper_cluster.api import SECRETS, Cluster
from whisper_cluster.errors import ClusterError
from whisper_cluster.names import KEYS_SECRET

_KEPT_SECONDS = 60.0
"""A key that was replaced is used for this long; its pods refuse it, and it is read again."""


@dataclass(slots=True)
class PodKeys:
    """Reads the Secret of each namespace when it is needed."""

    cluster: Cluster
    """The API server."""
    clock: Callable[[], float] = time.monotonic
    """Seconds that never step back."""
    _known: dict[str, tuple[float, str]] = field(default_factory=dict[str, tuple[float, str]])

    async def key_for(self, namespace: str) -> str:
        """Return the key to the pods of a namespace; during an outage the known one. Raises ClusterError."""
        read_at, key = self._known.get(namespace, (0.0, ""))
        if key and self.clock() < read_at + _KEPT_SECONDS:
            return key
        try:
            key = await self._read(namespace)
        except ClusterError:
            if not key:
                raise
        self._known[namespace] = self.clock(), key
        return key

    def forget(self, namespace: str) -> None:
        """Read the key again before it is next used: a pod has refused it."""
        self._known.pop(namespace, None)

    async def _read(self, namespace: str) -> str:
        secret = await self.cluster.get(SECRETS, namespace, KEYS_SECRET)
        data = cast("dict[str, str]", (secret or {}).get("data") or {})
        key = base64.b64decode(data.get(OPERATOR_ENTRY, "")).decode("ascii", "replace").strip()
        if not key:
            raise ClusterError(
                f"read Secret {namespace}/{KEYS_SECRET}", code=0, reason="it has no key for the pods yet"
            )
        return key


OPERATOR_ENTRY = "operator"
"""The entry of the Secret with the key that has the scope `operator`."""
