"""Leases: the demand for a model, which a gateway renews and which expires by itself, and the leadership."""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from whisper_cluster.names import MANUAL_ANNOTATION
from whisper_cluster.objects import ClusterObject, Metadata
from whispermodel.planning.modes import ManualCommand

_MANUAL_COMMAND = TypeAdapter(ManualCommand)


def manual_as_json(command: ManualCommand) -> str:
    """Return the annotation that carries a manual load or unload."""
    return _MANUAL_COMMAND.dump_json(command).decode()


class LeaseSpec(ClusterObject):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int | None = None


class Lease(ClusterObject):
    """A Lease: the operator's leadership, or a gateway's demand for a model while it has not expired."""

    metadata: Metadata
    spec: LeaseSpec = LeaseSpec()

    @property
    def manual(self) -> ManualCommand | None:
        """The manual load or unload through a gateway; None also if the annotation is invalid."""
        try:
            return _MANUAL_COMMAND.validate_json(self.metadata.annotations.get(MANUAL_ANNOTATION, ""))
        except ValidationError:
            return None

    def expires_at(self) -> datetime | None:
        """Return when it expires unless it is renewed; None: its times are missing or out of range."""
        if self.spec.renew_time is None or self.spec.lease_duration_seconds is None:
            return None
        try:
            end = self.spec.renew_time + timedelta(seconds=self.spec.lease_duration_seconds)
        except OverflowError:
            return None
        # Other years overflow in some time zones.
        return end if 2000 <= end.year < 3000 else None
