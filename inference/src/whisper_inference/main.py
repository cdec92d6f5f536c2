"""The command line: `whisper-inference serve` and `whisper-inference gateway`.

It imports little on purpose: it binds the port and starts the zygote before it imports the rest, so that those 0.8 s
overlap with the 2 s of torch's import.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Protocol

from whisper_inference.service.structlog_without_rich import structlog

# isort: split
import typer

from whisper_inference.errors import KeyFileError, ServiceError
from whisper_inference.parentage import adopt_orphans, die_with_parent
from whisper_inference.service.data_folder import data_folder_lock
from whisper_inference.service.listener import open_listener
from whisper_inference.settings import Settings, SettingsError, load, load_settings
from whisper_inference.worker.logs import log_libraries_to_stderr
from whisper_inference.worker.resident import share_one_arena
from whisper_inference.worker.supervisor import Liveness, Zygote

if TYPE_CHECKING:
    import uvicorn
    from structlog.typing import EventDict

    from whisper_inference.api.dependencies import Services
    from whisper_inference.fleet.settings import GatewaySettings
    from whisper_inference.service.gateway import Gateway
    from whisper_inference.standalone.watch import ModelFile

log = structlog.stdlib.get_logger(__name__)
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

_MOST_DESCRIPTORS = 65_536
_KEEP_ALIVE_SECONDS = 620
"""Longer than clients keep idle connections open: httpx 5 s, Amazon's load balancers 60 s, Go's clients 90 s, Google's
load balancers 600 s. A request that arrives while the server closes its connection would be lost."""
_GRACE_SECONDS = 20
"""For requests in progress when the server stops; their jobs continue after a restart."""


@app.callback(invoke_without_command=True)
def cli(
    version: Annotated[bool, typer.Option("--version", help="Print the server's version.")] = False,
) -> None:
    """Serve a Whisper model that is in memory only while it is needed."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"whisper-inference {version_of('whisper-inference')}")
        raise typer.Exit


@app.command()
def serve(
    model_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="WhisperModel manifest whose schedule and idle times to follow (WHISPER_MODEL_FILE)."
        ),
    ] = None,
    listener: Annotated[int | None, typer.Option(hidden=True, help="Descriptor of the listening socket.")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="Process to exit with.")] = None,
    log_name: Annotated[str | None, typer.Option(hidden=True, help="WhisperModel to name in each line of log.")] = None,
) -> None:
    """Run the server; its settings are environment variables, described in docs/settings.md."""
    if parent is not None:
        die_with_parent(parent)
    _log_to_stderr(whispermodel=log_name)
    log_libraries_to_stderr()
    _use_all_descriptors()
    given = {"WHISPER_MODEL_FILE": str(model_file)} if model_file else {}
    try:
        settings = load_settings(os.environ | given)
        file = _model_file(settings)
        with data_folder_lock(settings.data_dir), open_listener(settings, inherited=listener) as listening:
            asyncio.run(_serve(file.settings if file else settings, listening, model_file=file))
    except SettingsError as error:
        raise SystemExit("\n".join(error.problems)) from None
    except (KeyFileError, ServiceError) as error:
        raise SystemExit(str(error)) from None


@app.command()
def gateway(
    model_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of WhisperModel manifests to serve on this machine, without a cluster (WHISPER_MODEL_FILE).",
        ),
    ] = None,
) -> None:
    """Run the gateway to many WhisperModels: requests wake them, and jobs survive it.

    The models are those of a cluster, or with a folder of manifests those of this machine (docs/one-machine.md).
    """
    _log_to_stderr()
    log_libraries_to_stderr()
    _use_all_descriptors()
    try:
        from whisper_inference.fleet.settings import GatewaySettings
        from whisper_inference.standalone.manifest import ManifestError
    except ImportError as error:
        raise SystemExit(f"The gateway needs the extra 'gateway' of whisper-inference ({error}).") from None
    given = {"WHISPER_MODEL_FILE": str(model_file)} if model_file else {}
    try:
        settings = load(GatewaySettings, os.environ | given)
        with data_folder_lock(settings.data_dir), open_listener(settings) as listener:
            asyncio.run(_serve_gateway(settings, listener))
    except SettingsError as error:
        raise SystemExit("\n".join(error.problems)) from None
    except ManifestError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyFileError, ServiceError) as error:
        raise SystemExit(str(error)) from None


def _model_file(settings: Settings) -> ModelFile | None:
    """Return the model file, if there is one; exit with status 2 if it is invalid."""
    if settings.model_file is None:
        return None
    # Imported here: a server without a model file does not need the modules for schedules.
    from whisper_inference.standalone.manifest import ManifestError
    from whisper_inference.standalone.watch import ModelFile

    try:
        return ModelFile.read(settings.model_file, settings)
    except ManifestError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _print(table: str) -> None:
    print(table, file=sys.stderr)


def _log(table: str) -> None:
    # A list of lines, which stays readable in JSON.
    log.info("model.table", table=table.splitlines())


async def _serve(settings: Settings, listener: socket.socket, *, model_file: ModelFile | None) -> None:
    adopt_orphans()
    liveness = Liveness()
    zygote = None
    if settings.preload_model:
        zygote = await Zygote.start(settings.engine, settings.model, liveness=liveness)
    # Imported while the zygote starts.
    from whisper_inference.api.auth import KeyRing
    from whisper_inference.api.dependencies import Services
    from whisper_inference.jobs.models import OneModel
    from whisper_inference.service.assembly import running_server
    from whisper_inference.service.local_model import make_model
    from whisper_inference.service.probes import ServerProbes

    model = make_model(settings, liveness=liveness, zygote=zygote)
    try:
        keys = KeyRing(settings.api_keys_file)
    except BaseException:
        await model.owner.stop()
        raise
    show = _print if sys.stderr.isatty() else _log
    async with running_server(settings, model, model_file=model_file, show=show) as server:
        services = Services(
            version=model.version,
            models=OneModel(server.queue),
            jobs=server.queue.jobs,
            executions=server.executions,
            probes=ServerProbes(server.queue),
            keys=keys,
            metrics=model.metrics.requests,
            exposition=server.exposition,
            metrics_auth=settings.metrics_auth,
        )
        await _serve_http(services, server, listener)


def _gateway_to_models(settings: GatewaySettings) -> AbstractAsyncContextManager[Gateway]:
    """Return the gateway to the models of a folder, if one is set, or else to those of the cluster."""
    if settings.model_file is not None:
        from whisper_inference.service.local_gateway import running_local_gateway

        return running_local_gateway(settings, settings.model_file)
    from whisper_inference.service.cluster_gateway import running_gateway

    return running_gateway(settings)


async def _serve_gateway(settings: GatewaySettings, listener: socket.socket) -> None:
    # Before any thread has an arena of its own.
    share_one_arena()
    from whisper_inference.api.auth import KeyRing
    from whisper_inference.api.dependencies import Services

    adopt_orphans()
    keys = KeyRing(settings.api_keys_file)
    async with _gateway_to_models(settings) as running:
        services = Services(
            version=running.version,
            models=running.models,
            jobs=running.jobs,
            executions=None,
            probes=running,
            keys=keys,
            metrics=running.requests,
            exposition=running.exposition,
            metrics_auth=settings.metrics_auth,
        )
        await _serve_http(services, running, listener)


class _Stoppable(Protocol):
    """What is behind the HTTP server: a server or a gateway."""

    @property
    def accepting(self) -> bool: ...
    @property
    def drains_for(self) -> timedelta: ...
    def stop_accepting(self) -> None: ...
    async def drain(self) -> None: ...


async def _serve_http(services: Services, behind: _Stoppable, listener: socket.socket) -> None:
    import uvicorn

    from whisper_inference.api.app import make_app
    from whisper_inference.service.http_protocol import SmallReads

    config = uvicorn.Config(
        make_app(services),
        http=SmallReads,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    for stop in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped, which must not kill the process before its clean-up.
        signal.signal(stop, lambda _number, _frame: None)
    # What was imported stays: looking through it again in each full collection would stop the event loop for 80 ms.
    gc.collect()
    gc.freeze()
    await _stopping(behind)(config).serve(sockets=[listener])


def _stopping(behind: _Stoppable) -> type[uvicorn.Server]:
    """Return an HTTP server that finishes accepted work before it stops, and fails probes and new work meanwhile."""
    import uvicorn

    loop = asyncio.get_running_loop()

    class Stopping(uvicorn.Server):
        draining: asyncio.Task[None] | None = None

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            log.info("server.stopping", signal=signal.Signals(sig).name)
            first = behind.accepting
            behind.stop_accepting()
            if first and behind.drains_for:
                loop.call_soon_threadsafe(self.drain, sig, frame)
                return
            if not first:
                loop.call_soon_threadsafe(self.end_requests)
            super().handle_exit(sig, frame)

        def drain(self, sig: int, frame: FrameType | None) -> None:
            self.draining = asyncio.create_task(behind.drain())
            self.draining.add_done_callback(lambda _task: uvicorn.Server.handle_exit(self, sig, frame))

        def end_requests(self) -> None:
            """Respond to waiting clients now; their jobs continue after the restart."""
            for task in self.server_state.tasks:
                task.cancel()

    return Stopping


def _use_all_descriptors() -> None:
    """Raise the soft limit: a burst of clients exhausts the usual 1024, which is meant for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MOST_DESCRIPTORS)), hard))


def _log_to_stderr(*, whispermodel: str | None = None) -> None:
    """Log as JSON, or in colour on a terminal. whispermodel: named in each line, where several servers share a log."""

    def name_model(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {"whispermodel": whispermodel, **event} if whispermodel else event

    terminal = sys.stderr.isatty()
    # The console's default exception formatter prints every local variable, and blocks the event loop for seconds.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer = console if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            name_model,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
