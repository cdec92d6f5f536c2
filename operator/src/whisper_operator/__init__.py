"""The Kubernetes operator: reconciles WhisperModels."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("whisper-operator")
