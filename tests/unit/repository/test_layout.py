"""Limits on the layout: few entries at the top of each package, and one direction of imports between test folders."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.paths import ROOT

TESTS = sorted((ROOT / "tests").rglob("*.py"))
FOLDERS_OF_TESTS = {"tests", "e2e", "benchmarks"}


def imported_by(path: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=str(module)):
                yield module.partition(".")[0]


@pytest.mark.parametrize(
    ("package", "most"),
    [
        ("operator/src/whisper_operator", 12),
        ("inference/src/whisper_inference", 20),
        ("cluster/src/whisper_cluster", 12),
    ],
)
def test_top_level_of_a_package_stays_small(package: str, most: int) -> None:
    entries = sorted(entry.name for entry in (ROOT / package).iterdir() if entry.name != "__pycache__")
    assert len(entries) <= most, entries


def test_tests_import_support_and_products_only() -> None:
    # Except for tests of the end-to-end tests' and benchmarks' own code.
    exempt = ROOT / "tests" / "unit" / "repository"
    found = {str(path): FOLDERS_OF_TESTS & set(imported_by(path)) for path in TESTS if exempt not in path.parents}
    assert {path: names for path, names in found.items() if names} == {}
