"""The API keys of the pods, the operator's and the clients', in each namespace with WhisperModels."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from pydantic import JsonValue

from whisper_cluster.api import SECRETS, Cluster
from whisper_cluster.errors import ClusterError
from whisper_cluster.names import KEYS_SECRET, MANAGED_BY, OPERATOR
from whisper_cluster.objects import Metadata
from whisper_operator.errors import NameTaken
from whisper_operator.resources.keys_secret import FILE_ENTRY, OPERATOR_ENTRY, keys_secret, operator_key

_REREAD_AFTER = 60.0
"""Seconds. Somebody may delete the Secret, or recreate the namespace, and no pod starts without the Secret."""
_REREAD_WITHIN = 2.0
_FORGET_AFTER = 3600.0
"""Seconds. A namespace that still has a model is asked about long before that."""


class SecretTaken(NameTaken):
    """The Secret belongs to somebody else and is incomplete; it may hold the keys of clients."""

    def __init__(self) -> None:
        reason = (
            f"Secret '{KEYS_SECRET}' belongs to somebody else and was left unchanged, but its entry '{FILE_ENTRY}' "
            f"lacks the key in its entry '{OPERATOR_ENTRY}': add the key, or delete the Secret, and the operator "
            "creates a new one"
        )
        ClusterError.__init__(self, f"apply Secret {KEYS_SECRET}", code=409, reason=reason)


class PodKeys:
    """Reads the Secret of each namespace regularly, and creates it where there is none."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._known: dict[str, str] = {}
        self._read_at: dict[str, float] = {}
        self._refused: dict[str, tuple[float, ClusterError]] = {}
        self._reading = asyncio.Lock()

    async def key_for(self, namespace: str) -> str:
        """Return the key to the pods of a namespace. Raises ClusterError."""
        if namespace not in self._known:
            # Two workers that both find no Secret would each create a key, and one would use an overwritten key.
            async with self._reading:
                if namespace not in self._known:
                    self._forget_idle()
                    self._known[namespace] = await self._read_or_create(namespace)
        elif self._clock() >= self._read_at[namespace] + _REREAD_AFTER:
            await self._reread(namespace)
        return self._known[namespace]

    async def _reread(self, namespace: str) -> None:
        """Read the Secret again, while others carry on with the known key; during an outage, so does this caller."""
        self._read_at[namespace] = self._clock()
        try:
            async with asyncio.timeout(_REREAD_WITHIN):
                self._known[namespace] = await self._read_or_create(namespace)
        except TimeoutError:
            pass
        except ClusterError as error:
            if error.is_refusal:
                raise

    def _forget_idle(self) -> None:
        """Forget namespaces whose models are gone."""
        now = self._clock()
        for namespace in [name for name, at in self._read_at.items() if now >= at + _FORGET_AFTER]:
            del self._read_at[namespace], self._known[namespace]
        self._refused = {name: one for name, one in self._refused.items() if now < one[0] + _REREAD_AFTER}

    async def _read_or_create(self, namespace: str) -> str:
        there = await self._cluster.get(SECRETS, namespace, KEYS_SECRET)
        key = operator_key(there or {})
        if key is None:
            if there and Metadata.model_validate(there["metadata"]).labels.get(MANAGED_BY) != OPERATOR:
                raise SecretTaken
            key = secrets.token_urlsafe(32)
            await self._create(keys_secret(namespace, operator=key, client=secrets.token_urlsafe(32)), namespace)
        self._read_at[namespace] = self._clock()
        return key

    async def _create(self, secret: dict[str, JsonValue], namespace: str) -> None:
        """Apply the Secret. A Secret that was refused is not sent again at every reconciliation."""
        refused_at, refusal = self._refused.get(namespace, (0.0, None))
        if refusal is not None and self._clock() < refused_at + _REREAD_AFTER:
            raise refusal
        try:
            await self._cluster.apply(SECRETS, secret)
        except ClusterError as error:
            if error.is_refusal:
                self._refused[namespace] = self._clock(), error
            raise
