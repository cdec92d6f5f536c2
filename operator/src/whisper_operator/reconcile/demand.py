"""The demand through Leases: when it ended, and whether the API server knows of demand that no watch has shown yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from pydantic import ValidationError

from whisper_cluster.api import LEASES, Cluster, JsonObject
from whisper_cluster.cache import Store, key_of
from whisper_cluster.leases import Lease
from whisper_cluster.names import MODEL_LABEL
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class DemandRecord:
    """The demand of one model's Leases. Changed when the model is observed.

    The status holds the result as idleSince from the moment the demand ends, so only a Lease that is deleted while no
    operator runs leaves no trace. That costs one load at most: a holder deletes its Lease when nobody waits any more.
    """

    ends: dict[str, datetime] = field(default_factory=dict[str, datetime])
    """When each Lease expires, or expired, by name, as seen last."""

    renewals: dict[str, datetime] = field(default_factory=dict[str, datetime])
    """When each Lease was renewed, by name, as seen last."""

    ended_at: datetime | None = None
    """When the demand of the last Lease that expired or was deleted ended; None: none has."""

    def record(self, leases: Iterable[Lease], now: datetime) -> None:
        """Record the Leases: one that is gone ended now unless it had expired before.

        One that was set back ended when its holder says, which may be seconds ago: holders of one request after another
        need not write for each. Before its last renewal it cannot have ended, and an earlier time counts as now.
        One that is there without a renewTime was withdrawn: what it asked for was in vain, as if it had never been.
        """
        known = tuple(leases)
        ends = {lease.metadata.name: end for lease in known if (end := lease.expires_at())}
        withdrawn = {lease.metadata.name for lease in known if lease.spec.renew_time is None}
        expired = [end for end in ends.values() if end <= now]
        counted = {name: end for name, end in self.ends.items() if name not in withdrawn}
        dated = {name for name, end in ends.items() if end >= self.renewals.get(name, end)}
        cut = [min(end, now) for name, end in counted.items() if ends.get(name, now) <= now and name not in dated]
        self.ended_at = max([*expired, *cut, *([self.ended_at] if self.ended_at else [])], default=None)
        self.ends = ends
        self.renewals = {lease.metadata.name: at for lease in known if (at := lease.spec.renew_time)}


@dataclass(frozen=True, slots=True)
class LatestLeases:
    """The Leases of models as they are at the API server, to look at before a model is unloaded or its pods end."""

    cluster: Cluster
    """The API server."""

    store: Store
    """The objects that the watches have shown."""

    async def are_news(self, key: Key) -> bool:
        """Store a model's Leases as they are now; return whether one of them is newer than the watch has shown.

        Raises ClusterError. Whoever acts on the Leases must not act then: without them, demand may be overlooked.
        """
        known = {key_of(lease) for lease in self.store.leases.of(key)}
        listed = await self.cluster.list_few(LEASES, key.namespace, labels=f"{MODEL_LABEL}={key.name}")
        # A Lease that the watch has removed since then was deleted after the list was made.
        left = [lease for lease in _readable(listed) if key_of(lease) not in known or self._is_known(lease)]
        news = [lease.metadata.name for lease in left if self.store.leases.put(lease)]
        if news:
            log.info("demand.seen_late", whispermodel=str(key), leases=news)
        return bool(news)

    def _is_known(self, lease: Lease) -> bool:
        return self.store.leases.get(key_of(lease)) is not None


def _readable(listed: Iterable[JsonObject]) -> Iterator[Lease]:
    """Yield the Leases that are valid: an invalid one must not keep a model loaded forever."""
    for one in listed:
        try:
            yield Lease.model_validate(one)
        except ValidationError as error:
            log.warning("lease.unreadable", reason=str(error))
