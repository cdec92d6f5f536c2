"""The running operator: watches from the start, and reconciles while it leads."""

from __future__ import annotations

import asyncio
import errno
import resource
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType
from typing import cast

import kopf
import structlog
from prometheus_client import start_http_server

from whisper_cluster.api import Cluster, connected_cluster
from whisper_cluster.cache import Store
from whisper_cluster.names import OPERATOR
from whisper_cluster.pod_http import pod_http
from whisper_cluster.pods import PodClient
from whisper_cluster.resync import Resync
from whisper_operator import __version__
from whisper_operator.errors import PortUnavailable, WatchFailed
from whisper_operator.reconcile.calls_in_progress import PodCalls
from whisper_operator.reconcile.events import Recorder
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.reconcile.pod_keys import PodKeys
from whisper_operator.reconcile.reconciler import Dependencies, Reconciler
from whisper_operator.resources.deployment import Defaults
from whisper_operator.runtime import watches
from whisper_operator.runtime.leader_election import Leadership
from whisper_operator.runtime.metrics import Metrics
from whisper_operator.runtime.work_queue import WorkQueue
from whisper_operator.runtime.workers import Workers
from whisper_operator.settings import Settings
from whispermodel.key import Key

log = structlog.stdlib.get_logger(__name__)

_KOPF = str(Path(kopf.__file__).parent)
_SWITCH_SECONDS = 0.0005
"""A tenth of Python's default: reconciling a woken model takes a dozen turns of the event loop."""


async def run(settings: Settings) -> None:
    """Run until a signal. Raises LeadershipLost, ClusterError, CrdMissing, PortUnavailable, WatchFailed."""
    asyncio.get_running_loop().set_exception_handler(log_unless_from_kopf)
    raise_open_files_limit()
    queue: WorkQueue[Key] = WorkQueue()
    model_metrics = ModelMetrics()
    metrics = Metrics(model_metrics=model_metrics, queue_depth=lambda: len(queue))
    async with (
        _serving(metrics, port=settings.metrics_port),
        connected_cluster(
            metrics, field_manager=OPERATOR, user_agent=f"{OPERATOR}/{__version__} ({settings.identity})"
        ) as cluster,
        pod_http() as http,
    ):
        await cluster.require_crd()
        leadership = Leadership(
            cluster, namespace=settings.lease_namespace, name=settings.lease_name, identity=settings.identity
        )
        operator = _Operator(
            settings,
            leadership,
            queue=queue,
            model_metrics=model_metrics,
            metrics=metrics,
            cluster=cluster.fenced(leadership.may_act),
            pods=PodClient(http, may_act=leadership.may_act),
        )
        await operator.run()


class _Operator:
    def __init__(
        self,
        settings: Settings,
        leadership: Leadership,
        *,
        queue: WorkQueue[Key],
        model_metrics: ModelMetrics,
        metrics: Metrics,
        cluster: Cluster,
        pods: PodClient,
    ) -> None:
        self._settings = settings
        self._leadership = leadership
        self._metrics = metrics
        self._cluster = cluster
        self._store = Store.empty()
        self._queue = queue
        self._pod_calls = PodCalls(pods, on_outcome=queue.add)
        dependencies = Dependencies(
            store=self._store,
            cluster=cluster,
            pods=pods,
            pod_calls=self._pod_calls,
            pod_keys=PodKeys(cluster),
            recorder=Recorder(cluster, instance=settings.identity),
            model_metrics=model_metrics,
            defaults=Defaults(settings.image, settings.image_pull_policy, settings.pod_defaults),
            allow_from=settings.allow_from,
            clock=_now,
        )
        self._workers = Workers(queue, Reconciler(dependencies), metrics, _now)
        self._resync = Resync(cluster, self._store, settings.namespaces, queue.add, every=settings.resync_seconds)

    async def run(self) -> None:
        """Run until a signal, or until a part fails."""
        watching = asyncio.create_task(self._watch(), name="watch")
        reconciling = asyncio.create_task(self._reconcile(), name="reconcile")
        tasks = [watching, asyncio.create_task(self._leadership.run(), name="lead"), reconciling]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {watching}:
                if not task.cancelled():
                    task.result()
            # The others end without an error only if kopf cancels them, which it does before it raises its own error.
            await watching
        finally:
            for task in reversed(tasks):
                task.cancel()
            # kopf may take a while to stop; no call to a pod should continue meanwhile.
            await asyncio.wait([reconciling])
            await self._pod_calls.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
            # This replica does nothing any more, so another may lead.
            await self._leadership.release()

    async def _watch(self) -> None:
        """Watch with kopf, which also stops at SIGINT and SIGTERM."""
        port, namespaces = self._settings.health_port, self._settings.namespaces
        ready, stop = asyncio.Event(), asyncio.Event()
        signals = asyncio.create_task(_handle_signals(ready, stop))
        try:
            await kopf.operator(
                registry=watches.registry(self._store, on_seen=self._queue.add, stuck=self._workers.stuck),
                settings=watches.settings(),
                standalone=True,
                namespaces=namespaces,
                clusterwide=not namespaces,
                liveness_endpoint=f"http://0.0.0.0:{port}/healthz" if port else None,
                ready_flag=ready,
                stop_flag=stop,
            )
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortUnavailable(port, error, setting="WHISPER_OPERATOR_HEALTH_PORT") from error
            await self._cluster.require_crd()
            raise WatchFailed(f"the watch failed: {error}") from error
        finally:
            signals.cancel()

    async def _reconcile(self) -> None:
        await self._leadership.leading.wait()
        self._metrics.leads(1)
        await self._resync.until_done()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._workers.run(self._settings.workers))
            group.create_task(self._resync.run())


async def _handle_signals(ready: asyncio.Event, stop: asyncio.Event) -> None:
    """Replace the signal handlers of kopf 1.45, which logs an error at the second signal."""
    await ready.wait()
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_, stop.set)


def log_unless_from_kopf(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Handle an error that an event loop cannot raise: log it, unless it is from kopf's shutdown.

    kopf closes its watches all at once, and a watch that is yielding an event then fails (kopf 1.45, infinite_watch):
    an operator that stops amid many events would look broken. kopf logs each of its failed tasks, raises one, and
    never retrieves the errors of the others.
    """
    code = _code_of(context.get("asyncgen")) or _code_of(context.get("future"))
    if code is None or not code.co_filename.startswith(_KOPF):
        loop.default_exception_handler(context)


def _code_of(running: object) -> CodeType | None:
    match running:
        case asyncio.Task():
            return _code_of(cast("asyncio.Task[object]", running).get_coro())
        case AsyncGeneratorType():
            return running.ag_code
        case CoroutineType():
            return running.cr_code
        case _:
            return None


def raise_open_files_limit() -> None:
    """Raise the limit of open files to its maximum: each pod that loads needs one, and the default is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def _serving(metrics: Metrics, *, port: int) -> AsyncGenerator[None]:
    """Serve the metrics in a thread of the library."""
    if not port:
        yield
        return
    # A scrape of a thousand models takes a second; the event loop waits for it by at most this interval at a time.
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        server, thread = start_http_server(port, registry=metrics.registry)
    except OSError as error:
        raise PortUnavailable(port, error, setting="WHISPER_OPERATOR_METRICS_PORT") from error
    try:
        yield
    finally:
        with suppress(RuntimeError):
            server.shutdown()
            server.server_close()
            thread.join(timeout=5)
