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

    unresponsive_since: datetime | None = None
    """Since when a pod has not responded; None: all do."""

    def record(self, views: Sequence[PodView], now: datetime) -> None:
        """Record what each pod reported, and which pods did not respond."""
        reported = {view.pod.metadata.uid: view.report.state for view in views if view.report}
        # A container that has ended took its model with it.
        uids = {view.pod.metadata.uid for view in views if view.report or not view.failure}
        self.last_states = {uid: state for uid, state in self.last_states.items() if uid in uids} | reported
        is_unresponsive = any(view.unresponsive for view in views)
        self.unresponsive_since = (self.unresponsive_since or now) if is_unresponsive else None


def effective_state(view: PodView, observation: Observation) -> State:
    """Return the state that a pod counts with; an unresponsive one keeps its last state until it is given up.

    That is when the model has had an unresponsive pod for UNRESPONSIVE_COUNTS_AS_WORK (planning/decision.py).
    """
    if not view.unresponsive:
        return view.state
    since = observation.unresponsive_since
    if since is not None and observation.now >= since + UNRESPONSIVE_COUNTS_AS_WORK:
        return State.FAILED
    return observation.last_states.get(view.pod.metadata.uid, view.state)
