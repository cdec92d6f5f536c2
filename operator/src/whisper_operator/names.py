"""Names that users and other programs see: labels, annotations, condition types, reasons."""

from __future__ import annotations

from enum import StrEnum

from whispermodel.spec import GROUP

MODEL_LABEL = f"{GROUP}/whispermodel"
"""On all that belongs to a WhisperModel: its Deployment, Service, pods and demand Leases; the value is its name."""
MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "whisper-operator"
MANUAL_ANNOTATION = f"{GROUP}/manual"
"""On a demand Lease: a load or unload by hand through a gateway, as JSON {state, at}."""
IMAGE_ANNOTATION = f"{GROUP}/image-of"
"""On a Deployment: whose choice the image of its pods is, `spec` or `settings`."""
POD_DEFAULTS_ANNOTATION = f"{GROUP}/pod-defaults"
"""On a Deployment: the settings' fields of spec.pod that it was made with, as JSON."""
KEYS_SECRET = "whisper-operator-keys"
SERVER_PORT = 8002


class ConditionType(StrEnum):
    """The conditions of a WhisperModel; all are set from the first sight on."""

    READY = "Ready"
    MODEL_LOADED = "ModelLoaded"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SCHEDULE_VALID = "ScheduleValid"
    SCALER_CONFLICT = "ScalerConflict"


class EventReason(StrEnum):
    """The reasons of Events; one is told on a transition only."""

    LOADING = "Loading"
    LOADED = "Loaded"
    UNLOADING = "Unloading"
    UNLOADED = "Unloaded"
    SCALED_TO_ZERO = "ScaledToZero"
    WAKING = "Waking"
    LOAD_FAILED = "LoadFailed"
    POD_FAILED = "PodFailed"
    SCHEDULE_MISSED = "ScheduleMissed"
    MEMORY_NOT_RELEASED = "MemoryNotReleased"
    SCALER_CONFLICT = "ScalerConflict"
