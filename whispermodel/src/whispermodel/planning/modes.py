"""Which mode is in force, and when another one comes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from whispermodel.planning.schedule import Fire, Timetable
from whispermodel.spec import Mode, Spec


class Reason(StrEnum):
    """Why the target is what it is."""

    SUSPENDED = "Suspended"
    OVERRIDE = "Override"
    DESIRED_STATE = "DesiredState"
    EXCEPTION = "Exception"
    SCHEDULE = "Schedule"
    MANUAL = "Manual"
    DEMAND = "Demand"
    IDLE = "Idle"


@dataclass(frozen=True, slots=True)
class ManualCommand:
    """A load or unload by hand: a fire at that instant. mode: Loaded or Unloaded."""

    mode: Mode
    at: datetime


@dataclass(frozen=True, slots=True)
class InForce:
    """A mode and where it comes from.

    since: when it came into force, or did so again; None: before anybody looked. until: when it ends by itself. by: in
    words. told_since: what people are told instead: a fire that brought nothing new is no news.
    """

    mode: Mode
    reason: Reason
    by: str
    since: datetime | None = None
    until: datetime | None = None
    told_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """All that decides the mode. spec_since: when this version of the spec was first obeyed; None: not known."""

    spec: Spec
    timetable: Timetable
    manual: ManualCommand | None = None
    spec_since: datetime | None = None

    def in_force(self, now: datetime) -> InForce:
        """Return the first that applies: override, desiredState, exception, the last fire or manual command, Auto."""
        override = self.spec.override
        if override and now < override.until:
            by = f"override ({override.reason})" if override.reason else "override"
            return InForce(override.state, Reason.OVERRIDE, by, since=self.spec_since, until=override.until)
        if self.spec.desired_state is not Mode.AUTO:
            return InForce(self.spec.desired_state, Reason.DESIRED_STATE, "desiredState", since=self.spec_since)
        exception = self.timetable.exception_at(now)
        if exception:
            by = f"exception '{exception.name}'"
            return InForce(exception.state, Reason.EXCEPTION, by, since=exception.start, until=exception.end)
        return self._fired_last(now) or InForce(Mode.AUTO, Reason.IDLE, "idle times")

    def next_change(self, after: datetime, *, passing_over: Mode | None = None) -> datetime | None:
        """Return when something else may come into force, later than `after`.

        passing_over: a mode whose fires would change nothing, because it is in force already.
        """
        override = self.spec.override
        if override and after < override.until:
            return override.until
        if self.spec.desired_state is not Mode.AUTO:
            return None
        exception = self.timetable.exception_at(after)
        if exception:
            return exception.end
        fire = self.timetable.next_fire(after, of_no=passing_over)
        times = [fire.at if fire else None, self.timetable.next_exception_start(after)]
        return min((time for time in times if time), default=None)

    def manual_left(self, now: datetime) -> ManualCommand | None:
        """Return the load or unload by hand that no fire has ended, be it under what beats it."""
        fire, manual = self.timetable.last_fire(now), self.manual
        if manual is None or manual.at > now:
            return None
        return manual if fire is None or _precedence(manual) > fire.precedence else None

    def _fired_last(self, now: datetime) -> InForce | None:
        manual = self.manual_left(now)
        if manual:
            return InForce(manual.mode, Reason.MANUAL, "hand", since=manual.at)
        fire = self.timetable.last_fire(now)
        if fire is None:
            return None
        by, first = f"schedule '{fire.entry.name}'", self._first_of_run(fire)
        return InForce(fire.entry.state, Reason.SCHEDULE, by, since=fire.at, told_since=first)

    def _first_of_run(self, fire: Fire) -> datetime:
        """Return since when an entry has fired without another in between; of one without others, since the spec."""
        other = self.timetable.last_fire(fire.at, but=fire.entry)
        start = other.at if other else self.spec_since
        if start is None:
            return fire.at
        last, coming = self.timetable.around(fire.entry, start)
        if last and (other is None or last.precedence > other.precedence):
            return last.at
        return coming.at if coming else fire.at


def _precedence(manual: ManualCommand) -> tuple[datetime, int]:
    return manual.at, -manual.mode.rank
