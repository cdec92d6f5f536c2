"""What is known of one WhisperModel's pods: Kubernetes' view and the servers' own answers, taken together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from whisper_cluster.errors import PodRefused, PodUnreachable
from whisper_cluster.objects import Deployment, Lease, Pod
from whisper_cluster.pods import Address, Memory, Pods, Report
from whisper_operator.reconcile.failures import UNSCHEDULABLE, Failure, failure_of, late_start_of, replica_failure_of
from whispermodel.planning.decision import UNKNOWN_COUNTS_AS_WORK, Observed
from whispermodel.planning.modes import ManualCommand
from whispermodel.spec import State
from whispermodel.status import Status

_WAVERING = timedelta(seconds=2)
_GONE_WITHIN = timedelta(minutes=1)
"""What a node may take to have a pod gone whose time is up; one that is still there then is on a node that is lost."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod: its server's report, or why there is none. address: None until it serves."""

    pod: Pod
    address: Address | None = None
    report: Report | None = None
    memory: Memory | None = None
    failure: Failure | None = None
    unresponsive: str | None = None

    @property
    def state(self) -> State:
        """What the pod amounts to; one that does not answer is what it was, which nobody knows: still starting."""
        if self.report is not None:
            return self.report.state
        return State.FAILED if self.failure else State.STARTING

    def ignoring_unschedulable(self) -> PodView:
        """Take a pod that no node takes for one that starts: what it needs, pods that are leaving may still hold."""
        return replace(self, failure=None) if self.failure and self.failure.reason == UNSCHEDULABLE else self


@dataclass(frozen=True, slots=True)
class Observation:
    """All that belongs to one WhisperModel, at one instant. ended: why a pod that is wanted is no more.

    drains_until: until when pods that have been told to end may hold what the next one needs.
    """

    now: datetime
    deployment: Deployment | None = None
    pods: tuple[PodView, ...] = ()
    leaving: int = 0
    drains_until: datetime | None = None
    leases: tuple[Lease, ...] = ()
    refusal: Failure | None = None
    ended: Failure | None = None

    @property
    def reports(self) -> list[Report]:
        """What the pods that answered said."""
        return [view.report for view in self.pods if view.report]

    @property
    def other_scaler(self) -> str | None:
        """Who else writes the Deployment's replicas."""
        return self.deployment.other_scaler() if self.deployment else None

    @property
    def is_held_at_zero(self) -> bool:
        """Whether somebody else has the Deployment at no pods, which the operator then leaves at that."""
        return self.other_scaler is not None and self.deployment is not None and self.deployment.spec.replicas == 0

    @property
    def failure(self) -> Failure | None:
        """The first root cause: what was refused, or what ails a pod."""
        return self.start_blocker or next((view.failure for view in self.pods if view.failure), None)

    @property
    def start_blocker(self) -> Failure | None:
        """What keeps a pod from starting; pods that answer have started, whatever ails them."""
        pods = (view.failure for view in self.pods if view.report is None)
        causes = [self.refusal, *pods, replica_failure_of(self.deployment), self.ended]
        return next((cause for cause in causes if cause), None)

    @property
    def late(self) -> Failure | None:
        """What is told of a pod that takes long to start, which may yet come to something."""
        return next((late for view in self.pods if (late := late_start_of(view.pod, self.now))), None)

    @property
    def memory(self) -> Memory | None:
        """The sum over the pods that answer; None: one of them was not asked, or its metrics could not be read."""
        known = [view.memory for view in self.pods if view.memory]
        return sum(known, Memory()) if known and len(known) == len(self.reports) else None


def drains_until(pods: Iterable[Pod]) -> datetime | None:
    """Return until when pods that have been told to end may take; None: none has been."""
    # Of a pod, the API server dates the deletion ahead by its grace period.
    ends = [pod.metadata.deletion_timestamp for pod in pods if pod.metadata.deletion_timestamp]
    return max(ends) + _GONE_WITHIN if ends else None


async def observe_pods(
    pods: Sequence[Pod], calls: Pods, *, key: str | None, known: Mapping[str, State], scrape: bool
) -> tuple[PodView, ...]:
    """Ask every pod that serves, or once did, for its status, all at once; and then for its memory.

    known: the states of pods that have answered before, by uid. scrape: whether memory is asked for though no pod has
    moved since.
    """
    views = await asyncio.gather(*(_observe_pod(pod, calls, key=key, known=known) for pod in pods))
    moved = any(view.report and view.report.state is not known.get(view.pod.metadata.uid) for view in views)
    if not (scrape or moved):
        return tuple(views)
    return tuple(await asyncio.gather(*(_with_memory(view, calls) for view in views)))


async def _observe_pod(pod: Pod, calls: Pods, *, key: str | None, known: Mapping[str, State]) -> PodView:
    failure = failure_of(pod)
    # A pod that answered before and is not ready now may still be at work: it is asked, never taken for a new one.
    if failure or not (pod.serves or (pod.metadata.uid in known and pod.status.pod_ip)):
        return PodView(pod, failure=failure)
    address = Address(pod.status.pod_ip, key)
    try:
        report = await calls.report(address)
    except (PodUnreachable, PodRefused) as error:
        return PodView(pod, address, unresponsive=str(error))
    return PodView(pod, address, report=report, failure=_load_failure(report))


def _load_failure(report: Report) -> Failure | None:
    """Return why the last load failed; one under way changes nothing of that before it has succeeded."""
    if report.state is not State.FAILED and report.failure is None:
        return None
    return Failure("LoadFailed", report.failure or "The model could not be loaded.")


async def _with_memory(view: PodView, calls: Pods) -> PodView:
    if view.report is None or view.address is None:
        return view
    try:
        return replace(view, memory=await calls.memory(view.address))
    except (PodUnreachable, PodRefused):
        # It told its state: figures that cannot be read are no reason to think ill of it.
        return view


def observed(
    observation: Observation, status: Status, *, last_states: Mapping[str, State], unknown_since: datetime | None
) -> Observed:
    """Return what the planner needs to know; the caller adds what it remembers.

    last_states: of each pod, when it last spoke. Pods that are leaving do not count: nobody sends them work any more.
    """
    given_up = unknown_since is not None and observation.now >= unknown_since + UNKNOWN_COUNTS_AS_WORK
    states = [_state_of(view, last_states, given_up=given_up) for view in observation.pods] or [State.ZERO]
    reports = observation.reports
    return Observed(
        state=min(states, key=lambda state: state.rank),
        highest=max(states, key=lambda state: state.rank),
        warm=any(report.depth == "warm" for report in reports),
        in_flight=sum(report.in_flight for report in reports),
        waiting=sum(report.queued for report in reports) + _demands(observation),
        work_began=_latest(observation.now, [report.work_began_seconds for report in reports]),
        idle_since=_idle_since(observation, status),
        unknown_since=unknown_since,
        manual=_manual(observation, status),
        target=status.target,
        start_seconds=status.recent_start_seconds,
    )


def _state_of(view: PodView, last_states: Mapping[str, State], *, given_up: bool) -> State:
    """A pod that went silent is taken for what it was when it last spoke, until it is given up."""
    if not view.unresponsive:
        return view.state
    return State.FAILED if given_up else last_states.get(view.pod.metadata.uid, view.state)


def _demands(observation: Observation) -> int:
    """Return how many gateways say, by a lease that has not run out, that work waits."""
    return sum(1 for end in _demand_ends(observation) if end > observation.now)


def _demand_ends(observation: Observation) -> list[datetime]:
    return [end for lease in observation.leases if (end := lease.expires_at())]


def _idle_since(observation: Observation, status: Status) -> datetime | None:
    """Return when the last work, or the last wish for it, ended: as is seen now, or as was noted before.

    The pods tell an age, so the time wavers by what an answer takes: one that is close to the noted one is the same.
    """
    noted = status.idle_since
    worked = [report.idle_seconds for report in observation.reports if report.work_began_seconds is not None]
    ends = [end for end in _demand_ends(observation) if end <= observation.now]
    latest = _latest(observation.now, worked)
    seen: datetime | None = max([*ends, latest] if latest else ends, default=None)
    if seen is None or (noted and seen - noted < _WAVERING):
        return noted
    return seen.replace(microsecond=0)


def _latest(now: datetime, ages: Sequence[float | None]) -> datetime | None:
    known = [age for age in ages if age is not None]
    return now - timedelta(seconds=min(known)) if known else None


def _manual(observation: Observation, status: Status) -> ManualCommand | None:
    """Return the latest load or unload by hand that is known: to a pod, through a gateway, or noted before."""
    commands = (
        [report.manual for report in observation.reports]
        + [lease.manual for lease in observation.leases]
        + [status.manual]
    )
    # One that is dated ahead, by a clock that goes before ours, must not hide those that hold already.
    known = [
        ManualCommand(command.state, command.at) for command in commands if command and command.at <= observation.now
    ]
    return max(known, key=lambda command: command.at, default=None)
