"""One WhisperModel of the folder: what it asks for, what its server does, and the status that follows from both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from whisper_cluster.names import MODEL_LABEL
from whisper_cluster.objects import Condition, Metadata, Pod, PodStatus, WhisperModelObject
from whisper_inference.errors import ModelDoesNotFit
from whisper_inference.fleet.demand import Declaration
from whisper_inference.fleet.local.attendance import Attendance, Phase
from whisper_inference.fleet.local.estimate import estimated_bytes
from whisper_inference.fleet.local.folder import FoundModel
from whisper_inference.fleet.local.observe import Sighting, idle_since, latest_manual, observed
from whisper_inference.fleet.local.placement import SERVER_BYTES, Leave, Placement, Tenant
from whisper_inference.fleet.local.receipts import recent_events
from whisper_inference.standalone.record import Record, RecordStore, digest_of
from whisper_inference.standalone.status import StatusInputs, next_status
from whispermodel.key import Key
from whispermodel.planning.modes import Reason
from whispermodel.planning.planner import Plan, manual_left, plan
from whispermodel.spec import Spec
from whispermodel.states import State
from whispermodel.status import Memory, Status
from whispermodel.status_writes import as_json, is_write_due, memory, whole

FIGURES_EVERY = timedelta(seconds=10)
"""How often figures are saved at most."""
_MIB = 2**20
_UP = (State.LOADING, State.LOADED)


@dataclass(slots=True, kw_only=True)
class HostedModel:
    """One model of this machine."""

    key: Key
    """Its name, in the gateway's namespace."""
    found: FoundModel
    """Its file."""
    records: RecordStore
    """Where its record is kept."""
    server: Attendance
    """Its server."""
    record: Record
    """What is remembered of it across restarts."""
    sighting: Sighting
    """What was seen of it last."""
    plan: Plan
    """What it should be."""
    leave: Leave | None = None
    """For whom it made room since its last work; None: it has not."""
    loads_for: str = Reason.DEMAND.value
    """Why its model was ordered to be loaded."""
    placed_at: datetime | None = None
    """Since when its model has been in memory, or is being brought there."""
    waits_since: datetime | None = None
    """Since when a request or an order has waited for it to be loaded."""
    saved: Status = field(default_factory=Status)
    """The status that was saved last."""
    saved_at: datetime | None = None
    """When."""

    @classmethod
    def of(cls, key: Key, found: FoundModel, *, records: RecordStore, server: Attendance, now: datetime) -> HostedModel:
        """Return a model with what an earlier gateway recorded of it."""
        record = adopted(records.read(), found.manifest.spec, now)
        sighting = Sighting(now, State.ZERO, None, Declaration(), running=False)
        planned = plan(found.manifest.spec, observed(sighting, record), now)
        return cls(key=key, found=found, records=records, server=server, record=record, sighting=sighting, plan=planned)

    @property
    def spec(self) -> Spec:
        """What it asks for."""
        return self.found.manifest.spec

    @property
    def ordered(self) -> bool:
        """Whether it is kept loaded on purpose, so that it makes no room."""
        return self.plan.target is State.LOADED and self.plan.reason not in (Reason.DEMAND, Reason.IDLE)

    def look(self, declared: Declaration, *, running: bool, now: datetime) -> None:
        """See what the server does, and plan."""
        self.sighting = Sighting(
            now,
            self.server.state,
            self.server.report,
            declared,
            running=running,
            back_off_seconds=self.server.back_off.left,
            made_room=self.leave is not None,
        )
        self._plan(now)
        if self.leave and (self.sighting.needed or self.ordered):
            self.leave = None
            self.sighting = replace(self.sighting, made_room=False)
            self._plan(now)
        self._note_place(now)

    def make_room(self, leave: Leave, now: datetime) -> None:
        """Plan again without new jobs: the model goes as soon as nothing runs on it."""
        self.leave = leave
        self.sighting = replace(self.sighting, leaving=True)
        self._plan(now)

    def _plan(self, now: datetime) -> None:
        self.plan = plan(self._effective_spec(), observed(self.sighting, self.record), now)

    def _effective_spec(self) -> Spec:
        """Return the spec; while its server makes room as well, as if it asked for Zero when idle."""
        if self.leave is None or self.leave.to is not State.ZERO or self.spec.idle.scale_to_zero_after is not None:
            return self.spec
        idle = self.spec.idle.model_copy(update={"scale_to_zero_after": self.spec.idle.unload_after})
        return self.spec.model_copy(update={"idle": idle})

    def _note_place(self, now: datetime) -> None:
        wanted = self.plan.target is State.LOADED
        here = self.sighting.state in _UP or (self.sighting.state is State.STARTING and wanted)
        self.placed_at = (self.placed_at or now) if here else None
        waits = not here and wanted and (self.sighting.needed or self.ordered)
        self.waits_since = (self.waits_since or now) if waits else None

    def tenant(self) -> Tenant:
        """Return the model as far as memory is concerned."""
        starting = self.server.phase is Phase.STARTING
        return Tenant(
            key=self.key,
            holds=self.server.holds or (SERVER_BYTES if starting else 0),
            needs=self.record.loaded_bytes or estimated_bytes(self.spec.model),
            placed_at=self.placed_at,
            waits_since=self.waits_since,
            needed=self.sighting.needed,
            ordered=self.ordered,
            idle_since=self.record.status.idle_since,
        )

    def adopt(self, found: FoundModel, now: datetime) -> None:
        """Put another version of its file into effect; the server is replaced when the model has changed."""
        self.found = found
        self.record = adopted(self.record, found.manifest.spec, now)

    def update(self, placement: Placement, *, unfit: ModelDoesNotFit | None, budget: int, stale: bool) -> None:
        """Bring the status and the record up to date."""
        now, report = self.sighting.now, self.server.report
        # Not while it is being started again: whoever waits for that attempt would be refused for the last one.
        failed = self.server.back_off.problem if self.sighting.state is State.FAILED else None
        problem = report.failure if report else failed
        status = next_status(
            self.record.status,
            StatusInputs(
                now=now,
                generation=self.record.generation,
                state=self.sighting.state,
                plan=replace(self.plan, message=self._message(placement, unfit=unfit, budget=budget)),
                device=report.device if report else None,
                memory=self._memory(now),
                idle_since=idle_since(self.sighting, self.record.status.idle_since),
                manual=latest_manual(self.sighting, self.record)
                if manual_left(self.spec, observed(self.sighting, self.record), now)
                else None,
                recent=recent_events(report, self.record.status, now, trigger=self.loads_for),
                failure=problem,
                failures=self.server.back_off.failures,
                changing=stale,
                problem=self.found.problem,
                unfit=str(unfit) if unfit else None,
            ),
        )
        loaded = self.server.holds if self.sighting.state is State.LOADED else 0
        changes = {
            "status": status,
            "manual": latest_manual(self.sighting, self.record),
            "loaded_bytes": loaded or self.record.loaded_bytes,
        }
        self.record = self.record.model_copy(update=changes)

    async def save(self) -> None:
        """Save the record if it is worth a write."""
        status, now = self.record.status, self.sighting.now
        if is_write_due(self.saved, status, written_at=self.saved_at, now=now, figures_every=FIGURES_EVERY):
            self.saved, self.saved_at = status, now
            await self.records.save(self.record)

    def _memory(self, now: datetime) -> Memory:
        used, reserved = self.server.gpu
        return memory(resident=self.server.holds, gpu=used, gpu_reserved=reserved, at=now)

    def _message(self, placement: Placement, *, unfit: ModelDoesNotFit | None, budget: int) -> str:
        """Return the planner's sentence, or what memory has to do with it."""
        leave = placement.leaving.get(self.key) or (self.leave if self.plan.reason is Reason.IDLE else None)
        if unfit is not None:
            return str(unfit)
        if leave is not None and self.sighting.running:
            return f"Making room for '{leave.room_for.name}': the model is unloaded when its running job ends."
        if leave is not None:
            return f"Unloaded to make room for '{leave.room_for.name}'; the next request loads it again."
        if self.waits_since and self.key not in placement.placed:
            needs = f"{self.tenant().needs // _MIB}Mi of the budget of {budget // _MIB}Mi"
            return f"Waiting for memory: it needs {needs}, and other models are in use."
        return self.plan.message

    def resource(self) -> WhisperModelObject:
        """Return the WhisperModel as a cluster would have it."""
        metadata = Metadata(
            name=self.key.name,
            namespace=self.key.namespace,
            uid=self.key.name,
            generation=self.record.generation,
            labels=self.found.manifest.metadata.labels or {},
        )
        return WhisperModelObject(
            metadata=metadata, spec=self.found.manifest.document, status=as_json(self.record.status)
        )

    def pod(self, *, takes_work: bool) -> Pod | None:
        """Return its server as a pod; None: there is none. takes_work: whether jobs may be sent to it."""
        if self.server.phase is Phase.ENDING or (self.server.phase is Phase.ABSENT and not self.server.back_off.reason):
            return None
        ready = Condition(type="Ready", status="True" if takes_work else "False")
        metadata = Metadata(
            name=f"{self.key.name}-server",
            namespace=self.key.namespace,
            uid=self.server.uid,
            labels={MODEL_LABEL: self.key.name},
        )
        address = self.server.address
        return Pod(
            metadata=metadata,
            status=PodStatus(phase="Running", pod_ip=address.ip if address else "", conditions=(ready,)),
        )


def adopted(record: Record, spec: Spec, now: datetime) -> Record:
    """Return the record with a version of the spec; one that was in effect before keeps its number and its time."""
    digest = digest_of(spec)
    if digest == record.digest:
        return record
    status = record.status.model_copy(update={"spec_since": whole(now)})
    changes = {"generation": record.generation + 1, "digest": digest, "status": status, "loaded_bytes": 0}
    return record.model_copy(update=changes)
