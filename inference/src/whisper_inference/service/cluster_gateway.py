"""The gateway of a cluster: WhisperModels and pods by watches, demand by Leases."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version

from whisper_cluster.api import PODS, WHISPER_MODELS, Cluster, connected_cluster
from whisper_cluster.errors import ClusterError, PodRefused
from whisper_cluster.names import MODEL_LABEL
from whisper_cluster.objects import Pod, WhisperModelObject
from whisper_cluster.pod_http import AiohttpTransport, pod_http
from whisper_cluster.pods import Address
from whisper_cluster.watch import Follower
from whisper_inference.errors import ClusterUnreachable
from whisper_inference.execution import Slot
from whisper_inference.fleet.fleet import Fleet
from whisper_inference.fleet.leases import GATEWAY, DemandLeases
from whisper_inference.fleet.pod_keys import PodKeys
from whisper_inference.fleet.pod_slot import pod_slot
from whisper_inference.fleet.settings import GatewaySettings
from whisper_inference.service.gateway import Gateway, make_gateway, serving
from whisper_inference.service.stored_jobs import StoredJobs


class NoCounter:
    """Counts no requests to the API server: the operator's metric is about the operator."""

    def counted(self, verb: str, resource: str, code: int) -> None:
        """Do nothing."""


@asynccontextmanager
async def running_gateway(settings: GatewaySettings) -> AsyncGenerator[Gateway]:
    """Run a gateway; leaving the block puts running jobs back into the queue and closes the store.

    The caller holds the data folder's lock. Raises DataFolderTooNew, StorageUnusable, ClusterUnreachable.
    """
    user_agent = f"{GATEWAY}/{version('whisper-inference')} ({settings.gateway_id})"
    manager = f"{GATEWAY}-{settings.gateway_id}"
    async with AsyncExitStack() as stack:
        connecting = connected_cluster(NoCounter(), field_manager=manager, user_agent=user_agent)
        try:
            cluster = await stack.enter_async_context(connecting)
        except ClusterError as error:
            raise ClusterUnreachable(reason=error.reason) from None
        http = await stack.enter_async_context(pod_http())
        fleet, keys = Fleet(), PodKeys(cluster)
        gateway = make_gateway(
            settings,
            fleet,
            declares=DemandLeases(cluster, fleet, settings.gateway_id),
            open_slot=lambda stored: _PodSlots(http, keys, stored),
            # Otherwise the first job would wait for this once its pod is ready.
            prepare=lambda key: keys.key_for(key.namespace),
        )
        gateway.sources = tuple(_followers(cluster, fleet, settings.namespaces))
        yield await stack.enter_async_context(serving(gateway))


def _followers(
    cluster: Cluster, fleet: Fleet, namespaces: tuple[str, ...]
) -> Iterator[Follower[Pod] | Follower[WhisperModelObject]]:
    for namespace in namespaces or (None,):
        yield Follower(
            cluster=cluster,
            kind=WHISPER_MODELS,
            type=WhisperModelObject,
            namespace=namespace,
            objects=fleet.models,
            on_change=fleet.note_change,
        )
        yield Follower(
            cluster=cluster,
            kind=PODS,
            type=Pod,
            namespace=namespace,
            labels=MODEL_LABEL,
            objects=fleet.pods,
            on_change=fleet.note_change,
        )


@dataclass(frozen=True, slots=True)
class _PodSlots:
    """Opens slots of pods."""

    http: AiohttpTransport
    keys: PodKeys
    stored: StoredJobs

    @asynccontextmanager
    async def __call__(self, pod: Pod) -> AsyncGenerator[Slot]:
        namespace = pod.metadata.namespace
        address = Address(pod.status.pod_ip, await self.keys.key_for(namespace))
        async with AsyncExitStack() as stack:
            try:
                slot = await stack.enter_async_context(pod_slot(self.http, address, spool=self.stored.spool))
            except PodRefused as refused:
                if refused.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                    self.keys.forget(namespace)
                raise
            yield slot
