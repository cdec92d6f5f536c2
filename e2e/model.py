"""A WhisperModel under test: its resource, its pods, and requests to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from e2e.cluster import Cluster
from e2e.speech import Speech, speaking_to
from testing.live_model import stamp
from testing.operator_process import eventually

KIND = "WhisperModel"
LABEL = "audio-transcriber.io/whispermodel"
API = "/apis/audio-transcriber.io/v1alpha1"
SECONDS = 60.0
"""Timeout for starting a pod and loading its model, which usually takes a tenth of it."""

Json = dict[str, Any]

FASTER = {"size": "tiny.en", "engine": "faster-whisper", "source": {"path": "/weights/tiny.en-ct2"}}
"""The model in the default image of the tests' releases."""

# Lists the processes of a container by pid with their command lines, without ps.
_PROCESSES = """
import json, pathlib
lines = {path.parent.name: path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
print(json.dumps({pid: line.replace(bytes(1), b" ").decode() for pid, line in lines.items() if line}))
"""


@dataclass
class Model:
    """A WhisperModel and its objects."""

    cluster: Cluster
    namespace: str
    name: str
    spec: Json = field(default_factory=lambda: {"model": FASTER})

    @property
    def path(self) -> str:
        return f"{API}/namespaces/{self.namespace}/whispermodels/{self.name}"

    def apply(self, **spec: Any) -> None:
        """Apply the model. spec: overrides fields of the default spec."""
        body = {
            "apiVersion": "audio-transcriber.io/v1alpha1",
            "kind": KIND,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {**self.spec, **spec},
        }
        self.cluster.apply(body)

    def patch(self, **spec: Any) -> None:
        """Merge-patch the spec with `kubectl patch`; None removes a field."""
        patch = json.dumps({"spec": spec})
        self.cluster.kubectl(
            "patch", "whispermodel", self.name, "--namespace", self.namespace, "--type=merge", "--patch", patch
        )

    def get(self) -> Json:
        found = self.cluster.get(self.path)
        assert found is not None, f"{self.path} does not exist"
        return found

    @property
    def status(self) -> Json:
        return self.get().get("status", {})

    def condition(self, kind: str) -> Json:
        return next((one for one in self.status.get("conditions", []) if one["type"] == kind), {})

    def row(self) -> dict[str, str]:
        """Return the row printed by `kubectl get wm`, by column."""
        head, line = self.cluster.kubectl("get", "wm", self.name, "--namespace", self.namespace).splitlines()
        starts = [index for index, sign in enumerate(head) if sign != " " and (index == 0 or head[index - 1] == " ")]
        return {
            head[start:end].strip(): line[start:end].strip()
            for start, end in zip(starts, [*starts[1:], None], strict=True)
        }

    def deployment(self) -> Json | None:
        return self.cluster.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}")

    def pods(self) -> list[Json]:
        return self.cluster.items(f"/api/v1/namespaces/{self.namespace}/pods", **{LABEL: self.name})

    def reasons(self) -> list[str]:
        """Return the reasons of its Events, in order."""
        found = self.cluster.items(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")
        own = [one for one in found if (one["regarding"]["kind"], one["regarding"]["name"]) == (KIND, self.name)]
        return [one["reason"] for one in sorted(own, key=lambda one: one["eventTime"])]

    def pod(self) -> Json:
        """Return its only pod that is not terminating."""
        [pod] = [one for one in self.pods() if "deletionTimestamp" not in one["metadata"]]
        return pod

    def wait_for(self, *, seconds: float = SECONDS, **wanted: Any) -> Json:
        """Wait until the status has these values; return it."""
        return self.wait_until(
            lambda seen: all(seen.get(name) == value for name, value in wanted.items()), str(wanted), seconds=seconds
        )

    def wait_until(self, fact: Callable[[Json], bool], what: str, *, seconds: float = SECONDS) -> Json:
        """Wait until a condition holds for the status; return it."""
        seen: Json = {}

        def holds() -> Json | None:
            seen.clear()
            seen.update(self.status)
            return seen if fact(seen) else None

        try:
            return eventually(holds, f"{self.name}: {what}", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; its status: {json.dumps(seen)}") from None

    def wait_for_condition(self, kind: str, *, reason: str, seconds: float = SECONDS) -> Json:
        """Wait until a status condition has a reason; return the condition."""
        self.wait_until(
            lambda seen: any(one["type"] == kind and one["reason"] == reason for one in seen.get("conditions", [])),
            f"{kind} with reason {reason}",
            seconds=seconds,
        )
        return self.condition(kind)

    def demand(self, *, seconds: int = 30) -> None:
        """Signal demand with a Lease, as a gateway does."""
        labels = {LABEL: self.name}
        spec = {"holderIdentity": "gateway", "leaseDurationSeconds": seconds, "renewTime": stamp()}
        metadata = {"name": f"demand-{self.name}", "namespace": self.namespace, "labels": labels}
        self.cluster.apply(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        )

    def processes(self) -> dict[str, str]:
        """Return the command lines of the processes in its pod, by pid."""
        return json.loads(self.run("python", "-c", _PROCESSES))

    def run(self, *command: str) -> str:
        """Run a command in its pod."""
        pod = self.pod()["metadata"]["name"]
        return self.cluster.kubectl("exec", "--namespace", self.namespace, pod, "--", *command)

    def speaking(self, pod: str | None = None) -> AbstractContextManager[Speech]:
        """Return a client of one of its pods, by default the only one, for the time of a block."""
        name = pod or self.pod()["metadata"]["name"]
        return speaking_to(self.cluster, f"pod/{name}", namespace=self.namespace)
