"""Looks up engines by name."""

from __future__ import annotations

from importlib.util import find_spec

from whisper_inference.engines.base import Engine
from whisper_inference.errors import EngineMissing, LoadFailed


def find_engine(name: str) -> Engine:
    """Return the engine with a name, without importing its library yet.

    Raises EngineMissing if its library is not installed, LoadFailed for an unknown name.
    """
    match name:
        case "openai-whisper":
            _require_installed("whisper", engine=name, extra="openai")
            from whisper_inference.engines.openai_whisper import OpenAIWhisper

            return OpenAIWhisper()
        case "faster-whisper":
            _require_installed("faster_whisper", engine=name, extra="faster")
            from whisper_inference.engines.faster_whisper import FasterWhisper

            return FasterWhisper()
        case _:
            raise LoadFailed(cause=f"unknown engine '{name}'; use openai-whisper or faster-whisper.")


def _require_installed(module: str, *, engine: str, extra: str) -> None:
    if find_spec(module) is None:
        raise EngineMissing(engine=engine, extra=extra)
