"""The sections of the contract, each a file."""

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
"""What yields the lines of each file, by the file's name without .txt."""


def lines_of(section: str) -> list[str]:
    """Return the lines that the code has of a section, sorted: code that is moved changes nothing."""
    return sorted(set(SECTIONS[section]()))


def file_of(section: str) -> Path:
    """Return where a section is kept."""
    return FOLDER / f"{section}.txt"
