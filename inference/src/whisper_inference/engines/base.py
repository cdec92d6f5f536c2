"""The interface that openai-whisper and faster-whisper are used through.

Engines run in the zygote and the worker only; the API process imports this module for its types, never an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from whisper_inference.errors import LoadFailed
from whisper_inference.transcripts.transcript import Options, Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OnPhase = Callable[[str, float], None]
"""Called at the end of each phase of a load, with its name and its duration in seconds."""

OnProgress = Callable[[float], None]
"""Called with the fraction (0 to 1) of a section that is done; may raise TranscriptionCancelled to stop the engine."""


class TranscriptionCancelled(Exception):
    """The job was cancelled; raised through the engine by the progress callback."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model to load, from where, and on which device."""

    size: str
    """A name of whispermodel.catalog."""
    engine: str
    """openai-whisper or faster-whisper."""
    cache_dir: str
    """Where official checkpoints are downloaded to, and converted ones are kept."""
    device: str | None = None
    """cuda or cpu; None: the GPU if there is one."""
    compute_type: str | None = None
    """float32, float16 or int8; None: the best for the device."""
    path: str | None = None
    """A local checkpoint (openai-whisper: a .pt file; faster-whisper: a CTranslate2 folder); None: the official one."""
    sha256: str | None = None
    """Expected digest of a local checkpoint's file, in hexadecimal; None: not verified."""


class LoadedModel(Protocol):
    """A model in memory. Not thread-safe: one call at a time."""

    @property
    def device(self) -> str:
        """cuda or cpu."""
        ...

    @property
    def compute_type(self) -> str:
        """float32, float16 or int8."""
        ...

    def gpu_bytes(self) -> tuple[int, int]:
        """Return bytes (allocated, reserved) on the GPU by this process; zeros on the CPU."""
        ...

    def detect_language(self, samples: NDArray[np.float32]) -> str:
        """Return the language code of the first 30 s."""
        ...

    def transcribe(
        self,
        samples: NDArray[np.float32],
        *,
        options: Options,
        language: str,
        prompt: str | None,
        on_progress: OnProgress,
    ) -> Iterator[Segment]:
        """Yield the segments of one section: mono float32 at 16 kHz, at most 10 minutes; times from its own start."""
        ...


class Engine(Protocol):
    """Loads models with one library."""

    def preload(self, size: str | None = None) -> None:
        """Import what the library needs: no tensor operation, no thread, no CUDA (the zygote forks after this).

        size: also read what a model of this size needs besides its weights.
        """
        ...

    def load(self, spec: ModelSpec, *, on_phase: OnPhase) -> LoadedModel:
        """Return the model, ready to transcribe. Raises a ServiceError of errors.py that says what to do."""
        ...


def choose_device(configured: str | None, *, has_gpu: bool) -> str:
    """Return the device that a model is loaded on. Raises LoadFailed if a GPU is configured and missing."""
    if configured == "cuda" and not has_gpu:
        raise LoadFailed(cause="the device 'cuda' is configured but no usable GPU was found; set WHISPER_DEVICE=cpu.")
    return configured or ("cuda" if has_gpu else "cpu")
