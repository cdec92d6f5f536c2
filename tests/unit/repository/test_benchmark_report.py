"""What a run of benchmarks says of its bounds, on a terminal, as JSON and in the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.measure import Finding, Runs, at_least, at_most, figure
from benchmarks.report import BEGIN, END, Report, text_of, write_docs, write_json
from benchmarks.scene import import_times

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


def test_only_findings_with_a_bound_are_counted(report: Report) -> None:
    assert report.kept == (1, 2)


def test_the_text_has_the_verdict_and_the_raw_numbers() -> None:
    text = text_of(KEPT)
    assert "at least 5.00: holds" in text
    assert "stock 0.500 s (0.400 to 0.600, n=3)" in text
    assert "does not hold" in text_of(BROKEN)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0712, "0.071"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"), (-12.34, "-12.3")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_json_has_every_value(report: Report, tmp_path: Path) -> None:
    write_json(report, tmp_path / "new" / "bench.json")
    [kept, broken, unbound] = json.loads((tmp_path / "new" / "bench.json").read_text("utf-8"))["topics"]["Loads"]
    assert kept["runs"][0]["values"] == [0.4, 0.6, 0.5]
    assert (kept["holds"], broken["holds"], unbound["holds"]) == (True, False, None)


def test_the_page_changes_between_the_markers_only(report: Report, tmp_path: Path) -> None:
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
