"""Reports of a benchmark run: for the terminal, as JSON, and as tables for docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Finding, figure

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a run."""

    at: datetime
    """When the run started."""
    seconds: float
    """How long it took."""
    machine: Mapping[str, str | float]
    """Properties of the machine that affect results, without anything that identifies it."""
    findings: Mapping[str, Sequence[Finding]]
    """Results by the title of the topic."""
    broken: Mapping[str, str]
    """Errors by the name of the topic."""

    @property
    def kept(self) -> tuple[int, int]:
        """The number of bounds that hold, and the number of all bounds."""
        verdicts = [finding.holds for topic in self.findings.values() for finding in topic if finding.bound]
        return sum(map(bool, verdicts)), len(verdicts)


def machine(packages: Sequence[str]) -> dict[str, str | float]:
    """Return the properties of the machine that affect results, and the versions of some packages."""
    return {
        "cores": float(os.cpu_count() or 0),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "processor": _processor(),
        "load average at start": round(os.getloadavg()[0], 2),
        "Python": platform.python_version(),
        "Linux": platform.release(),
        **{package: version(package) for package in packages},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def text_of(finding: Finding) -> str:
    """Format a finding for the terminal."""
    must = f"  [{finding.bound.kind} {figure(finding.bound.limit)}: {finding.verdict}]" if finding.bound else ""
    lines = [f"  {finding.claim}: {figure(finding.value)} {finding.unit}{must}"]
    lines += [f"      {runs}" for runs in finding.runs]
    if finding.note:
        lines += textwrap.wrap(finding.note, 112, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def write_json(report: Report, path: Path) -> None:
    """Save all results as JSON, including raw values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "at": report.at.isoformat(),
        "seconds": round(report.seconds, 1),
        "machine": report.machine,
        "topics": {
            title: [asdict(finding) | {"holds": finding.holds} for finding in findings]
            for title, findings in report.findings.items()
        },
        "broken": report.broken,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_docs(report: Report, page: Path = PAGE, *, begin: str = BEGIN, end: str = END) -> None:
    """Update the tables between the markers of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{_tables(report)}{end}{after}", encoding="utf-8")


def _tables(report: Report) -> str:
    held, bounds = report.kept
    facts = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in report.machine.items()
    )
    when = f"{report.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {report.seconds / 60:.0f} minutes"
    intro = f"{when}; {facts}.\n\n{held} of {bounds} bounds hold.\n"
    return "\n".join([intro, *(_table(title, findings) for title, findings in report.findings.items())])


def _table(title: str, findings: Sequence[Finding]) -> str:
    rows = [f"\n### {title}\n", "| Benchmark | Result | Bound | Verdict | Details |", "|---|---|---|---|---|"]
    for finding in findings:
        must = f"{finding.bound.kind} {figure(finding.bound.limit)}" if finding.bound else ""
        raw = "; ".join([*map(str, finding.runs), *([finding.note] if finding.note else [])])
        verdict = "**does not hold**" if finding.holds is False else finding.verdict
        rows.append(f"| {finding.claim} | {figure(finding.value)} {finding.unit} | {must} | {verdict} | {raw} |")
    return "\n".join(rows) + "\n"
