"""The stored jobs of one process: opened, recovered at the start, and swept."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from whisper_inference.execution import Executor
from whisper_inference.jobs.database import open_database
from whisper_inference.jobs.dispatcher import Dispatcher, JobMetrics
from whisper_inference.jobs.events import EventHub
from whisper_inference.jobs.job import StoredAudio
from whisper_inference.jobs.limits import Limits
from whisper_inference.jobs.quota import Quota
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.spool import Spool, open_store
from whisper_inference.jobs.store import JobStore
from whisper_inference.jobs.unfetched import UnfetchedResults
from whisper_inference.model_control import LoadOutcomes
from whisper_inference.settings import CommonSettings

log = structlog.stdlib.get_logger(__name__)

STORE_OUTCOME_SECONDS = 10.0
"""For storing what came of the running job, at the end: one transaction, on a disk that may be slow."""
_SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class StoredJobs:
    """Where jobs are stored, and who follows them."""

    store: JobStore
    """The durable queue."""
    spool: Spool
    """The stored audio."""
    hub: EventHub
    """Who follows a job."""
    unfetched: UnfetchedResults
    """Results that nobody has fetched yet."""

    @classmethod
    def open(cls, settings: CommonSettings) -> StoredJobs:
        """Open the stores of a data folder; its database connects at its first use. Raises StorageUnusable."""
        store = JobStore(database=open_database(settings.database), clock=now, new_token=new_token)
        audio = open_store(settings.data_dir / "audio", settings.object_store_url)
        quota = Quota(database=store.database, clock=now, limit_bytes=settings.max_stored_bytes)
        spool = Spool(audio, quota=quota, new_key=new_token)
        return cls(store, spool, EventHub(), UnfetchedResults())

    def dispatcher(
        self, executor: Executor, loads: LoadOutcomes, *, metrics: JobMetrics, max_audio_seconds: float
    ) -> Dispatcher:
        """Return what runs the jobs on an executor."""
        return Dispatcher(
            store=self.store,
            spool=self.spool,
            hub=self.hub,
            unfetched=self.unfetched,
            executor=executor,
            loads=loads,
            metrics=metrics,
            max_audio_seconds=max_audio_seconds,
            clock=now,
        )

    def service(self, dispatcher: Dispatcher, *, retry_window: timedelta) -> JobService:
        """Return the jobs as the API sees them."""
        return JobService(
            store=self.store,
            spool=self.spool,
            hub=self.hub,
            unfetched=self.unfetched,
            dispatcher=dispatcher,
            retry_window=retry_window,
        )

    async def recover(self, *, executors_live_on: bool = False) -> None:
        """Recover what an earlier process left: queue running jobs again, delete audio of no job.

        executors_live_on: whether the jobs ran in other processes, so that none of them can have ended this one.
        """
        store, spool = self.store, self.spool
        await store.prepare()
        if executors_live_on:
            await store.hand_back()
        recovered = await store.recover("the server exited while the job was running")
        orphans = await spool.delete_orphans(store.known_audio)
        requeued, failed = len(recovered.requeued), len(recovered.failed)
        if requeued or failed or orphans:
            log.info("jobs.recovered", requeued=requeued, failed=failed, orphans=len(orphans))

    async def sweep(self, retention: timedelta) -> None:
        """Delete finished jobs once their retention is over, until cancelled."""
        for _ in itertools.count():
            try:
                swept = await self.store.sweep(retention)
            except Exception:
                log.exception("jobs.sweep_failed")
            else:
                for audio in swept:
                    await self._delete_swept(audio)
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _delete_swept(self, audio: StoredAudio) -> None:
        try:
            await self.spool.delete(audio)
        except Exception:
            # The next start deletes what no job owns. Continue with the others.
            log.exception("jobs.audio_not_deleted", key=audio.key)


def limits_of(settings: CommonSettings) -> Limits:
    """Return what clients may ask for."""
    return Limits(
        max_waiting=settings.max_waiting,
        max_wait=settings.max_wait,
        max_audio_bytes=settings.max_audio_bytes,
        max_audio_seconds=settings.max_audio_seconds,
    )


def new_token() -> str:
    """Return a token never returned before."""
    return secrets.token_hex(16)


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)
