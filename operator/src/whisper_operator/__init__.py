"""The Kubernetes operator: brings WhisperModels to what their specs say. So far it only knows its version."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("whisper-operator")
