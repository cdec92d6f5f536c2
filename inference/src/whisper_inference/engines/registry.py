"""The engines by name."""

from __future__ import annotations

from importlib.util import find_spec

from whisper_inference.engines.base import Engine
from whisper_inference.errors import EngineMissing, LoadFailed


def engine_of(name: str) -> Engine:
    """Return the engine of a name, importing nothing of its library yet.

    Raises EngineMissing when its library is not installed, LoadFailed for another name.
    """
    match name:
        case "openai-whisper":
            _require("whisper", engine=name, extra="openai")
            from whisper_inference.engines.openai_whisper import OpenAIWhisper

            return OpenAIWhisper()
        case "faster-whisper":
            _require("faster_whisper", engine=name, extra="faster")
            from whisper_inference.engines.faster_whisper import FasterWhisper

            return FasterWhisper()
        case _:
            raise LoadFailed(cause=f"there is no engine '{name}'; use openai-whisper or faster-whisper.")


def _require(module: str, *, engine: str, extra: str) -> None:
    if find_spec(module) is None:
        raise EngineMissing(engine=engine, extra=extra)
