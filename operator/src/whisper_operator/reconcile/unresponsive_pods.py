"""Pods that do not respond: since when, and the state that each counts with until the planner gives up on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from whisper_operator.reconcile.observation import Observation, PodView
from whispermodel.planning.decision import UNRESPONSIVE_COUNTS_AS_WORK
from whispermodel.states import State


@dataclass(slots=True)
class PodResponses:
    """The last responses of a model's pods. Changed when the model is observed."""

    last_states: dict[str, State] = field(default_factory=dict[str, State])
    """The state of each pod when it last responded, by uid."""

    unresponsive_since: dict[str, datetime] = field(default_factory=dict[str, datetime])
    """Since when each pod that does not respond has been silent, by uid."""

    def record(self, views: Sequence[PodView], now: datetime) -> None:
        """Record what each pod reported, and which pods did not respond."""
        reported = {view.pod.metadata.uid: view.report.state for view in views if view.report}
        # A container that has ended took its model with it.
        uids = {view.pod.metadata.uid for view in views if view.report or not view.failure}
        self.last_states = {uid: state for uid, state in self.last_states.items() if uid in uids} | reported
        silent = [view.pod.metadata.uid for view in views if view.unresponsive]
        self.unresponsive_since = {uid: self.unresponsive_since.get(uid, now) for uid in silent}


def effective_state(view: PodView, observation: Observation) -> State:
    """Return the state that a pod counts with; an unresponsive one keeps its last state for a while."""
    uid = view.pod.metadata.uid
    since = observation.unresponsive_since.get(uid)
    if since is None:
        return view.state
    if observation.now >= since + UNRESPONSIVE_COUNTS_AS_WORK:
        return State.FAILED
    return observation.last_states.get(uid, view.state)


def unresponsive_since(observation: Observation) -> datetime | None:
    """Return since when the pod that fell silent last has not responded: it may still be working."""
    return max(observation.unresponsive_since.values(), default=None)
