"""Names of labels, annotations and objects in the cluster."""

from __future__ import annotations

from whispermodel.spec import GROUP

MODEL_LABEL = f"{GROUP}/whispermodel"
"""On all objects of a WhisperModel: Deployment, Service, NetworkPolicy, pods, demand Leases. The value is its name."""
MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "whisper-operator"
MANUAL_ANNOTATION = f"{GROUP}/manual"
"""On a demand Lease: a manual load or unload through a gateway, as JSON {state, at}."""
KEYS_SECRET = "whisper-operator-keys"
SERVER_PORT = 8002
