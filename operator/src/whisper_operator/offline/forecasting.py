"""Print a forecast: reads a manifest and a period, and yields lines of a table or of JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from whisper_operator.offline.validation import problems
from whispermodel.manifests import UnreadableManifest, manifests_in
from whispermodel.planning.forecast import ForecastTransition, Period, Totals, forecast
from whispermodel.planning.schedule import instant_of
from whispermodel.spec import KIND, Spec


class ForecastRefused(ValueError):
    """The input cannot be forecast. The message says what to change."""


@dataclass(frozen=True, slots=True)
class Question:
    """The input of a forecast."""

    spec: Spec
    """The model's spec."""

    start: datetime
    """Where the period starts."""

    end: datetime
    """Where the period ends."""

    demand: Sequence[Period] | None = None
    """Periods of work; None: without work and without totals."""

    start_seconds: float = 0.0
    """How long a load takes."""

    @property
    def zone(self) -> tzinfo:
        """The time zone of the printed times."""
        return self.spec.schedule.zone


def spec_in(text: str) -> Spec:
    """Return the spec of the only WhisperModel in a text. Raises ForecastRefused."""
    try:
        found = [one for one in manifests_in(text) if one.get("kind") == KIND]
    except UnreadableManifest as error:
        raise ForecastRefused(str(error)) from error
    if len(found) != 1:
        raise ForecastRefused(f"expected one WhisperModel, found {len(found)}")
    if errors := problems(found[0]):
        raise ForecastRefused("; ".join(errors))
    return Spec.model_validate(found[0]["spec"])


def time_in(text: str, zone: ZoneInfo) -> datetime:
    """Return a time in UTC; a time without an offset is in the zone. Raises ForecastRefused.

    An ambiguous time is the first of the two; a time that the zone skips is the end of the gap.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ForecastRefused(
            f"invalid time {text!r}: use a format like 2026-12-24T18:00 or 2026-12-24T18:00-03:00"
        ) from None
    if not 2000 <= time.year < 3000:
        raise ForecastRefused(f"invalid time {text!r}: the year must be between 2000 and 2999")
    return time.astimezone(UTC) if time.tzinfo else instant_of(time, zone)


def period_of(start: str, end: str, zone: ZoneInfo) -> Period:
    """Return the period to forecast. Raises ForecastRefused."""
    begin, finish = time_in(start, zone), time_in(end, zone)
    if finish <= begin:
        raise ForecastRefused(f"the period must end after it starts: {end} is not after {start}")
    given = datetime.fromisoformat(start)
    is_skipped = given.tzinfo is None and begin.astimezone(zone).replace(tzinfo=None) != given
    # An entry that fires at the end of the gap fires after a time in the gap.
    return (begin - timedelta(microseconds=1) if is_skipped else begin), finish


def demand_in(text: str, zone: ZoneInfo) -> list[Period]:
    """Return the periods of work in a CSV of start,end, with or without a header. Raises ForecastRefused."""
    rows = _rows(text)
    if rows and rows[0][1][0].strip().lower() == "start":
        del rows[0]
    return [_work_of(number, row, zone) for number, row in rows]


def _work_of(number: int, row: list[str], zone: ZoneInfo) -> Period:
    if len(row) != 2:
        raise ForecastRefused(f"line {number}: expected start,end")
    try:
        start, end = (time_in(cell.strip(), zone) for cell in row)
    except ForecastRefused as error:
        raise ForecastRefused(f"line {number}: {error}") from None
    if end <= start:
        raise ForecastRefused(f"line {number}: work must end after it starts")
    return start, end


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Return the lines that are not empty, each with its number."""
    reader = csv.reader(text.splitlines())
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ForecastRefused(f"line {reader.line_num}: not valid CSV: {error}") from error


def warning(asked: Question) -> str | None:
    """Return a warning if periods of work do not count because they lie outside the forecast period."""
    demand = asked.demand or ()
    outside = sum(end <= asked.start or start >= asked.end for start, end in demand)
    return f"{outside} of {len(demand)} periods are outside the forecast period" if outside else None


def lines(asked: Question, *, as_json: bool) -> Iterator[str]:
    """Yield the forecast line by line. Raises ForecastTooLong while iterating."""
    found = forecast(
        asked.spec, start=asked.start, end=asked.end, demand=asked.demand or (), start_seconds=asked.start_seconds
    )
    for transition in found:
        yield _json(transition, asked.zone) if as_json else _row(transition, asked.zone)
    if asked.demand is not None:
        yield _json_totals(found.totals) if as_json else _sum(found.totals)


def _json(transition: ForecastTransition, zone: tzinfo) -> str:
    return json.dumps(
        {
            "at": transition.at.astimezone(zone).isoformat(),
            "atUtc": transition.at.astimezone(UTC).isoformat(),
            "from": transition.before,
            "to": transition.after,
            "reason": transition.reason,
            "message": transition.message,
        }
    )


def _row(transition: ForecastTransition, zone: tzinfo) -> str:
    local = transition.at.astimezone(zone).strftime("%a %Y-%m-%d %H:%M:%S %Z")
    utc = transition.at.astimezone(UTC).strftime("%H:%M:%SZ")
    return f"{local:<30} {utc}  {transition.before:<8} -> {transition.after:<8}  {transition.message}"


def _json_totals(found: Totals) -> str:
    return json.dumps(
        {
            "totals": {
                "loadedHours": _hours(found.loaded_seconds),
                "unloadedHours": _hours(found.unloaded_seconds),
                "zeroHours": _hours(found.zero_seconds),
                "coldStarts": found.cold_starts,
                "loads": found.loads,
            }
        }
    )


def _sum(found: Totals) -> str:
    hours = ", ".join(
        f"{_hours(seconds)} h {name}"
        for name, seconds in (
            ("loaded", found.loaded_seconds),
            ("unloaded", found.unloaded_seconds),
            ("at zero", found.zero_seconds),
        )
    )
    return f"{hours}; {found.loads} loads, {found.cold_starts} cold starts"


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 2)
