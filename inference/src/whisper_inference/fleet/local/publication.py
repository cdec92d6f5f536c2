"""Shows the models of this machine to the gateway: as WhisperModels with a status, and their servers as pods."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from whisper_inference.errors import ModelDoesNotFit
from whisper_inference.fleet.fleet import Fleet
from whisper_inference.fleet.local.hosted_model import HostedModel
from whispermodel.key import Key
from whispermodel.status import Status

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class Publication:
    """What the gateway sees. Whoever waits for a change of a model is told only when there is one."""

    fleet: Fleet
    """Where it is shown."""
    _shown: dict[Key, Status] = field(default_factory=dict[Key, Status])

    def show(self, model: HostedModel, *, unfit: ModelDoesNotFit | None, takes_work: bool) -> None:
        """Show a model. unfit: why there is no room for it. takes_work: whether jobs may be sent to its server."""
        changed = self._show_model(model, unfit=unfit)
        if self._show_server(model, takes_work=takes_work) or changed:
            self.fleet.note_change(model.key)

    def remove(self, key: Key) -> None:
        """Show a model no longer."""
        for pod in self.fleet.pods.of(key):
            self.fleet.pods.remove(pod)
        if (shown := self.fleet.models.get(key)) is not None:
            self.fleet.models.remove(shown)
        self.fleet.refusals.pop(key, None)
        self._shown.pop(key, None)
        self.fleet.note_change(key)

    def _show_model(self, model: HostedModel, *, unfit: ModelDoesNotFit | None) -> bool:
        key, status, before = model.key, model.record.status, self._shown.get(model.key)
        if before == status and _text(self.fleet.refusals.get(key)) == _text(unfit):
            return False
        if before is None or (before.state, before.target) != (status.state, status.target):
            _log_transition(key, status)
        if unfit is None:
            self.fleet.refusals.pop(key, None)
        else:
            self.fleet.refusals[key] = unfit
        self._shown[key] = status
        # Put even if only the refusal is new: the fleet reads refusals when it parses a model.
        self.fleet.models.put(model.resource())
        return True

    def _show_server(self, model: HostedModel, *, takes_work: bool) -> bool:
        shown = next(iter(self.fleet.pods.of(model.key)), None)
        pod = model.pod(takes_work=takes_work)
        if pod == shown:
            return False
        if shown is not None:
            self.fleet.pods.remove(shown)
        if pod is not None:
            self.fleet.pods.put(pod)
        return True


def _text(error: Exception | None) -> str:
    return str(error) if error else ""


def _log_transition(key: Key, status: Status) -> None:
    log.info(
        "model.transition",
        whispermodel=str(key),
        state=status.state,
        target=status.target,
        reason=status.reason,
        message=status.message,
    )
