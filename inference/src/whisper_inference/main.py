"""The command line: `whisper-inference serve`."""

from __future__ import annotations

import asyncio
import os
import sys

import structlog
import typer
import uvicorn

from whisper_inference.api.app import make_app
from whisper_inference.auth import KeyFileError
from whisper_inference.errors import ServiceError
from whisper_inference.server import running_server
from whisper_inference.settings import Settings, SettingsError, load_settings

app = typer.Typer(add_completion=False, no_args_is_help=True)

_GRACE_SECONDS = 20
"""For requests that are under way when the server is told to stop; their jobs go on after a restart."""


@app.callback()
def cli() -> None:
    """Serve a Whisper model that is in memory only while it is needed."""


@app.command()
def serve() -> None:
    """Run the server; its settings are environment variables, described in docs/settings.md."""
    _log_to_stderr()
    try:
        settings = load_settings(os.environ)
        asyncio.run(_serve(settings))
    except SettingsError as error:
        raise SystemExit("\n".join(error.problems)) from None
    except (KeyFileError, ServiceError) as error:
        raise SystemExit(str(error)) from None


async def _serve(settings: Settings) -> None:
    async with running_server(settings) as server:
        config = uvicorn.Config(
            make_app(server),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        await uvicorn.Server(config).serve()


def _log_to_stderr() -> None:
    """JSON where a machine reads, colours where a person does."""
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
