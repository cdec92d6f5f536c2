"""What an engine is: the one shape behind which openai-whisper and faster-whisper stand.

Runs in the zygote and in the worker only; the API process imports this module for its types and never an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from whisper_inference.transcripts.transcript import Options, Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Samples = "NDArray[np.float32]"

OnPhase = Callable[[str, float], None]
"""Called with a phase's name and its seconds when a phase of the load has ended."""

OnProgress = Callable[[float], None]
"""Called with the fraction (0 to 1) of a section that is done; may raise Cancelled to stop the engine."""


class Cancelled(Exception):
    """The job was cancelled; raised through the engine by the progress callback."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, from where, on what.

    size: a name of whispermodel.catalog. device, compute_type: None means the best that the node has.
    path: a local checkpoint (openai-whisper: a .pt file; faster-whisper: a CTranslate2 folder); None: the official
    one, downloaded into cache_dir. sha256: expected digest of a local checkpoint file, hexadecimal, if known.
    """

    size: str
    engine: str
    cache_dir: str
    device: str | None = None
    compute_type: str | None = None
    path: str | None = None
    sha256: str | None = None


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
    """How a model of one library comes into memory."""

    def preload(self, size: str | None = None) -> None:
        """Import what the library needs: no tensor operation, no thread, no CUDA (the zygote forks after this).

        size: also read what a model of this size needs besides its weights.
        """
        ...

    def load(self, spec: ModelSpec, *, on_phase: OnPhase) -> LoadedModel:
        """Return the model, ready to serve. Raises a ServiceError of errors.py that says what to do."""
        ...
