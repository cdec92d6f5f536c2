"""The commands: their output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testing.imports import imported_by, imported_with
from testing.paths import ROOT
from whisper_operator import __version__
from whisper_operator.main import app

EXAMPLES = ROOT / "examples"
OFFICE = str(EXAMPLES / "office-hours.yaml")
IDLE = str(EXAMPLES / "idle-to-zero.yaml")
PERIOD = ["--from", "2026-11-27T00:00", "--to", "2026-12-01T12:00"]


def test_modules_needed_by_run_only_are_imported_lazily() -> None:
    assert {"kubernetes.aio.client", "kopf", "aiohttp"} & imported_with("whisper_operator.main") == set()


def test_forecast_prints_each_transition_in_local_time_and_utc() -> None:
    ran = CliRunner().invoke(app, ["forecast", OFFICE, *PERIOD])
    assert ran.exit_code == 0
    assert ran.stdout.splitlines()[:2] == [
        "Fri 2026-11-27 07:30:00 CET    06:30:00Z  Zero     -> Loaded    "
        "Loaded by schedule 'morning' since Fri 07:30 CET; scales to zero Fri 19:00 CET.",
        "Fri 2026-11-27 19:00:00 CET    18:00:00Z  Loaded   -> Zero      "
        "Zero by schedule 'evening' since Fri 19:00 CET; loads Mon 07:30 CET.",
    ]


def test_json_output_has_one_object_per_line() -> None:
    ran = CliRunner().invoke(app, ["forecast", OFFICE, *PERIOD, "--output", "json"])
    first = json.loads(ran.stdout.splitlines()[0])
    assert first == {
        "at": "2026-11-27T07:30:00+01:00",
        "atUtc": "2026-11-27T06:30:00+00:00",
        "from": "Zero",
        "to": "Loaded",
        "reason": "Schedule",
        "message": "Loaded by schedule 'morning' since Fri 07:30 CET; scales to zero Fri 19:00 CET.",
    }


def test_demand_adds_totals(tmp_path: Path) -> None:
    demand = tmp_path / "demand.csv"
    demand.write_text("start,end\n2026-11-28T10:00,2026-11-28T10:05\n2026-11-28T10:30Z,2026-11-28T10:45Z\n")
    ran = CliRunner().invoke(app, ["forecast", IDLE, *PERIOD, "--demand", str(demand)])
    assert ran.stdout.splitlines()[-1] == "0.83 h loaded, 0.92 h unloaded, 106.25 h at zero; 2 loads, 2 cold starts"


EARLY = """
apiVersion: audio-transcriber.io/v1alpha1
kind: WhisperModel
metadata: {name: early, namespace: speech}
spec:
  model: {size: base}
  desiredState: Auto
  schedule:
    timeZone: Europe/Berlin
    entries: [{name: night, cron: "0 0 * * *", state: Unloaded}, {name: early, cron: "0 3 * * *", state: Loaded}]
"""
SPRING = ["--from", "2026-03-29T02:30", "--to", "2026-03-29T03:15"]


def test_time_skipped_by_dst_is_the_end_of_the_gap() -> None:
    ran = CliRunner().invoke(app, ["forecast", "-", *SPRING], input=EARLY)
    assert ran.stdout.startswith("Sun 2026-03-29 03:00:00 CEST   01:00:00Z  Unloaded -> Loaded")


def test_work_at_a_time_skipped_by_dst_counts(tmp_path: Path) -> None:
    demand = tmp_path / "demand.csv"
    demand.write_text("2026-03-29T02:30,2026-03-29T03:15\n")
    period = ["--from", "2026-03-29T00:00", "--to", "2026-03-29T12:00"]
    idle = Path(IDLE).read_text() + "  schedule: {timeZone: Europe/Berlin}\n"
    ran = CliRunner().invoke(app, ["forecast", "-", *period, "--demand", str(demand)], input=idle)
    assert ran.stdout.startswith("Sun 2026-03-29 03:00:00 CEST")
    # A quarter of an hour of work, and unloadAfter.
    assert ran.stdout.splitlines()[-1] == "0.5 h loaded, 0.75 h unloaded, 9.75 h at zero; 1 loads, 1 cold starts"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([IDLE, "--from", "soon", "--to", "2026-12-01"], "invalid time 'soon'", id="a time that is none"),
        pytest.param(["-", *PERIOD], "contains no object", id="an empty file"),
    ],
)
def test_invalid_forecast_input_exits_with_2_and_a_reason(arguments: list[str], words: str) -> None:
    ran = CliRunner().invoke(app, ["forecast", *arguments], input="")
    assert ran.exit_code == 2
    assert words in ran.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("start,end\n\nsoon,2026-11-28\n", "line 3: invalid time 'soon'", id="a time that is none"),
        pytest.param("\n2026-11-28\n", "line 2: expected start,end", id="one time"),
        pytest.param("2026-11-28,2026-11-27\n", "line 1: work must end after it starts", id="the wrong way round"),
        pytest.param("2026-11-28,2026-11-29\nstart,end\n", "line 2: invalid time 'start'", id="headings in the middle"),
        pytest.param(f"2026-11-28,{'x' * 200_000}\n", "line 1: not valid CSV", id="no CSV"),
    ],
)
def test_invalid_demand_is_reported_with_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    demand = tmp_path / "demand.csv"
    demand.write_text(text)
    ran = CliRunner().invoke(app, ["forecast", IDLE, *PERIOD, "--demand", str(demand)])
    assert ran.exit_code == 2
    assert ran.stderr.startswith(f"{demand}: {words}")


def test_work_outside_the_period_is_reported(tmp_path: Path) -> None:
    demand = tmp_path / "demand.csv"
    work = "2026-11-28T10:00,2026-11-28T10:05\n2026-11-26,2026-11-27\n2026-12-01T12:00,2026-12-02\n"
    demand.write_text(f"\nStart, End\n{work}")
    ran = CliRunner().invoke(app, ["forecast", IDLE, *PERIOD, "--demand", str(demand)])
    assert ran.exit_code == 0
    assert ran.stderr == f"{demand}: 2 of 3 periods are outside the forecast period\n"
    assert ran.stdout.splitlines()[-1].endswith("1 loads, 1 cold starts")


def test_invalid_resource_is_not_forecast() -> None:
    text = Path(IDLE).read_text().replace("size: ", "size: huge-")
    ran = CliRunner().invoke(app, ["forecast", "-", *PERIOD], input=text)
    assert ran.exit_code == 2
    assert "spec.model.size: Unsupported value" in ran.stderr


def test_validate_reports_each_file(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path(OFFICE).read_text().replace("Europe/Berlin", "Europe/Atlantis"))
    ran = CliRunner().invoke(app, ["validate", OFFICE, str(wrong)])
    assert ran.exit_code == 2
    assert ran.stdout == f"{OFFICE}: WhisperModel/office-hours: accepted\n"
    assert "there is no time zone 'Europe/Atlantis'" in ran.stderr


def test_validate_skips_other_kinds(tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: notes}}\n---\n{Path(OFFICE).read_text()}")
    ran = CliRunner().invoke(app, ["validate", str(mixed)])
    assert ran.exit_code == 0
    assert ran.stdout.splitlines() == [
        f"{mixed}: ConfigMap/notes: skipped: not a WhisperModel",
        f"{mixed}: WhisperModel/office-hours: accepted",
    ]


def test_version_is_printed_with_the_program_name() -> None:
    ran = CliRunner().invoke(app, ["--version"])
    assert ran.exit_code == 0
    assert ran.stdout == f"whisper-operator {__version__}\n"


def test_version_imports_nothing_that_only_run_needs() -> None:
    imported = imported_by("whisper_operator", "--version")
    assert "whisper_operator.main" in imported
    assert {"kubernetes", "kopf", "aiohttp"} & imported == set()


def test_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_OPERATOR_WORKERS", "none")
    ran = CliRunner().invoke(app, ["run"])
    assert ran.exit_code == 2
    assert "WHISPER_OPERATOR_WORKERS" in ran.stderr


def test_misspelt_setting_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_OPERATOR_WORKER", "8")
    monkeypatch.setenv("WHISPER_OPERATOR_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("WHISPER_OPERATOR_PORT", "tcp://10.0.0.1:80")
    ran = CliRunner().invoke(app, ["run"])
    assert ran.exit_code == 2
    assert ran.stderr == "WHISPER_OPERATOR_WORKER is not a known setting: did you mean WHISPER_OPERATOR_WORKERS?\n"
