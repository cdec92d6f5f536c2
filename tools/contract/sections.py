"""The sections of the contract, one per file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tools.contract import FOLDER, kubernetes, programs, reasons, routes

SECTIONS: Mapping[str, Callable[[], Iterator[str]]] = {
    "chart": kubernetes.chart,
    "commands": programs.commands,
    "crd": kubernetes.crd,
    "metrics": programs.metrics,
    "names": kubernetes.names,
    "reasons": reasons.reasons,
    "routes": routes.routes,
    "settings": programs.settings,
}
"""Generators of lines, by file name without .txt."""


def lines_of(section: str) -> list[str]:
    """Return the lines of a section generated from the code, sorted so that moving code does not change them."""
    return sorted(set(SECTIONS[section]()))


def file_of(section: str) -> Path:
    """Return the file of a section."""
    return FOLDER / f"{section}.txt"
