"""The command line: run the operator, forecast what a WhisperModel would do, validate manifests."""

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
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The operator of WhisperModels."
)


class Output(StrEnum):
    """How a forecast is printed."""

    TABLE = "table"
    JSON = "json"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"whisper-operator {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options of all commands."""


@app.command()
def run(
    namespace: Annotated[
        list[str] | None, typer.Option(help="Obey only this namespace's WhisperModels; may be given several times.")
    ] = None,
) -> None:
    """Watch WhisperModels and make them so, with the settings of WHISPER_OPERATOR_* in the environment."""
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
    files: Annotated[list[typer.FileBinaryRead], typer.Argument(metavar="FILE...", help="- reads the input.")],
) -> None:
    """Judge manifests as the API server and the operator would, without a cluster; exit with 2 if one is refused."""
    from whisper_operator.offline.validation import verdicts

    refused = False
    for file in files:
        for verdict in verdicts(_text_of(file)):
            refused = refused or bool(verdict.problems)
            settled = "accepted" if verdict.is_ours else "passed over: only WhisperModels are judged"
            for line in verdict.problems or (settled,):
                _say(f"{_name_of(file)}: {verdict.subject}: {line}", err=bool(verdict.problems))
    raise typer.Exit(2 if refused else 0)


@app.command()
def forecast(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="A WhisperModel; - reads the input.")],
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Without an offset: by the schedule's zone.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME")],
    output: Annotated[Output, typer.Option(help="json: one object a line.")] = Output.TABLE,
    demand: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(metavar="CSV", help="Periods of work: start,end. Adds what it comes to."),
    ] = None,
    start_seconds: Annotated[float, typer.Option(min=0, max=86400, help="What a load takes.")] = 0.0,
) -> None:
    """Tell what a WhisperModel would do in a period: without work, or with that of --demand."""
    from whisper_operator.offline.forecasting import Question, demand_in, lines, period_of, spec_in, warning

    with _blaming(_name_of(file)):
        spec = spec_in(_text_of(file))
    zone = spec.schedule.zone
    with _blaming("--from, --to"):
        period = period_of(start, end, zone)
    with _blaming(_name_of(demand) if demand else ""):
        work = demand_in(_text_of(demand), zone) if demand else None
    asked = Question(spec, *period, work, start_seconds)
    if demand and (told := warning(asked)):
        typer.echo(f"{_name_of(demand)}: {told}", err=True)
    with _blaming(_name_of(file)):
        for line in lines(asked, as_json=output is Output.JSON):
            _say(line)


@contextmanager
def _blaming(what: str) -> Generator[None]:
    """End with 2 and a sentence for what is wrong, with where it stands."""
    from whisper_operator.offline.forecasting import ForecastRefused
    from whispermodel.planning.forecast import ForecastTooLong

    try:
        yield
    except (ForecastRefused, ForecastTooLong) as error:
        typer.echo(f"{what}: {error}", err=True)
        raise typer.Exit(2) from None


def _say(line: str, *, err: bool = False) -> None:
    """Print a line; end with 1 where it cannot be written, as on a disk that is full."""
    try:
        typer.echo(line, err=err)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        # Python would try it again at its end, and fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())
        typer.echo(f"the output cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _text_of(file: typer.FileBinaryRead) -> str:
    """Return what a file holds, without the mark that some editors put before it; end with 2 if it is no text."""
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        typer.echo(f"{_name_of(file)}: this is no text in UTF-8: byte {error.start} cannot be read", err=True)
        raise typer.Exit(2) from None


def _name_of(file: typer.FileBinaryRead) -> str:
    return getattr(file, "name", "<stdin>")


def _settings(namespaces: list[str] | None) -> Settings:
    if wrong := misspelt(os.environ):
        typer.echo("\n".join(wrong), err=True)
        raise typer.Exit(2)
    try:
        return Settings(namespaces=tuple(namespaces)) if namespaces else Settings()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            typer.echo(f"{PREFIX}{str(one['loc'][0]).upper()}: {one['msg']}", err=True)
        raise typer.Exit(2) from None
