"""The command line of a provider: up, down, load, status."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from tools.clusters.base import KUBECONFIG, Provider, ProviderFailed

P = ParamSpec("P")


def command_line(provider: Provider) -> typer.Typer:
    """Return the command line of one provider."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    @_reporting_failures
    def up() -> None:
        """Start the cluster, and print the path of its kubeconfig."""
        start = time.monotonic()
        provider.up()
        print(f"{provider.context} started in {time.monotonic() - start:.1f} s: export KUBECONFIG={KUBECONFIG}")

    @app.command()
    @_reporting_failures
    def down() -> None:
        """Stop the cluster."""
        provider.down()

    @app.command()
    @_reporting_failures
    def load(archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...")]) -> None:
        """Load images from docker or OCI archives."""
        provider.load(archives)

    @app.command()
    @_reporting_failures
    def status() -> None:
        """Print whether the cluster is running; exit with 1 if it is not."""
        is_up = provider.is_up()
        print(f"{provider.context} is {'running' if is_up else 'not running'}")
        raise typer.Exit(0 if is_up else 1)

    return app


def _reporting_failures(command: Callable[P, None]) -> Callable[P, None]:
    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ProviderFailed as problem:
            typer.echo(str(problem), err=True)
            raise typer.Exit(1) from problem

    return wrapped
