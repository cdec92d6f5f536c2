"""One WhisperModel at a real API server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from testing.api_server import ApiServer
from testing.child_process import WAIT_SECONDS
from testing.kubelet_stand_in import Kubelet
from testing.operator_process import eventually
from testing.pod_stand_in import PodServer
from testing.real_pod import RealPod

Json = dict[str, Any]
API = "/apis/audio-transcriber.io/v1alpha1"


def stamp(time: datetime | None = None) -> str:
    """Return a time in the format of Leases."""
    return (time or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class LiveModel:
    """A WhisperModel and everything that belongs to it."""

    api: ApiServer
    kubelet: Kubelet
    namespace: str
    name: str = "base"

    @property
    def path(self) -> str:
        return f"{API}/namespaces/{self.namespace}/whispermodels/{self.name}"

    @property
    def lease_path(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/demand-{self.name}"

    def apply(self, **spec: Any) -> Json:
        """Apply the model with this spec, as kubectl apply does."""
        body = {
            "apiVersion": "audio-transcriber.io/v1alpha1",
            "kind": "WhisperModel",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"model": {"size": "tiny.en"}, **spec},
        }
        return self.api.apply(self.path, body)

    def get(self) -> Json:
        return self.api.client().get(self.path).json()

    @property
    def status(self) -> Json:
        return self.get().get("status", {})

    def condition(self, kind: str) -> Json:
        return next((one for one in self.status.get("conditions", []) if one["type"] == kind), {})

    def deployment(self) -> Json:
        """Return the Deployment; {} if there is none."""
        answer = self.api.client().get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}")
        return answer.json() if answer.is_success else {}

    def pods(self) -> list[Json]:
        items = self.api.client().get(f"/api/v1/namespaces/{self.namespace}/pods").json()["items"]
        label = "audio-transcriber.io/whispermodel"
        return [pod for pod in items if pod["metadata"]["labels"].get(label) == self.name]

    def servers(self) -> list[PodServer]:
        """Return the servers of the running pods."""
        names = [pod["metadata"]["name"] for pod in self.pods()]
        found = [self.kubelet.pods[name] for name in names if name in self.kubelet.pods]
        return [server for server in found if isinstance(server, PodServer)]

    def real_servers(self) -> list[RealPod]:
        """Return the real servers of the running pods."""
        names = [pod["metadata"]["name"] for pod in self.pods()]
        found = [self.kubelet.pods[name] for name in names if name in self.kubelet.pods]
        return [server for server in found if isinstance(server, RealPod)]

    def events(self) -> list[Json]:
        items = self.api.client().get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events").json()["items"]
        mine = [one for one in items if one["regarding"].get("name") == self.name]
        return sorted(
            (one for one in mine if one["regarding"]["kind"] == "WhisperModel"), key=lambda one: one["eventTime"]
        )

    def wait_for(self, *, seconds: float = WAIT_SECONDS, **wanted: Any) -> Json:
        """Wait until the status holds these values; return it."""
        seen: Json = {}

        def holds() -> Json | None:
            seen.clear()
            seen.update(self.status)
            return seen if all(seen.get(name) == value for name, value in wanted.items()) else None

        try:
            return eventually(holds, f"{self.name}: {wanted}", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; its status: {seen}") from None

    def wait_for_events(self, *reasons: str) -> None:
        """Wait until exactly these Events have been written: each follows the status that it is about."""
        eventually(lambda: [event["reason"] for event in self.events()] == [*reasons], f"{reasons}")

    def wait_for_condition(self, kind: str, status: str) -> Json:
        def holds() -> Json | None:
            found = self.condition(kind)
            return found if found.get("status") == status else None

        return eventually(holds, f"{self.name}: {kind}={status}")

    def demand(self, *, seconds: int = 15, renewed: datetime | None = None, manual: str | None = None) -> None:
        """Renew a demand Lease, as a gateway does."""
        metadata: Json = {
            "name": f"demand-{self.name}",
            "namespace": self.namespace,
            "labels": {"audio-transcriber.io/whispermodel": self.name},
        }
        if manual is not None:
            metadata["annotations"] = {"audio-transcriber.io/manual": manual}
        spec = {"holderIdentity": "gateway", "leaseDurationSeconds": seconds, "renewTime": stamp(renewed)}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        self.api.apply(self.lease_path, body)

    def withdraw(self) -> None:
        """Delete the demand Lease."""
        self.api.client().delete(self.lease_path).raise_for_status()

    def writes(self, resource: str, *, subresource: str | None = None) -> list[Json]:
        """Return the operator's successful writes to this model's objects of a kind."""
        return [
            event
            for event in self.api.writes()
            if event["user"]["username"] == "operator"
            and event["objectRef"]["resource"] == resource
            and event["objectRef"].get("namespace") == self.namespace
            and event["objectRef"].get("subresource") == subresource
            and event["responseStatus"]["code"] < 300
        ]
