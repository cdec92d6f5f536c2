"""When a schedule's entries fire: what fired last, and what comes next.

Everything is computed backwards or forwards from an instant that is given, never remembered, so an outage of any length
is caught up by itself. Cron means Debian's cron: an hour that is skipped fires right after the gap, an hour that comes
twice at its first occurrence, and two day fields that are both set mean either. Stars make no difference: what fires
must be the same whether it is looked for from before or from after.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from whispermodel.spec import Entry, Mode, Schedule, ScheduleException

_A_DAY = timedelta(days=1)
"""No zone ever put its clock back by more, not even across the date line."""
_LONG_AGO = datetime(2000, 1, 1)  # noqa: DTZ001 (the clock on the wall: an entry fires or not, whatever the zone)


_NEVER = datetime.min.replace(tzinfo=UTC)
_MOST_STRETCHES = 128
"""How many stretches between two fires are remembered for each entry."""


class ScheduleError(ValueError):
    """The schedule cannot be obeyed; the message says which part of it and why."""


@dataclass(frozen=True, slots=True)
class Fire:
    """An entry's mode comes into force. at: in UTC."""

    at: datetime
    entry: Entry

    @property
    def precedence(self) -> tuple[datetime, int]:
        """Of several fires the latest decides, and of those at the same instant the lowest mode."""
        return self.at, -self.entry.state.rank


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The time between two fires of an entry: [last, coming)."""

    last: Fire | None
    coming: Fire | None

    @property
    def start(self) -> datetime:
        return self.last.at if self.last else _NEVER

    def holds(self, at: datetime) -> bool:
        return self.start <= at and (self.coming is None or at < self.coming.at)


class _Fires:
    """What one entry fired last and fires next, seen from any instant.

    cronsim steps from hour to hour, and a plan looks at the same few stretches again and again: they are remembered.
    """

    def __init__(self, entry: Entry, zone: ZoneInfo) -> None:
        self.entry = entry
        self._zone = zone
        self._known: list[_Stretch] = []

    def around(self, at: datetime) -> _Stretch:
        place = bisect_right(self._known, at, key=lambda stretch: stretch.start)
        if place and self._known[place - 1].holds(at):
            return self._known[place - 1]
        if len(self._known) == _MOST_STRETCHES:
            self._known.clear()
        found = _Stretch(self._last(at), self._next(at))
        insort(self._known, found, key=lambda stretch: stretch.start)
        return found

    def _last(self, now: datetime) -> Fire | None:
        latest = _latest_wall_clock(now, self._zone)
        return next((fire for fire in self._iterate(latest, reverse=True) if fire.at <= now), None)

    def _next(self, after: datetime) -> Fire | None:
        wall_clock = _wall_clock(after, self._zone)
        return next((fire for fire in self._iterate(wall_clock, reverse=False) if fire.at > after), None)

    def _iterate(self, start: datetime, *, reverse: bool) -> Iterator[Fire]:
        """Iterate over the clock on the wall: with a zone, cronsim steps past changes of half an hour."""
        for wall_clock in CronSim(self.entry.cron, start, reverse=reverse):
            yield Fire(instant_of(wall_clock, self._zone), self.entry)


class Timetable:
    """A schedule that can be obeyed: its zone exists, and each of its entries fires some day."""

    def __init__(self, schedule: Schedule) -> None:
        """Raises ScheduleError."""
        self.zone = _zone_of(schedule)
        self._exceptions = schedule.exceptions
        for entry in schedule.entries:
            _require_fires(entry)
        self._entries = [_Fires(entry, self.zone) for entry in schedule.entries]

    def last_fire(self, now: datetime, *, but: Entry | None = None) -> Fire | None:
        """Return what fired last, at `now` or before; but: passing over this entry."""
        fires = [fire for one in self._entries if one.entry != but and (fire := one.around(now).last)]
        return max(fires, key=lambda fire: fire.precedence, default=None)

    def around(self, entry: Entry, at: datetime) -> tuple[Fire | None, Fire | None]:
        """Return the fires of one entry that an instant lies between: the last at it or before, and the next."""
        stretch = next(one.around(at) for one in self._entries if one.entry == entry)
        return stretch.last, stretch.coming

    def next_fire(self, after: datetime, *, of_no: Mode | None = None) -> Fire | None:
        """Return what fires next, later than `after`; of_no: passing over the entries of this mode."""
        others = (fires for fires in self._entries if fires.entry.state is not of_no)
        coming = [fire for fires in others if (fire := fires.around(after).coming)]
        return min(coming, key=lambda fire: (fire.at, fire.entry.state.rank), default=None)

    def exception_at(self, now: datetime) -> ScheduleException | None:
        """Return the exception whose period [from, to) holds `now`."""
        return next((one for one in self._exceptions if one.start <= now < one.end), None)

    def next_exception_start(self, after: datetime) -> datetime | None:
        """Return when the next exception begins, later than `after`."""
        return min((one.start for one in self._exceptions if one.start > after), default=None)


def timetable_of(schedule: Schedule) -> Timetable:
    """Return the timetable of a schedule, with what was worked out for it before. Raises ScheduleError."""
    return _timetable(schedule.time_zone, schedule.entries, exceptions=schedule.exceptions)


@lru_cache(maxsize=1024)
def _timetable(time_zone: str, entries: tuple[Entry, ...], *, exceptions: tuple[ScheduleException, ...]) -> Timetable:
    return Timetable(Schedule(time_zone=time_zone, entries=entries, exceptions=exceptions))


def _wall_clock(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def _latest_wall_clock(now: datetime, zone: ZoneInfo) -> datetime:
    """Return a time just later than any that a clock on the wall has shown until now, though it was put back."""
    untouched = _wall_clock(now.astimezone(UTC) - _A_DAY, zone) + _A_DAY
    return max(_wall_clock(now, zone), untouched).replace(microsecond=0) + timedelta(seconds=1)


def instant_of(wall_clock: datetime, zone: ZoneInfo) -> datetime:
    """Return when the clock on the wall first shows a time, in UTC; for one that it skips, the end of the gap."""
    local = wall_clock.replace(tzinfo=zone, fold=0)
    while _is_skipped(local):
        local = local.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return local.astimezone(UTC)


def _is_skipped(local: datetime) -> bool:
    """In a gap the reading with fold 0 counts with the offset from before it, which is the smaller one (PEP 495)."""
    before, after = local.utcoffset(), local.replace(fold=1).utcoffset()
    return before is not None and after is not None and before < after


def _zone_of(schedule: Schedule) -> ZoneInfo:
    try:
        return schedule.zone
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ScheduleError(
            f"there is no time zone {schedule.time_zone!r}: write an IANA name such as Europe/Berlin or Etc/UTC"
        ) from None


def _require_fires(entry: Entry) -> None:
    try:
        fires = next(CronSim(entry.cron, _LONG_AGO), None)
    except CronSimError as error:
        raise ScheduleError(f"the entry {entry.name!r} cannot fire ({error}): {entry.cron!r}") from None
    if fires is None:
        raise ScheduleError(f"the entry {entry.name!r} does not fire within 50 years: {entry.cron!r}")
