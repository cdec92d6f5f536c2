"""The composition root of a gateway without a cluster: the models of a folder, each in a process of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from whisper_cluster.errors import PodUnreachable
from whisper_cluster.objects import Pod
from whisper_cluster.pod_http import AiohttpTransport, pod_http
from whisper_inference.engines.limits import total_memory
from whisper_inference.execution import Slot
from whisper_inference.fleet.demand import BRIDGE_SECONDS
from whisper_inference.fleet.fleet import Fleet
from whisper_inference.fleet.local.controller import LocalFleet
from whisper_inference.fleet.local.declared import DeclaredDemand
from whisper_inference.fleet.local.folder import ModelFolder
from whisper_inference.fleet.local.publication import Publication
from whisper_inference.fleet.pod_slot import pod_slot
from whisper_inference.fleet.settings import GatewaySettings
from whisper_inference.service.gateway import Gateway, make_gateway, serving
from whisper_inference.service.stored_jobs import StoredJobs
from whispermodel.key import Key

_BUDGET_SHARE = 0.8
"""Of the machine's memory, where no budget is set: the rest is for uploads, the page cache and other programs."""

_FIRST_LOOK_SECONDS = 10.0
"""After this, requests get 503 until the folder is read."""


@asynccontextmanager
async def running_local_gateway(settings: GatewaySettings, folder: Path) -> AsyncGenerator[Gateway]:
    """Run a gateway to the models of a folder; leaving the block ends their servers.

    The caller holds the data folder's lock. Raises ManifestError, DataFolderTooNew, StorageUnusable.
    """
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(pod_http())
        fleet, demand, slots = Fleet(), DeclaredDemand(), _LocalSlots(http)
        # Declarations are free here, and whoever waits for memory waits for the end of this one's demand.
        gateway = make_gateway(settings, fleet, declares=demand, open_slot=slots.of, linger_seconds=BRIDGE_SECONDS)
        budget = settings.memory_budget or int(_BUDGET_SHARE * total_memory())
        local = LocalFleet(
            folder=ModelFolder(folder),
            settings=settings,
            budget=budget,
            demand=demand,
            publication=Publication(fleet),
            pool=gateway.pool,
            http=http,
        )
        local.folder.read()
        _connect(local, slots, fleet=fleet, demand=demand)
        gateway.sources = (local,)
        await stack.enter_async_context(serving(gateway))
        # The folder is read within milliseconds: the first requests wait for it in the socket's backlog.
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_SECONDS):
                await local.synced.wait()
        yield gateway


def _connect(local: LocalFleet, slots: _LocalSlots, *, fleet: Fleet, demand: DeclaredDemand) -> None:
    """Let the control loop know of new demand and of servers that are given back."""
    slots.local, demand.on_change = local, local.wake
    report = fleet.on_change

    def note_change(key: Key) -> None:
        report(key)
        local.wake()

    fleet.on_change = note_change


@dataclass(slots=True)
class _LocalSlots:
    """Opens slots of the servers of this machine."""

    http: AiohttpTransport
    """How they are reached."""
    local: LocalFleet | None = None
    """Knows where they listen."""
    stored: StoredJobs | None = None
    """Has the audio of the jobs."""

    def of(self, stored: StoredJobs) -> _LocalSlots:
        """Return this, for jobs with their audio in a store."""
        self.stored = stored
        return self

    @asynccontextmanager
    async def __call__(self, pod: Pod) -> AsyncGenerator[Slot]:
        """Lend the slot of a server. Raises PodUnreachable, and what pod_slot raises."""
        assert self.local is not None
        assert self.stored is not None
        address = self.local.address_of(pod)
        if address is None:
            raise PodUnreachable(f"{pod.metadata.name} does not listen any more")
        async with pod_slot(self.http, address, spool=self.stored.spool) as slot:
            self.local.note_granted(pod)
            yield slot
