"""Declares demand as a Lease in the cluster: one for each model and gateway (docs/waking.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from whisper_cluster.api import LEASES, WHISPER_MODELS, Cluster
from whisper_cluster.leases import manual_as_json
from whisper_cluster.names import MANAGED_BY, MANUAL_ANNOTATION, MODEL_LABEL
from whisper_inference.fleet.demand import Declaration
from whisper_inference.fleet.fleet import Fleet
from whispermodel.key import Key

GATEWAY = "whisper-gateway"


@dataclass(frozen=True, slots=True)
class DemandLeases:
    """Writes the demand Leases of one gateway."""

    cluster: Cluster
    """The API server."""
    fleet: Fleet
    """Where the models are: each Lease is deleted with its model."""
    identity: str
    """This gateway's name, the same after a restart."""

    async def declare(self, key: Key, declaration: Declaration) -> None:
        """Apply the Lease. Raises ClusterError. A model that is gone needs none."""
        model = self.fleet.models.get(key)
        if model is not None:
            await self.cluster.apply(LEASES, self._lease(key, declaration, uid=model.metadata.uid))

    def _lease(self, key: Key, declaration: Declaration, *, uid: str) -> dict[str, object]:
        owner = {"apiVersion": WHISPER_MODELS.api, "kind": WHISPER_MODELS.kind, "name": key.name, "uid": uid}
        spec: dict[str, object] = {"holderIdentity": self.identity}
        if declaration.renewed_at is not None:
            spec |= {"leaseDurationSeconds": declaration.seconds, "renewTime": _micro_time(declaration.renewed_at)}
        if declaration.began_at is not None:
            spec["acquireTime"] = _micro_time(declaration.began_at)
        manual = declaration.manual
        annotations = {MANUAL_ANNOTATION: manual_as_json(manual)} if manual else {}
        return {
            "metadata": {
                "name": f"{key.name}-{self.identity}",
                "namespace": key.namespace,
                "labels": {MODEL_LABEL: key.name, MANAGED_BY: GATEWAY},
                "annotations": annotations,
                "ownerReferences": [owner],
            },
            "spec": spec,
        }


def _micro_time(at: datetime) -> str:
    """Return a time as Kubernetes' MicroTime, which needs all six digits."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
