"""The API process's side of the zygote and its workers: starts them, exchanges messages, ends and reaps them.

Every process that is started here is reaped here. "Gone" always means reaped, never merely signalled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from whisper_inference.engines.base import ModelSpec
from whisper_inference.errors import error_of
from whisper_inference.execution import ExecutorLost, Finished, Message, Refused, RunEvent, Stopped
from whisper_inference.worker import protocol

IMPORT_SECONDS = 180.0
"""Deadline for a zygote's imports: a hundred times the usual duration, for a cold disk."""
REAP_SECONDS = 30.0
"""Deadline for reaping a killed process: the driver may have to free a GPU's memory first."""
_MESSAGES_BUFFERED = 1024

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a process counts as hung."""

    silent_seconds: float = 30.0
    """A worker without a heartbeat, or a zygote that does not fork."""
    stuck_seconds: float = 120.0
    """A worker that runs a job without using any CPU time."""


class Worker:
    """One forked process with one model; belongs to the zygote that forked it."""

    def __init__(
        self,
        pid: int,
        *,
        exited: asyncio.Future[int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        kill: Callable[[int], None],
        liveness: Liveness,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.phases: dict[str, float] = {}
        self.gpu_bytes = (0, 0)
        self.exited = exited
        self._ready: asyncio.Future[protocol.Ready] = loop.create_future()
        self._messages: asyncio.Queue[protocol.OfJob] = asyncio.Queue(_MESSAGES_BUFFERED)
        self._reader = reader
        self._writer = writer
        self._kill = kill
        self._killed_because: tuple[str, str] | None = None
        self._liveness = liveness
        self._beat_at = self._cpu_moved_at = loop.time()
        self._cpu_seconds = 0.0
        self._oom_kills = oom_kills()
        self._listening = asyncio.create_task(self._listen())
        self._watching = asyncio.create_task(self._watch())
        self._running = False

    async def ready(self) -> protocol.Ready:
        """Wait until the model is in memory. Raises ServiceError or ExecutorLost; a download may take hours; a
        missing heartbeat ends a hang."""
        return await asyncio.shield(self._ready)

    async def run(self, order: protocol.Transcribe) -> AsyncGenerator[RunEvent]:
        """Yield the worker's messages about one job; the last one is Finished or Stopped.

        Closed early, the job is cancelled, and further messages about it are dropped. Raises ServiceError when the job
        failed, ExecutorLost when the process ended.
        """
        ended = False
        self._running, self._cpu_moved_at = True, asyncio.get_running_loop().time()
        try:
            await self._send(order)
            while not ended and (message := await self._next_message()) is not None:
                if message.job != order.job:
                    continue
                ended = isinstance(message, Finished | Stopped | Refused)
                if isinstance(message, Refused):
                    raise error_of(message.code, message.params)
                yield message
            if not ended:
                ended = True
                raise await self.gone()
        finally:
            self._running = False
            if not ended:
                self._writer.write(protocol.frame(protocol.Cancel(job=order.job)))

    async def cancel(self, job: str) -> None:
        """Request that the worker stops a job as soon as it can."""
        await self._send(protocol.Cancel(job=job))

    def kill(self, cause: str, detail: str) -> None:
        """End the process; `exited` is done once it is reaped."""
        if self.exited.done():
            # It ended by itself, and that is the cause to report.
            return
        if self._killed_because is None:
            self._killed_because = (cause, detail)
        self._kill(self.pid)

    async def close(self) -> None:
        """Release the channel of a worker that is gone."""
        self._listening.cancel()
        self._watching.cancel()
        await asyncio.gather(self._listening, self._watching, return_exceptions=True)
        self._writer.close()
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()

    async def _next_message(self) -> protocol.OfJob | None:
        """Return the worker's next message; None when its stream has ended."""
        getting = asyncio.ensure_future(self._messages.get())
        try:
            await asyncio.wait({getting, self._listening}, return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()

    async def _send(self, message: Message) -> None:
        self._writer.write(protocol.frame(message))
        try:
            async with asyncio.timeout(self._liveness.silent_seconds):
                await self._writer.drain()
        except (ConnectionError, TimeoutError):
            # The reader will see the end of the stream, or the watch the missing heartbeats.
            log.warning("worker.not_reading", pid=self.pid)

    async def _listen(self) -> None:
        """Handle the worker's messages until its stream ends."""
        try:
            while True:
                prefix = await self._reader.readexactly(protocol.LENGTH_BYTES)
                body = await self._reader.readexactly(protocol.frame_length(prefix))
                await self._handle(protocol.from_worker(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:
            # After an unreadable frame, nothing that follows can be trusted.
            log.exception("worker.unreadable", pid=self.pid)
            self.kill("crash", "it sent an unreadable message")
        if not self._ready.done():
            self._ready.set_exception(await self.gone())

    async def _handle(self, message: protocol.FromWorker) -> None:
        match message:
            case protocol.Phase():
                self.phases[message.name] = message.seconds
            case protocol.Heartbeat():
                self._note_heartbeat(message)
            case protocol.Ready():
                self.gpu_bytes = (message.gpu_allocated_bytes, message.gpu_reserved_bytes)
                self._ready.set_result(message)
            case Refused(job=""):
                self._ready.set_exception(error_of(message.code, message.params))
            case _:
                await self._messages.put(message)

    def _note_heartbeat(self, heartbeat: protocol.Heartbeat) -> None:
        self._beat_at = asyncio.get_running_loop().time()
        self.gpu_bytes = (heartbeat.gpu_allocated_bytes, heartbeat.gpu_reserved_bytes)
        if heartbeat.cpu_seconds - self._cpu_seconds > 0.01:
            self._cpu_seconds, self._cpu_moved_at = heartbeat.cpu_seconds, self._beat_at

    async def _watch(self) -> None:
        """Kill a worker that hangs; one that works hard still sends heartbeats."""
        limits = self._liveness
        while True:
            await asyncio.sleep(min(1.0, limits.silent_seconds / 4))
            now = asyncio.get_running_loop().time()
            if now - self._beat_at > limits.silent_seconds:
                self.kill("hang", f"no heartbeat for {limits.silent_seconds:g} s")
            elif self._running and now - self._cpu_moved_at > limits.stuck_seconds:
                self.kill("hang", f"no CPU time used for {limits.stuck_seconds:g} s while running a job")

    async def gone(self) -> ExecutorLost:
        """Wait until the process is reaped; return why it ended."""
        async with asyncio.timeout(REAP_SECONDS):
            await asyncio.shield(self.exited)
        return self.diagnosis()

    def diagnosis(self) -> ExecutorLost:
        """Return why the process, which is reaped, has ended."""
        if self._killed_because is not None:
            return ExecutorLost(*self._killed_because)
        return _diagnosis(self.exited.result(), oom=oom_kills() > self._oom_kills)


class Zygote:
    """The process that has imported the engine; none of its workers outlives it."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket, *, liveness: Liveness) -> None:
        loop = asyncio.get_running_loop()
        self.pid = process.pid
        self._imported: asyncio.Future[float] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()
        self._process = process
        self._control = control
        self._liveness = liveness
        self._forked: asyncio.Future[int] | None = None
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, engine: str, size: str, *, liveness: Liveness) -> Zygote:
        """Start the process; its imports continue meanwhile (await `ready`)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            # PR_SET_PDEATHSIG follows the thread that forks: this is the event loop's, which lives as long as we do.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "whisper_inference.worker.zygote"),
                *(engine, size, str(os.getpid()), str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                # A group, so that Ctrl-C reaches only the API process; not a session, since Linux groups processes by
                # session for scheduling (sched(7), autogroup), and the worker's niceness must count against ours.
                process_group=0,
                env=_zygote_environment(os.environ),
            )
        return cls(process, ours, liveness=liveness)

    @property
    def is_ready(self) -> bool:
        """Whether the imports have ended, successfully or not."""
        return self._imported.done()

    async def ready(self) -> float:
        """Wait for the imports; return their seconds. Raises ServiceError, ExecutorLost."""
        async with self._answer_within(IMPORT_SECONDS):
            return await asyncio.shield(self._imported)

    async def wait_lost(self) -> None:
        """Wait until the process is gone, without a deadline."""
        await asyncio.shield(self._lost)

    async def fork(self, spec: ModelSpec) -> Worker:
        """Start a worker that loads a model; one fork at a time. Raises ServiceError, ExecutorLost."""
        await self.ready()
        if self._lost.done():
            raise _zygote_gone()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._forked = asyncio.get_running_loop().create_future()
        try:
            with theirs:
                socket.send_fds(self._control, [protocol.encode(protocol.Fork(spec=spec))], [theirs.fileno()])
            async with self._answer_within(self._liveness.silent_seconds):
                pid = await self._forked
        except ConnectionError:
            ours.close()
            raise _zygote_gone() from None
        except BaseException:
            ours.close()
            raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return Worker(
            pid, exited=self._exits[pid], reader=reader, writer=writer, kill=self._kill, liveness=self._liveness
        )

    @asynccontextmanager
    async def _answer_within(self, seconds: float) -> AsyncGenerator[None]:
        """End a zygote that does not answer: otherwise every later load would wait in vain too."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            self.kill()
            raise ExecutorLost("zygote", f"the zygote did not respond within {seconds:g} s and was killed") from None

    def kill(self) -> None:
        """End the process, and with it every worker; `stop` reaps."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Kill the zygote, and with it every worker, and reap them all."""
        self.kill()
        async with asyncio.timeout(REAP_SECONDS):
            await self._process.wait()
            await self._listening
        self._control.close()

    def _kill(self, pid: int) -> None:
        """Make the zygote end and reap a worker; a lost zygote has ended its workers already."""
        if not self._lost.done():
            # A zygote may be dead without our knowing it yet; then its worker is dead too.
            with suppress(ConnectionError):
                self._control.send(protocol.encode(protocol.Kill(pid=pid)))

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while packet := await loop.sock_recv(self._control, protocol.PACKET_BYTES):
                self._handle(protocol.from_zygote(packet))
        except ConnectionError:
            pass
        except Exception:
            log.exception("zygote.unreadable", pid=self.pid)
            self.kill()
        gone = _zygote_gone()
        for waiting in (self._imported, self._forked):
            if waiting is not None and not waiting.done():
                waiting.set_exception(gone)
                # Retrieved: at a stop nobody waits any more, and asyncio would log an unretrieved exception.
                waiting.exception()
        self._lost.set_result(None)
        # A dying process closes its sockets before its children get their new parent: wait until it is gone.
        await self._process.wait()
        await asyncio.gather(*(self._reap_orphan(pid) for pid, exited in self._exits.items() if not exited.done()))

    def _handle(self, message: protocol.FromZygote) -> None:
        match message:
            case protocol.Imported():
                self._imported.set_result(message.seconds)
            case protocol.ImportRefused():
                self._imported.set_exception(error_of(message.code, message.params))
            case protocol.Forked():
                self._exits = {message.pid: asyncio.get_running_loop().create_future()}
                # Done already when the caller was cancelled.
                if self._forked is not None and not self._forked.done():
                    self._forked.set_result(message.pid)
            case protocol.Exited():
                self._exits[message.pid].set_result(message.wait_status)

    async def _reap_orphan(self, pid: int) -> None:
        """Reap a worker whose zygote died: the kernel killed it and made it our child (see adopt_orphans)."""
        status = await asyncio.to_thread(_wait_for, pid)
        self._exits[pid].set_result(status)


def _zygote_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return ours with what libraries must find when the zygote imports them; workers inherit it."""
    # libgomp's threads spin for milliseconds before they sleep. Beside a busy process they spin on the core that the
    # thread they wait for needs, and a transcription takes many times as long. A user's own value wins.
    defaults = {"OMP_WAIT_POLICY": "PASSIVE"}
    # OpenBLAS starts its threads when numpy is imported, and a zygote must have none.
    # CUDA counts the fastest GPU first by default, NVML, which we ask, by the bus.
    return {**defaults, **ours, "OPENBLAS_NUM_THREADS": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _zygote_gone() -> ExecutorLost:
    return ExecutorLost("zygote", "the zygote process exited")


def _wait_for(pid: int) -> int:
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        # Reaped by the zygote just before its end, or by init where we are not a subreaper.
        return signal.SIGKILL


def _diagnosis(wait_status: int, *, oom: bool) -> ExecutorLost:
    code = os.waitstatus_to_exitcode(wait_status)
    if oom:
        return ExecutorLost("oom", "killed by the kernel: out of memory")
    if code < 0:
        return ExecutorLost("crash", f"killed by signal {signal.Signals(-code).name}")
    return ExecutorLost("crash", f"exited with code {code}")


def oom_kills() -> int:
    """Return the number of OOM kills in this control group (cgroup v2 memory.events, v1 memory.oom_control)."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0
