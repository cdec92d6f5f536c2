"""The conditions of a WhisperModel."""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """The conditions of a WhisperModel; all are set from the first sight on."""

    READY = "Ready"
    MODEL_LOADED = "ModelLoaded"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    SCHEDULE_VALID = "ScheduleValid"
    SCALER_CONFLICT = "ScalerConflict"
