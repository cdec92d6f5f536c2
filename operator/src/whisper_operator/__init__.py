"""The Kubernetes operator: brings WhisperModels to what their specs say."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("whisper-operator")
