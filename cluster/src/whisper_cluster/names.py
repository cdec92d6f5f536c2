"""Names that objects in the cluster carry: labels, annotations, the keys' Secret."""

from __future__ import annotations

from whispermodel.spec import GROUP

MODEL_LABEL = f"{GROUP}/whispermodel"
"""On all that belongs to a WhisperModel: its Deployment, Service, pods and demand Leases; the value is its name."""
MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "whisper-operator"
MANUAL_ANNOTATION = f"{GROUP}/manual"
"""On a demand Lease: a load or unload by hand through a gateway, as JSON {state, at}."""
KEYS_SECRET = "whisper-operator-keys"
SERVER_PORT = 8002
