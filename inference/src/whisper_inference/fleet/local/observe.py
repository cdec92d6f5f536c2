"""What the planner and the placement see of one model of this machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from whisper_inference.fleet.demand import Declaration
from whisper_inference.fleet.local.declared import end_of
from whisper_inference.standalone.record import Record
from whispermodel.planning.decision import Observed
from whispermodel.planning.modes import ManualCommand
from whispermodel.states import Depth, State
from whispermodel.wire import ModelStatus


@dataclass(frozen=True, slots=True)
class Sighting:
    """One model at one instant."""

    now: datetime
    """The instant."""
    state: State
    """What the model is."""
    report: ModelStatus | None
    """What its server reported last; None: there is no server."""
    declared: Declaration
    """The demand for it."""
    running: bool
    """Whether its server is lent to a job."""
    back_off_seconds: float = 0.0
    """Until a failed start or load is tried again."""
    leaving: bool = False
    """Whether it makes room: no new job starts."""
    made_room: bool = False
    """Whether it has made room since its last work: that it worked a moment ago does not keep it loaded."""

    @property
    def needed(self) -> bool:
        """Whether requests wait for it or are being served."""
        end = end_of(self.declared)
        return self.running or (end is not None and end > self.now)


def observed(seen: Sighting, record: Record) -> Observed:
    """Return the planner's input."""
    report, status = seen.report, record.status
    idle = None if seen.leaving or seen.made_room else idle_since(seen, status.idle_since)
    began = report.work_began_seconds if report and not seen.leaving and not seen.made_room else None
    retry_at = seen.now + timedelta(seconds=seen.back_off_seconds) if seen.back_off_seconds else None
    return Observed(
        state=seen.state,
        warm=report is not None and report.depth is Depth.WARM,
        in_flight=int(seen.running),
        waiting=int(seen.needed and not seen.running and not seen.leaving),
        work_began=seen.now - timedelta(seconds=began) if began is not None else None,
        idle_since=idle,
        manual=latest_manual(seen, record),
        target=status.target,
        spec_since=status.spec_since,
        start_seconds=status.recent_start_seconds,
        retry_at=retry_at,
    )


def idle_since(seen: Sighting, known: datetime | None) -> datetime | None:
    """Return when the last work ended. known: as recorded."""
    end = end_of(seen.declared)
    if end is None or end > seen.now:
        return known
    return max(end, known) if known else end


def latest_manual(seen: Sighting, record: Record) -> ManualCommand | None:
    """Return the last manual load or unload; one from a clock that was ahead does not count yet."""
    past = [one for one in (seen.declared.manual, record.manual) if one and one.at <= seen.now]
    return max(past, key=lambda command: command.at, default=None)
