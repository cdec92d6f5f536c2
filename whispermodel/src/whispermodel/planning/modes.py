"""Which mode is in force, and when another one comes into force."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from whispermodel.instants import Instant
from whispermodel.planning.tie_rule import precedence
from whispermodel.states import Mode

if TYPE_CHECKING:
    # A server without a model file notes manual commands too, and must not import schedules at its start.
    from whispermodel.planning.schedule import Fire, Timetable
    from whispermodel.spec import Spec

MAX_CHANGES = 64
"""Bound of every search through changes to come, for schedules that fire often and change nothing."""


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
    """A manual load or unload, which counts as a fire at that instant."""

    state: Mode
    at: Instant


@dataclass(frozen=True, slots=True)
class InForce:
    """A mode, and what brought it into force."""

    mode: Mode
    """The mode."""
    reason: Reason
    """The kind of order that it comes from."""
    by: str
    """That order in words, such as `schedule 'evening'`."""
    since: datetime | None = None
    """When it came into force, or did so again; None if that was before the first observation."""
    until: datetime | None = None
    """When it ends by itself."""
    first_since: datetime | None = None
    """When it first came into force; later fires of the same entry renewed it without changing anything."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Everything that decides the mode."""

    spec: Spec
    """The spec as people wrote it."""
    timetable: Timetable
    """The timetable of its schedule."""
    manual: ManualCommand | None = None
    """The last manual load or unload."""
    spec_since: datetime | None = None
    """When this version of the spec was first applied; None if unknown."""

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

    def next_change(self, after: datetime, *, skipping: Mode | None = None) -> datetime | None:
        """Return when something else may come into force, later than `after`.

        skipping: a mode whose fires would change nothing, because it is already in force.
        """
        override = self.spec.override
        if override and after < override.until:
            return override.until
        if self.spec.desired_state is not Mode.AUTO:
            return None
        exception = self.timetable.exception_at(after)
        if exception:
            return exception.end
        fire = self.timetable.next_fire(after, skipping=skipping)
        times = [fire.at if fire else None, self.timetable.next_exception_start(after)]
        return min((time for time in times if time), default=None)

    def timeline(
        self, after: datetime, *, lead: timedelta = timedelta(), marks: Iterable[datetime] = (), renewals: bool = False
    ) -> Iterator[tuple[datetime, InForce]]:
        """Yield the instants later than `after` at which another order may count, with what is then in force.

        lead: also yield the instants that lie so long before a change. marks: further instants to yield. renewals:
        also yield fires of the mode that the schedule has already brought into force. Ends after MAX_CHANGES instants.
        """
        marks, at, in_force = sorted(marks), after, self.in_force(after)
        for _ in range(MAX_CHANGES):
            renewed = None if renewals or in_force.reason is not Reason.SCHEDULE else in_force.mode
            change = self.next_change(at, skipping=renewed)
            led = self.next_change(at + lead, skipping=renewed) if lead else None
            times = [change, led - lead if led else None, next((mark for mark in marks if mark > at), None)]
            following = min((time for time in times if time), default=None)
            if following is None:
                return
            at, in_force = following, self.in_force(following)
            yield at, in_force

    def manual_left(self, now: datetime) -> ManualCommand | None:
        """Return the manual command that no fire has ended yet, even while something else takes precedence over it."""
        fire, manual = self.timetable.last_fire(now), self.manual
        if manual is None or manual.at > now:
            return None
        return manual if fire is None or precedence(manual.at, manual.state) > fire.precedence else None

    def _fired_last(self, now: datetime) -> InForce | None:
        manual = self.manual_left(now)
        if manual:
            return InForce(manual.state, Reason.MANUAL, "manual command", since=manual.at)
        fire = self.timetable.last_fire(now)
        if fire is None:
            return None
        by, first = f"schedule '{fire.entry.name}'", self._first_of_run(fire)
        return InForce(fire.entry.state, Reason.SCHEDULE, by, since=fire.at, first_since=first)

    def _first_of_run(self, fire: Fire) -> datetime:
        """Return the first fire of an entry after the last of any other; without others, after the spec was applied."""
        other = self.timetable.last_fire(fire.at, skipping=fire.entry)
        start = other.at if other else self.spec_since
        if start is None:
            return fire.at
        last, coming = self.timetable.around(fire.entry, start)
        if last and (other is None or last.precedence > other.precedence):
            return last.at
        return coming.at if coming else fire.at
