"""The command line: run the operator, forecast a WhisperModel, validate manifests."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import structlog
import typer
from pydantic import ValidationError

from whisper_cluster.errors import ClusterError, CrdMissing
from whisper_operator import __version__
from whisper_operator.errors import LeadershipLost, PortUnavailable, WatchFailed
from whisper_operator.logs import configure_logs
from whisper_operator.settings import PREFIX, Settings, misspelt

log = structlog.stdlib.get_logger(__name__)

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The operator for WhisperModels."
)


class Output(StrEnum):
    """The format of a forecast."""

    TABLE = "table"
    JSON = "json"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"whisper-operator {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the operator's version."),
    ] = False,
) -> None:
    """Define the options that all commands share."""


@app.command()
def run(
    namespace: Annotated[
        list[str] | None, typer.Option(help="Manage WhisperModels in this namespace only. Repeatable.")
    ] = None,
) -> None:
    """Run the operator with the settings in WHISPER_OPERATOR_* environment variables."""
    settings = _settings(namespace)
    terminal = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    configure_logs(json=not terminal, level=settings.log_level)
    from whisper_operator.runtime.app import run as run_operator

    try:
        asyncio.run(run_operator(settings))
    except (LeadershipLost, CrdMissing, ClusterError, PortUnavailable, WatchFailed) as error:
        log.error("operator.ended", reason=str(error))
        raise typer.Exit(1) from None


@app.command()
def validate(
    files: Annotated[
        list[typer.FileBinaryRead], typer.Argument(metavar="FILE...", help="Manifests; - reads standard input.")
    ],
) -> None:
    """Validate manifests offline, as the API server and the operator do. Exit with 2 if one would be rejected."""
    from whisper_operator.offline.validation import verdicts

    rejected = False
    for file in files:
        for verdict in verdicts(_text_of(file)):
            rejected = rejected or bool(verdict.problems)
            result = "accepted" if verdict.is_ours else "skipped: not a WhisperModel"
            for line in verdict.problems or (result,):
                _say(f"{_name_of(file)}: {verdict.subject}: {line}", err=bool(verdict.problems))
    raise typer.Exit(2 if rejected else 0)


@app.command()
def forecast(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="A WhisperModel; - reads standard input.")],
    start: Annotated[
        str, typer.Option("--from", metavar="TIME", help="Without an offset, in the schedule's time zone.")
    ],
    end: Annotated[str, typer.Option("--to", metavar="TIME")],
    output: Annotated[Output, typer.Option(help="json: one object per line.")] = Output.TABLE,
    demand: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(metavar="CSV", help="Periods of work, as start,end. Adds totals."),
    ] = None,
    start_seconds: Annotated[float, typer.Option(min=0, max=86400, help="How long a load takes.")] = 0.0,
) -> None:
    """Forecast what a WhisperModel would do in a period, assuming no requests, or those in --demand."""
    from whisper_operator.offline.forecasting import Question, demand_in, lines, period_of, spec_in, warning

    with _reporting_errors_in(_name_of(file)):
        spec = spec_in(_text_of(file))
    zone = spec.schedule.zone
    with _reporting_errors_in("--from, --to"):
        period = period_of(start, end, zone)
    with _reporting_errors_in(_name_of(demand) if demand else ""):
        work = demand_in(_text_of(demand), zone) if demand else None
    asked = Question(spec, *period, work, start_seconds)
    if demand and (text := warning(asked)):
        typer.echo(f"{_name_of(demand)}: {text}", err=True)
    with _reporting_errors_in(_name_of(file)):
        for line in lines(asked, as_json=output is Output.JSON):
            _say(line)


@contextmanager
def _reporting_errors_in(source: str) -> Generator[None]:
    """Print an error with where it was found, and exit with 2."""
    from whisper_operator.offline.forecasting import ForecastRefused
    from whispermodel.planning.forecast import ForecastTooLong

    try:
        yield
    except (ForecastRefused, ForecastTooLong) as error:
        typer.echo(f"{source}: {error}", err=True)
        raise typer.Exit(2) from None


def _say(line: str, *, err: bool = False) -> None:
    """Print a line; exit with 1 if it cannot be written, as on a full disk."""
    try:
        typer.echo(line, err=err)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        # Python would flush again at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())
        typer.echo(f"cannot write the output: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _text_of(file: typer.FileBinaryRead) -> str:
    """Return the text of a file, without a byte order mark; exit with 2 if it is not UTF-8."""
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        typer.echo(f"{_name_of(file)}: not valid UTF-8 (byte {error.start})", err=True)
        raise typer.Exit(2) from None


def _name_of(file: typer.FileBinaryRead) -> str:
    return getattr(file, "name", "<stdin>")


def _settings(namespaces: list[str] | None) -> Settings:
    if problems := misspelt(os.environ):
        typer.echo("\n".join(problems), err=True)
        raise typer.Exit(2)
    try:
        return Settings(namespaces=tuple(namespaces)) if namespaces else Settings()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            typer.echo(f"{PREFIX}{str(one['loc'][0]).upper()}: {one['msg']}", err=True)
        raise typer.Exit(2) from None
