"""Report one WhisperModel: write its status once, if that is worth it, then its Events; and keep its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import JsonValue, ValidationError

from whisper_cluster.api import WHISPER_MODELS, Cluster
from whisper_cluster.cache import Store, key_of
from whisper_cluster.objects import WhisperModelObject
from whisper_operator.reconcile.conditions import ConditionInputs, conditions, invalid_spec, unproven_failure
from whisper_operator.reconcile.events import Recorder, events_between, lag_of_schedule
from whisper_operator.reconcile.model_metrics import ModelMetrics
from whisper_operator.reconcile.observation import Observation
from whisper_operator.reconcile.parsed_model import ParsedModel
from whisper_operator.reconcile.receipts import Receipts
from whisper_operator.reconcile.status import (
    BRIEF_LOAD,
    FIGURES_EVERY,
    StatusInputs,
    Unreported,
    is_start_continued,
    next_status,
)
from whispermodel.conditions import as_conditions
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import Plan, manual_left
from whispermodel.states import State
from whispermodel.status import Status
from whispermodel.status_writes import as_json, is_write_due

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reporter:
    """Writes statuses and Events, and keeps the metrics of models."""

    cluster: Cluster
    """The API server."""

    store: Store
    """The objects that the watches have shown; what is written goes there at once."""

    recorder: Recorder
    """Writes Events."""

    model_metrics: ModelMetrics
    """The metrics that name a model."""

    async def report(self, model: ParsedModel, inputs: StatusInputs, receipts: Receipts) -> None:
        """Report what was observed, planned and done. Raises ClusterError."""
        now, before, after = inputs.observation.now, model.status, next_status(model.status, inputs)
        lag = lag_of_schedule(before, after, receipts.called_at or now)
        self.model_metrics.record(model.key, model.spec, inputs.observation, after=after, lag=lag)
        if receipts.is_called_since(now - BRIEF_LOAD) and is_start_continued(before, after):
            # The load will probably have ended in a moment, and then one status and one Event report all of it.
            return
        if is_write_due(before, after, written_at=receipts.written_at, now=now, figures_every=FIGURES_EVERY):
            await self._write(model.resource, after)
            receipts.mark_written(now)
            _log_transition(model, after)
            for event in events_between(before, after, lag=lag):
                await self.recorder.emit(model.identity, event, now)
        receipts.called_at = None

    async def report_invalid_spec(self, resource: WhisperModelObject, error: ValidationError, now: datetime) -> None:
        """Report which field of the spec is invalid, and keep everything else as it is. Raises ClusterError."""
        before = resource.parsed_status()
        message = f"Invalid spec: {_first_problem(error)}. Nothing is changed until the spec is fixed."
        findings = as_conditions(before, invalid_spec(message), generation=resource.metadata.generation, now=now)
        after = before.model_copy(update={"message": message, "conditions": tuple(findings)})
        self.model_metrics.record_invalid(key_of(resource), after, now)
        if after != before:
            await self._write(resource, after)

    async def _write(self, resource: WhisperModelObject, status: Status) -> None:
        metadata: JsonValue = {
            "name": resource.metadata.name,
            "namespace": resource.metadata.namespace,
            "uid": resource.metadata.uid,
        }
        body: dict[str, JsonValue] = {"metadata": metadata, "status": as_json(status)}
        written = await self.cluster.apply(WHISPER_MODELS, body, subresource="status")
        self.store.models.put(WhisperModelObject.model_validate(written))


def status_inputs(
    model: ParsedModel,
    observation: Observation,
    *,
    observed: Observed,
    planned: Plan,
    state: State,
    replicas: int,
    unreported: Unreported,
) -> StatusInputs:
    """Return what the next status is made of, its conditions included."""
    last_unload = unreported.unload or model.status.last_unload
    unproven = unproven_failure(model.status, planned, generation=model.generation, state=state)
    findings = conditions(ConditionInputs(state, planned, observation, replicas, last_unload, unproven))
    return StatusInputs(
        generation=model.generation,
        state=state,
        plan=planned,
        observation=observation,
        desired_replicas=replicas,
        spec_since=model.spec_since(observation.now),
        idle_since=observed.idle_since,
        manual=manual_left(model.spec, observed, observation.now),
        unreported=unreported,
        findings=tuple(findings),
    )


def _log_transition(model: ParsedModel, after: Status) -> None:
    if (model.status.state, model.status.target) != (after.state, after.target):
        log.info("model.moved", whispermodel=str(model.key), state=after.state, target=after.target, why=after.message)


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"spec.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
