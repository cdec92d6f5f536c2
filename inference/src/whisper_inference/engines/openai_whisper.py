"""The engine openai-whisper, with a fast load: no weight initialisation, and weights memory-mapped without a copy."""

# The library has no type hints: its values are untyped here, and get a type where they leave this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Self, cast

from whisper_inference.engines.base import ModelSpec, OnPhase, OnProgress, choose_device
from whisper_inference.errors import CheckpointDamaged, LoadFailed
from whisper_inference.transcripts.transcript import Options, Segment, Word

if TYPE_CHECKING:
    import numpy as np
    import torch
    import whisper
    from numpy.typing import NDArray

    from whisper_inference.engines.checkpoint import Checkpoint
    from whisper_inference.engines.converted import Weights

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's temperature fallback (Radford et al. 2022, section 4.5)."""

SEED = 0
_MULTILINGUAL_VOCABULARY = 51865
"""Smallest vocabulary of a multilingual model (whisper/model.py, is_multilingual and num_languages)."""

_CPU_HEADROOM_BYTES = 200 * 2**20
_GPU_HEADROOM_BYTES = 700 * 2**20
"""Memory of a transcription besides the weights: activations, key-value cache; on a GPU also kernel workspaces."""


@dataclass(frozen=True, slots=True)
class OpenAIWhisper:
    """Loads models with the library openai-whisper. urls: official checkpoints by size; None: whisper's own."""

    urls: Mapping[str, str] | None = None

    def preload(self, size: str | None = None) -> None:
        """Import torch, whisper and our own modules that need them.

        size: also create its tokenizer for English (0.2 s, 22 MB), which would otherwise delay the first transcription.
        """
        from whisper_inference.engines.lazy_imports import deferred_imports

        with deferred_imports():
            for module in ("whisper", "whisper_inference.engines.converted", "whisper_inference.engines.skeleton"):
                import_module(module)
            if size is not None:
                _cache_tokenizer(size)

    def load(self, spec: ModelSpec, *, on_phase: OnPhase) -> OpenAIWhisperModel:
        """Return the model. Phases: checkpoint, map, convert (the first time), skeleton, weights, device (on a GPU).

        Raises CheckpointMissing, CheckpointDamaged, DownloadFailed, ModelDoesNotFit or LoadFailed.
        """
        timer = _PhaseTimer(on_phase)
        import torch

        from whisper_inference.engines.limits import usable_cores

        # numba reads these when it is imported, which only word timestamps need. Left alone, it would set the number of
        # torch's threads to that of all cores, whatever the CPU quota: both use the same OpenMP.
        os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(spec.cache_dir) / "numba"))
        threads = usable_cores()
        os.environ.setdefault("NUMBA_NUM_THREADS", str(threads))

        # Building the model has two small parallel loops: on a busy machine, one thread finishes before others start.
        torch.set_num_threads(1)
        device, dtype = _resolve_device(spec)
        checkpoint = self._find_checkpoint(spec)
        timer.end_phase("checkpoint")
        weights = _load_weights(checkpoint, spec, dtype=dtype, timer=timer)
        model = _build_model(checkpoint, weights, spec=spec, timer=timer)
        if device == "cuda":
            _require_gpu_memory(weights.bytes)
            model = model.to(device)
            torch.cuda.synchronize()
            timer.end_phase("device")
        torch.set_num_threads(threads)
        return OpenAIWhisperModel(model=model, device=device, compute_type=str(dtype).removeprefix("torch."))

    def _find_checkpoint(self, spec: ModelSpec) -> Checkpoint:
        import whisper

        from whisper_inference.engines.checkpoint import find_checkpoint

        return find_checkpoint(spec, urls=whisper._MODELS if self.urls is None else self.urls)  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True, slots=True)
class OpenAIWhisperModel:
    """A Whisper model in memory. device: cuda or cpu; compute_type: float32 or float16."""

    model: whisper.Whisper
    device: str
    compute_type: str

    def gpu_bytes(self) -> tuple[int, int]:
        """Return bytes (allocated, reserved) by torch's allocator."""
        if self.device != "cuda":
            return 0, 0
        import torch

        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    def detect_language(self, samples: NDArray[np.float32]) -> str:
        """Return the language of the first 30 s, detected as in whisper.transcribe."""
        if not self.model.is_multilingual:
            return "en"
        import torch
        from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

        # The mel of all samples: it is clamped to its own maximum, so 30 s alone would differ from whisper's result.
        mel = log_mel_spectrogram(samples, self.model.dims.n_mels, padding=N_SAMPLES)
        window = cast("torch.Tensor", pad_or_trim(mel, N_FRAMES)).to(self.model.device)
        window = window.to(torch.float16 if self.compute_type == "float16" else torch.float32)
        _, probabilities = self.model.detect_language(window)
        found = cast("dict[str, float]", probabilities)
        return max(found, key=lambda code: found[code])

    def transcribe(
        self,
        samples: NDArray[np.float32],
        *,
        options: Options,
        language: str,
        prompt: str | None,
        on_progress: OnProgress,
    ) -> Iterator[Segment]:
        """Yield the segments of one section; the library returns them at the end of the section.

        Sampling is seeded for each section, so that results at higher temperatures are reproducible.
        """
        import torch

        torch.manual_seed(SEED)
        with _progress_reported(on_progress):
            result = self.model.transcribe(
                samples,
                language=language,
                task=options.task,
                word_timestamps=options.word_timestamps,
                initial_prompt=prompt,
                temperature=options.temperature or TEMPERATURES,
                fp16=self.compute_type == "float16",
            )
        for fields in cast("list[Mapping[str, object]]", result["segments"]):
            yield _to_segment(fields)


def _cache_tokenizer(size: str) -> None:
    """Fill whisper's tokenizer caches, with the same arguments as whisper.transcribe and whisper.decode."""
    from whisper.tokenizer import get_tokenizer

    from whisper_inference.engines.skeleton import expected_dims

    dims = expected_dims(size)
    if dims is not None:
        multilingual = dims["n_vocab"] >= _MULTILINGUAL_VOCABULARY
        languages = dims["n_vocab"] - (_MULTILINGUAL_VOCABULARY - 100) - int(multilingual)
        get_tokenizer(multilingual, num_languages=languages, language="en", task="transcribe").non_speech_tokens  # noqa: B018


@dataclass(slots=True)
class _PhaseTimer:
    on_phase: OnPhase
    started: float = 0.0

    def __post_init__(self) -> None:
        self.started = perf_counter()

    def end_phase(self, phase: str) -> None:
        now = perf_counter()
        self.on_phase(phase, now - self.started)
        self.started = now


def _resolve_device(spec: ModelSpec) -> tuple[str, torch.dtype]:
    import torch

    device = choose_device(spec.device, has_gpu=torch.cuda.is_available())
    compute_type = spec.compute_type or ("float16" if device == "cuda" else "float32")
    if compute_type == "int8":
        raise LoadFailed(cause="openai-whisper does not support int8; use float32 or the engine faster-whisper.")
    if compute_type == "float16" and device == "cpu":
        raise LoadFailed(cause="openai-whisper supports only float32 on a CPU; leave WHISPER_COMPUTE_TYPE unset.")
    return device, torch.float16 if compute_type == "float16" else torch.float32


def _load_weights(checkpoint: Checkpoint, spec: ModelSpec, *, dtype: torch.dtype, timer: _PhaseTimer) -> Weights:
    from whisper_inference.engines.converted import convert, converted_path, map_converted, read_checkpoint

    target = converted_path(checkpoint, dtype, cache_dir=Path(spec.cache_dir))
    weights = map_converted(target)
    timer.end_phase("map")
    if weights is None:
        original = read_checkpoint(checkpoint)
        _require_size(checkpoint, original.dims, size=spec.size)
        _require_memory(sum(tensor.numel() for tensor in original.tensors.values()) * dtype.itemsize)
        weights = convert(original, dtype, target=target)
        timer.end_phase("convert")
    _require_size(checkpoint, weights.dims, size=spec.size)
    _require_memory(weights.bytes)
    return weights


def _build_model(checkpoint: Checkpoint, weights: Weights, *, spec: ModelSpec, timer: _PhaseTimer) -> whisper.Whisper:
    from whisper_inference.engines.skeleton import assign_weights, build_skeleton

    try:
        model = build_skeleton(weights.dims, size=spec.size)
        timer.end_phase("skeleton")
        assign_weights(model, weights.tensors)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointDamaged(path=str(checkpoint.path), reason=str(error)) from error
    timer.end_phase("weights")
    return model


def _require_size(checkpoint: Checkpoint, dims: Mapping[str, int], *, size: str) -> None:
    from whisper_inference.engines.skeleton import expected_dims

    expected = expected_dims(size)
    if expected is None or dict(dims) == expected:
        return
    mismatches = [
        f"{name} is {dims.get(name)} instead of {value}" for name, value in expected.items() if dims.get(name) != value
    ]
    reason = f"it is not a '{size}' model ({', '.join(mismatches[:3])}); correct WHISPER_MODEL or the path."
    raise CheckpointDamaged(path=str(checkpoint.path), reason=reason)


def _require_memory(weights_bytes: int) -> None:
    from whisper_inference.engines.limits import available_memory, require_memory

    require_memory(weights_bytes + _CPU_HEADROOM_BYTES, available_bytes=available_memory(), where="memory")


def _require_gpu_memory(weights_bytes: int) -> None:
    import torch

    from whisper_inference.engines.limits import require_memory

    free, _ = torch.cuda.mem_get_info()
    require_memory(weights_bytes + _GPU_HEADROOM_BYTES, available_bytes=free, where="GPU memory")


@dataclass(slots=True)
class _ProgressBar:
    """Replaces the tqdm bar of whisper.transcribe, which is the only hook to follow its progress and to stop it."""

    on_progress: OnProgress
    total: int
    done: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, frames: int) -> None:
        self.done += frames
        self.on_progress(min(1.0, self.done / self.total) if self.total else 1.0)


@contextmanager
def _progress_reported(on_progress: OnProgress) -> Generator[None]:
    """Report whisper.transcribe's progress by replacing tqdm in its module, which the function of that name hides."""
    module = sys.modules["whisper.transcribe"]

    def bar(*, total: int, **_: object) -> _ProgressBar:
        return _ProgressBar(on_progress, total)

    original: Callable[..., object] = module.tqdm
    module.__dict__["tqdm"] = SimpleNamespace(tqdm=bar)
    try:
        yield
    finally:
        module.__dict__["tqdm"] = original


def _to_segment(fields: Mapping[str, object]) -> Segment:
    values = {**fields, "tokens": tuple(cast("list[int]", fields["tokens"]))}
    words = cast("list[dict[str, float | str]]", fields.get("words", []))
    values["words"] = tuple(Word(**_python_scalars(word)) for word in words)  # pyright: ignore[reportArgumentType]
    return Segment(**_python_scalars(values))  # pyright: ignore[reportArgumentType]


def _python_scalars(fields: Mapping[str, object]) -> dict[str, object]:
    """Convert numpy's scalars to Python's, for JSON."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in fields.items()}  # pyright: ignore[reportAttributeAccessIssue]
