"""What a model's operator reports, for clients: what keeps it away, how near it is, and how long that takes."""

from __future__ import annotations

import re
from datetime import datetime

from whisper_inference.errors import ModelUnavailable, ServiceError
from whisper_inference.fleet.fleet import FleetModel
from whisper_inference.model_control import refusal_of
from whispermodel.conditions import ConditionType
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import plan
from whispermodel.spec import DemandPolicy, Spec
from whispermodel.states import State
from whispermodel.status import Status

_REFUSED = "Refused"
"""The reason of Ready while demandPolicy keeps new requests out."""
_RETRY_SECONDS = 10.0
"""Where no start was measured yet."""


def cause_of(model: FleetModel) -> ServiceError | None:
    """Return why a request would not be served, not even after waking the model; None: it would."""
    if model.refusal is not None:
        return model.refusal
    ready = model.status.condition(ConditionType.READY)
    if ready is None or ready.status != "False" or ready.reason == _REFUSED:
        return None
    retry_after = max(model.status.recent_start_seconds, default=_RETRY_SECONDS)
    return ModelUnavailable(cause=_kebab(ready.reason), reason=ready.message, retry_after=retry_after)


def new_work_refusal(model: FleetModel, now: datetime) -> ServiceError | None:
    """Return why no new work is let in: the spec is invalid, or demandPolicy refuses; None: it is let in.

    The plan is made here, since the operator's report may be a moment behind the schedule.
    """
    if model.spec is None:
        return cause_of(model) or ModelUnavailable(cause="invalid-spec", reason="The spec is invalid.")
    if model.spec.demand_policy is not DemandPolicy.REFUSE:
        return None
    return refusal_of(plan(model.spec, _observed(model.status), now), now)


def _observed(status: Status) -> Observed:
    return Observed(
        state=status.state or State.ZERO,
        idle_since=status.idle_since,
        manual=status.manual,
        target=status.target,
        spec_since=status.spec_since,
    )


def ready_in_seconds(spec: Spec | None, status: Status) -> float | None:
    """Return how long a start and load are likely to take from here; None: nothing was measured."""
    if spec is None or status.state is State.LOADED:
        return 0.0 if spec else None
    if status.state in (State.UNLOADED, State.LOADING) and status.last_load is not None:
        return status.last_load.seconds
    return max(status.recent_start_seconds, default=None)


def _kebab(reason: str) -> str:
    """Return a reason as problem documents write it: ImagePullFailed becomes image-pull-failed."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", reason).lower()
