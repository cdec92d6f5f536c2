"""Volumes for claims: folders of this machine, because no provisioner works without a network."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tools.clusters.base import ProviderFailed, program
from tools.clusters.local.layout import ADMIN_KUBECONFIG, NAME, VOLUMES

Json = dict[str, Any]

_CLASS = "local"
_COUNT = 8
_SIZE = "20Gi"
"""The chart's default for the gateway. It is not enforced."""


def create() -> None:
    """Create the folders, their PersistentVolumes and a default StorageClass. Raises ProviderFailed."""
    for number in range(_COUNT):
        (VOLUMES / str(number)).mkdir(parents=True, exist_ok=True)
    command = [program("kubectl"), f"--kubeconfig={ADMIN_KUBECONFIG}", "apply", "--filename=-"]
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects()})
    done = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProviderFailed(f"the volumes cannot be created: {done.stderr.strip()}")


def objects() -> list[Json]:
    """Return the StorageClass and the PersistentVolumes."""
    return [_storage_class(), *(_volume(number) for number in range(_COUNT))]


def _storage_class() -> Json:
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": _CLASS, "annotations": default},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _volume(number: int) -> Json:
    # Not hostPath, whose owner a pod's fsGroup does not change.
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
    spec = {
        "capacity": {"storage": _SIZE},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": _CLASS,
        "local": {"path": str(VOLUMES / str(number))},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"local-{number}"}, "spec": spec}
