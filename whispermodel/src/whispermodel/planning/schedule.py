"""When a schedule's entries fire: what fired last, and what fires next.

Everything is computed backwards or forwards from a given instant and nothing is remembered, so the first plan after an
outage of any length is right. Cron means Debian's cron: a fire in an hour that the clock skips happens right after the
gap, one in an hour that comes twice at its first occurrence, and two day fields that are both restricted mean either.
Unlike in Debian's cron, stars make no difference to clock changes: a search from before and one from after an instant
must find the same fires.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from whispermodel.planning.tie_rule import precedence
from whispermodel.spec import Entry, Schedule, ScheduleException
from whispermodel.states import Mode

_A_DAY = timedelta(days=1)
"""No time zone ever set its clock back by more, not even across the date line."""
_LONG_AGO = datetime(2000, 1, 1)  # noqa: DTZ001 (local time: whether an entry ever fires depends on no zone)
_NEVER = datetime.min.replace(tzinfo=UTC)
_MAX_INTERVALS = 128
"""How many intervals between two fires are cached for each entry."""


class ScheduleError(ValueError):
    """The schedule is invalid; the message says which part of it and why."""


@dataclass(frozen=True, slots=True)
class Fire:
    """An entry's mode comes into force. at: in UTC."""

    at: datetime
    entry: Entry

    @property
    def precedence(self) -> tuple[datetime, int]:
        """The sort key by which fires and manual commands take precedence."""
        return precedence(self.at, self.entry.state)


@dataclass(frozen=True, slots=True)
class _Interval:
    """The time between two fires of an entry: [last, coming)."""

    last: Fire | None
    coming: Fire | None

    @property
    def start(self) -> datetime:
        return self.last.at if self.last else _NEVER

    def holds(self, at: datetime) -> bool:
        return self.start <= at and (self.coming is None or at < self.coming.at)


class _Fires:
    """The last and the next fire of one entry, from any instant.

    cronsim steps from hour to hour, and plans ask about the same few intervals again and again, so these are cached.
    """

    def __init__(self, entry: Entry, zone: ZoneInfo) -> None:
        self.entry = entry
        self._zone = zone
        self._known: list[_Interval] = []

    def around(self, at: datetime) -> _Interval:
        place = bisect_right(self._known, at, key=lambda interval: interval.start)
        if place and self._known[place - 1].holds(at):
            return self._known[place - 1]
        if len(self._known) == _MAX_INTERVALS:
            self._known.clear()
        found = _Interval(self._last(at), self._next(at))
        insort(self._known, found, key=lambda interval: interval.start)
        return found

    def _last(self, now: datetime) -> Fire | None:
        latest = _latest_wall_clock(now, self._zone)
        return next((fire for fire in self._iterate(latest, reverse=True) if fire.at <= now), None)

    def _next(self, after: datetime) -> Fire | None:
        wall_clock = _wall_clock(after, self._zone)
        return next((fire for fire in self._iterate(wall_clock, reverse=False) if fire.at > after), None)

    def _iterate(self, start: datetime, *, reverse: bool) -> Iterator[Fire]:
        """Iterate in local time without a zone: given a zone, cronsim skips clock changes of half an hour."""
        for wall_clock in CronSim(self.entry.cron, start, reverse=reverse):
            yield Fire(instant_of(wall_clock, self._zone), self.entry)


class Timetable:
    """A valid schedule: its time zone exists, and each of its entries fires at some time."""

    def __init__(self, schedule: Schedule) -> None:
        """Raises ScheduleError."""
        self.zone = _zone_of(schedule)
        self._exceptions = schedule.exceptions
        for entry in schedule.entries:
            _require_fires(entry)
        self._entries = [_Fires(entry, self.zone) for entry in schedule.entries]

    def last_fire(self, now: datetime, *, skipping: Entry | None = None) -> Fire | None:
        """Return what fired last, at `now` or before. skipping: an entry that does not count."""
        fires = [fire for one in self._entries if one.entry != skipping and (fire := one.around(now).last)]
        return max(fires, key=lambda fire: fire.precedence, default=None)

    def around(self, entry: Entry, at: datetime) -> tuple[Fire | None, Fire | None]:
        """Return the last fire of one entry, at an instant or before, and its next one."""
        interval = next(one.around(at) for one in self._entries if one.entry == entry)
        return interval.last, interval.coming

    def next_fire(self, after: datetime, *, skipping: Mode | None = None) -> Fire | None:
        """Return what fires next, later than `after`. skipping: a mode whose entries do not count."""
        others = (fires for fires in self._entries if fires.entry.state is not skipping)
        coming = [fire for fires in others if (fire := fires.around(after).coming)]
        first = min((fire.at for fire in coming), default=None)
        return max((fire for fire in coming if fire.at == first), key=lambda fire: fire.precedence, default=None)

    def exception_at(self, now: datetime) -> ScheduleException | None:
        """Return the exception whose period [from, to) contains `now`."""
        return next((one for one in self._exceptions if one.start <= now < one.end), None)

    def next_exception_start(self, after: datetime) -> datetime | None:
        """Return when the next exception begins, later than `after`."""
        return min((one.start for one in self._exceptions if one.start > after), default=None)


def timetable_of(schedule: Schedule) -> Timetable:
    """Return the timetable of a schedule, with the fires that are cached for it. Raises ScheduleError."""
    return _timetable(schedule.time_zone, schedule.entries, exceptions=schedule.exceptions)


@lru_cache(maxsize=1024)
def _timetable(time_zone: str, entries: tuple[Entry, ...], *, exceptions: tuple[ScheduleException, ...]) -> Timetable:
    return Timetable(Schedule(time_zone=time_zone, entries=entries, exceptions=exceptions))


def _wall_clock(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def _latest_wall_clock(now: datetime, zone: ZoneInfo) -> datetime:
    """Return a time just later than any that local clocks have shown until now, even if they were set back."""
    untouched = _wall_clock(now.astimezone(UTC) - _A_DAY, zone) + _A_DAY
    return max(_wall_clock(now, zone), untouched).replace(microsecond=0) + timedelta(seconds=1)


def instant_of(wall_clock: datetime, zone: ZoneInfo) -> datetime:
    """Return when local clocks first show a time, in UTC; for a time that they skip, the end of the gap."""
    local = wall_clock.replace(tzinfo=zone, fold=0)
    while _is_skipped(local):
        local = local.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return local.astimezone(UTC)


def _is_skipped(local: datetime) -> bool:
    """In a gap, fold 0 uses the offset from before it, which is the smaller one (PEP 495)."""
    before, after = local.utcoffset(), local.replace(fold=1).utcoffset()
    return before is not None and after is not None and before < after


def _zone_of(schedule: Schedule) -> ZoneInfo:
    try:
        return schedule.zone
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ScheduleError(
            f"there is no time zone {schedule.time_zone!r}: use an IANA name such as Europe/Berlin or Etc/UTC"
        ) from None


def _require_fires(entry: Entry) -> None:
    try:
        fires = next(CronSim(entry.cron, _LONG_AGO), None)
    except CronSimError as error:
        raise ScheduleError(f"the entry {entry.name!r} cannot fire ({error}): {entry.cron!r}") from None
    if fires is None:
        raise ScheduleError(f"the entry {entry.name!r} does not fire within 50 years: {entry.cron!r}")
