"""Kubernetes objects, with only the fields that are needed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from whisper_cluster.names import OPERATOR
from whispermodel.status import Status


class ClusterObject(BaseModel):
    """A part of an object; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, validate_by_name=True)


Labels = Annotated[dict[str, str], BeforeValidator(lambda value: value or {})]


class OwnerReference(ClusterObject):
    api_version: str = ""
    kind: str
    name: str
    uid: str
    controller: bool = False


class OwnedSpec(ClusterObject):
    """The fields of a spec that a manager owns, as far as they matter here."""

    replicas: Annotated[dict[str, JsonValue] | None, Field(alias="f:replicas")] = None


class OwnedFields(ClusterObject):
    """FieldsV1, in part: all of it would take five times the memory of the rest of a Deployment."""

    spec: Annotated[OwnedSpec, Field(alias="f:spec")] = OwnedSpec()


class ManagedFields(ClusterObject):
    """Which fields a manager owns."""

    manager: str = ""
    subresource: str = ""
    fields_v1: Annotated[OwnedFields, Field(alias="fieldsV1")] = OwnedFields()


class Metadata(ClusterObject):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    owner_references: tuple[OwnerReference, ...] = ()
    managed_fields: tuple[ManagedFields, ...] = ()


class WhisperModelObject(ClusterObject):
    """A WhisperModel with its spec unparsed: the reconciler finds out whether it is valid."""

    metadata: Metadata
    spec: dict[str, JsonValue] = Field(default_factory=dict)
    status: dict[str, JsonValue] = Field(default_factory=dict)

    def parsed_status(self) -> Status:
        """Return the status; of one that a later operator wrote, the fields whose values are known here."""
        try:
            return Status.model_validate(self.status)
        except ValidationError as error:
            unknown = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
            return Status.model_validate({name: value for name, value in self.status.items() if name not in unknown})


class Condition(ClusterObject):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Waiting(ClusterObject):
    reason: str = ""
    message: str = ""


class Terminated(ClusterObject):
    reason: str = ""
    message: str = ""
    exit_code: int = 0
    finished_at: datetime | None = None


class ContainerState(ClusterObject):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(ClusterObject):
    name: str
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(ClusterObject):
    phase: str = "Pending"
    pod_ip: Annotated[str, Field(alias="podIP")] = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(ClusterObject):
    metadata: Metadata
    status: PodStatus = PodStatus()

    @property
    def leaving(self) -> bool:
        """Whether the pod is terminating."""
        return self.metadata.deletion_timestamp is not None

    @property
    def ended(self) -> bool:
        """Whether its containers have ended for good, as after an eviction; its Deployment replaces it."""
        return self.status.phase in ("Failed", "Succeeded")

    @property
    def ended_at(self) -> datetime | None:
        """When it ended, or the latest time known of it: the kubelet does not always record the end of a pod."""
        times = [self.metadata.creation_timestamp, *(one.last_transition_time for one in self.status.conditions)]
        times += [one.state.terminated.finished_at for one in self.status.container_statuses if one.state.terminated]
        return max((time for time in times if time), default=None) if self.ended else None

    @property
    def awaits_its_start_since(self) -> datetime | None:
        """Since when its node has been preparing its containers; None: it has no node, or its containers started."""
        if self.status.phase != "Pending":
            return None
        conditions = self.status.conditions
        taken = (one for one in conditions if one.type == "PodScheduled" and one.status == "True")
        return next((one.last_transition_time for one in taken), None)

    @property
    def serves(self) -> bool:
        """Whether its server can be called: the pod is running and ready, and has an address."""
        return self.status.phase == "Running" and bool(self.status.pod_ip) and self._is_ready

    @property
    def _is_ready(self) -> bool:
        return any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)


class Container(ClusterObject):
    name: str
    image: str = ""


class PodSpec(ClusterObject):
    containers: tuple[Container, ...] = ()


class PodTemplate(ClusterObject):
    spec: PodSpec = PodSpec()


class DeploymentSpec(ClusterObject):
    replicas: int = 1
    template: PodTemplate = PodTemplate()


class DeploymentStatus(ClusterObject):
    conditions: tuple[Condition, ...] = ()


_NOT_OTHERS = (OPERATOR, "before-first-apply")
"""The API server uses the second one for fields whose managers were cleared."""


class Deployment(ClusterObject):
    metadata: Metadata
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()

    def other_scaler(self) -> str | None:
        """Return the other manager that owns spec.replicas, if there is one."""
        for entry in self.metadata.managed_fields:
            if entry.manager not in _NOT_OTHERS and entry.fields_v1.spec.replicas is not None:
                return entry.manager
        return None


class Service(ClusterObject):
    metadata: Metadata


class NetworkPolicy(ClusterObject):
    metadata: Metadata
