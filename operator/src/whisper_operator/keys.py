"""The operator's own keys to the pods, one for each namespace that holds WhisperModels."""

from __future__ import annotations

import asyncio
import secrets

from whisper_operator.cluster import SECRETS, Cluster
from whisper_operator.names import KEYS_SECRET
from whisper_operator.resources.keys import keys_secret, operator_key


class Keys:
    """Reads each namespace's Secret once, and makes it where there is none."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, str] = {}
        self._reading = asyncio.Lock()

    async def key_for(self, namespace: str) -> str:
        """Return the key to the pods of a namespace. Raises ClusterError."""
        if namespace not in self._known:
            # Two workers that both found no Secret would each make a key, and keep one that the other overwrote.
            async with self._reading:
                if namespace not in self._known:
                    self._known[namespace] = await self._read_or_make(namespace)
        return self._known[namespace]

    async def _read_or_make(self, namespace: str) -> str:
        key = operator_key(await self._cluster.get(SECRETS, namespace, KEYS_SECRET) or {})
        if key is None:
            key = secrets.token_urlsafe(32)
            await self._cluster.apply(SECRETS, keys_secret(namespace, key))
        return key
