"""The command line: `whisper-inference serve`.

Light to import on purpose: the port is bound and the zygote started before the rest is imported, so that its 0.8 s and
the 2 s of torch's import pass at the same time.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from types import FrameType

import structlog
import typer

from whisper_inference.errors import KeyFileError, ServiceError
from whisper_inference.jobs.folder import data_folder_lock
from whisper_inference.settings import Settings, SettingsError, load_settings
from whisper_inference.worker.host import Liveness, Zygote
from whisper_inference.worker.parentage import adopt_orphans

log = structlog.stdlib.get_logger(__name__)
app = typer.Typer(add_completion=False, no_args_is_help=True)

_BACKLOG = 2048
"""Connections that may wait while the server starts or is busy; uvicorn's own default."""
_MOST_DESCRIPTORS = 65_536
_GRACE_SECONDS = 20
"""For requests that are under way when the server is told to stop; their jobs go on after a restart."""


@app.callback()
def cli() -> None:
    """Serve a Whisper model that is in memory only while it is needed."""


@app.command()
def serve() -> None:
    """Run the server; its settings are environment variables, described in docs/settings.md."""
    _log_to_stderr()
    _use_all_descriptors()
    try:
        settings = load_settings(os.environ)
        with data_folder_lock(settings.data_dir), _listener(settings) as listener:
            asyncio.run(_serve(settings, listener))
    except SettingsError as error:
        raise SystemExit("\n".join(error.problems)) from None
    except (KeyFileError, ServiceError) as error:
        raise SystemExit(str(error)) from None


def _listener(settings: Settings) -> socket.socket:
    """Return the listening socket: clients that come while the server starts wait instead of being refused."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SystemExit(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "set WHISPER_HOST and WHISPER_PORT, or stop what listens there."
        ) from None


async def _serve(settings: Settings, listener: socket.socket) -> None:
    adopt_orphans()
    liveness = Liveness()
    zygote = None
    if settings.preload_model:
        zygote = await Zygote.start(settings.engine, settings.model, liveness=liveness)
    import uvicorn

    from whisper_inference.api.app import make_app
    from whisper_inference.model import make_model
    from whisper_inference.server import running_server

    model = make_model(settings, liveness=liveness, zygote=zygote)
    async with running_server(settings, model) as server:
        config = uvicorn.Config(
            make_app(server),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )

        class Stopping(uvicorn.Server):
            """Tells the probes and new work that the end has begun."""

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                log.info("server.stopping", signal=signal.Signals(sig).name)
                server.accepting = False
                super().handle_exit(sig, frame)

        for stop in (signal.SIGTERM, signal.SIGINT):
            # uvicorn raises the signal once more when it has stopped, which must not end us before our own clean-up.
            signal.signal(stop, lambda _number, _frame: None)
        await Stopping(config).serve(sockets=[listener])


def _use_all_descriptors() -> None:
    """Raise the soft limit: a burst of clients exhausts the usual 1024, a number for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MOST_DESCRIPTORS)), hard))


def _log_to_stderr() -> None:
    """JSON where a machine reads, colours where a person does."""
    terminal = sys.stderr.isatty()
    # The console's own way with exceptions shows every local variable, and holds up the event loop for seconds.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer = console if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
