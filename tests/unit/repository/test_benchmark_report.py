"""Bounds of benchmark results, and the tables in the documentation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.bench_run import import_times
from benchmarks.measure import Finding, Runs, at_least, at_most
from benchmarks.report import BEGIN, END, Report, write_docs

KEPT = Finding("load", 6.0, "x", at_least(5), (Runs.of("stock", "s", [0.4, 0.6, 0.5]),), "warm")
BROKEN = Finding("unload", 300.0, "ms", at_most(250))
UNBOUND = Finding("imports", 2.1, "s")


@pytest.fixture
def report() -> Report:
    return Report(datetime(2026, 1, 2, 3, 4, tzinfo=UTC), 60.0, {"cores": 2.0}, {"Loads": [KEPT, BROKEN, UNBOUND]}, {})


def test_a_bound_holds_up_to_its_limit() -> None:
    assert at_most(250).holds(250)
    assert not at_most(250).holds(250.1)
    assert at_least(5).holds(5)
    assert not at_least(5).holds(4.9)


def test_the_page_changes_only_between_the_markers(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n", encoding="utf-8")
    write_docs(report, page)
    write_docs(report, page)
    text = page.read_text("utf-8")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "stale" not in text
    assert text.count("| unload | 300 ms | at most 250 | **does not hold** |") == 1


def test_import_times_are_summed_by_package() -> None:
    lines = "import time: self [us] | cumulative | imported package\nimport time:  1000 |  3000 | torch\n"
    assert import_times(lines + "import time:  500 |  500 |   torch.nn\nimport time:  10 |  10 | av\n") == {
        "torch": pytest.approx(0.0015),
        "av": pytest.approx(0.00001),
    }
