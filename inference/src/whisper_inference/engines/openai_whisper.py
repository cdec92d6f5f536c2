"""The engine openai-whisper, loaded near the physical limit: no random init, weights mapped and assigned."""

# The library has no types: what comes from it is unknown here, and given a type where it leaves this module.
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

from whisper_inference.engines.base import ModelSpec, OnPhase, OnProgress
from whisper_inference.errors import CheckpointDamaged, LoadFailed
from whisper_inference.transcripts.transcript import Options, Segment, Word

if TYPE_CHECKING:
    import numpy as np
    import torch
    import whisper
    from numpy.typing import NDArray

    from whisper_inference.engines.checkpoint import Source
    from whisper_inference.engines.converted import Weights

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's fallback ladder (Radford et al. 2022, section 4.5)."""

SEED = 0
_MULTILINGUAL_VOCABULARY = 51865
"""Tokens from which on a model is multilingual (whisper/model.py, is_multilingual and num_languages)."""
_CPU_HEADROOM_BYTES = 200 * 2**20
_GPU_HEADROOM_BYTES = 700 * 2**20
"""What a transcription takes beside the weights: activations, key-value cache, on a GPU also the kernels' workspace."""


@dataclass(frozen=True, slots=True)
class OpenAIWhisper:
    """Loads models of the library openai-whisper. urls: of official checkpoints by size; None: whisper's own."""

    urls: Mapping[str, str] | None = None

    def preload(self, size: str | None = None) -> None:
        """Import torch, whisper and our own modules that need them.

        size: also make its tokenizer for English (0.2 s, 22 MB), which the first transcription would have to wait for.
        """
        from whisper_inference.engines.lazy_imports import needless_put_off

        with needless_put_off():
            for module in ("whisper", "whisper_inference.engines.converted", "whisper_inference.engines.skeleton"):
                import_module(module)
            if size is not None:
                _make_tokenizer(size)

    def load(self, spec: ModelSpec, *, on_phase: OnPhase) -> OpenAIWhisperModel:
        """Return the model. Phases: checkpoint, map, convert (the first time), skeleton, weights, device (on a GPU).

        Raises CheckpointMissing, CheckpointDamaged, DownloadFailed, ModelDoesNotFit or LoadFailed.
        """
        clock = _Phases(on_phase)
        import torch

        from whisper_inference.engines.limits import usable_cores

        # Read when numba is imported, which only word timestamps do.
        os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(spec.cache_dir) / "numba"))

        # Building has two small parallel loops: on a busy machine, OpenMP's threads come later than one does the work.
        torch.set_num_threads(1)
        device, dtype = _target_of(spec)
        source = self._source(spec)
        clock.ended("checkpoint")
        weights = _weights_of(source, spec, dtype=dtype, clock=clock)
        model = _assembled(source, weights, spec=spec, clock=clock)
        if device == "cuda":
            _require_gpu_memory(weights.bytes)
            model = model.to(device)
            torch.cuda.synchronize()
            clock.ended("device")
        torch.set_num_threads(usable_cores())
        return OpenAIWhisperModel(model=model, device=device, compute_type=str(dtype).removeprefix("torch."))

    def _source(self, spec: ModelSpec) -> Source:
        import whisper

        from whisper_inference.engines.checkpoint import source_of

        return source_of(spec, urls=whisper._MODELS if self.urls is None else self.urls)  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True, slots=True)
class OpenAIWhisperModel:
    """A Whisper in memory. device: cuda or cpu; compute_type: float32 or float16."""

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
        """Return the language of the first 30 s, as whisper.transcribe finds it."""
        if not self.model.is_multilingual:
            return "en"
        import torch
        from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

        # The mel of all samples: it is clamped to its own maximum, so the first 30 s alone would differ from stock's.
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
        """Yield the segments of one section; the library knows none before the section's end.

        Sampling is seeded for each section, so that the fallback's results repeat.
        """
        import torch

        torch.manual_seed(SEED)
        with _observed(on_progress):
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
            yield _segment_of(fields)


def _make_tokenizer(size: str) -> None:
    """Fill whisper's caches, whose keys are the very arguments that whisper.transcribe and whisper.decode pass."""
    from whisper.tokenizer import get_tokenizer

    from whisper_inference.engines.skeleton import expected_dims

    dims = expected_dims(size)
    if dims is not None:
        multilingual = dims["n_vocab"] >= _MULTILINGUAL_VOCABULARY
        languages = dims["n_vocab"] - (_MULTILINGUAL_VOCABULARY - 100) - int(multilingual)
        get_tokenizer(multilingual, num_languages=languages, language="en", task="transcribe").non_speech_tokens  # noqa: B018


@dataclass(slots=True)
class _Phases:
    on_phase: OnPhase
    since: float = 0.0

    def __post_init__(self) -> None:
        self.since = perf_counter()

    def ended(self, phase: str) -> None:
        now = perf_counter()
        self.on_phase(phase, now - self.since)
        self.since = now


def _target_of(spec: ModelSpec) -> tuple[str, torch.dtype]:
    import torch

    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise LoadFailed(cause="the device 'cuda' was asked for and there is no usable GPU; set WHISPER_DEVICE=cpu.")
    compute_type = spec.compute_type or ("float16" if device == "cuda" else "float32")
    if compute_type == "int8":
        raise LoadFailed(cause="openai-whisper cannot compute in int8; use float32 or the engine faster-whisper.")
    if compute_type == "float16" and device == "cpu":
        raise LoadFailed(cause="openai-whisper computes in float32 on a CPU; leave WHISPER_COMPUTE_TYPE unset.")
    return device, torch.float16 if compute_type == "float16" else torch.float32


def _weights_of(source: Source, spec: ModelSpec, *, dtype: torch.dtype, clock: _Phases) -> Weights:
    from whisper_inference.engines.converted import convert, converted_path, mapped, read

    target = converted_path(source, dtype, cache_dir=Path(spec.cache_dir))
    weights = mapped(target)
    clock.ended("map")
    if weights is None:
        original = read(source)
        _require_size(source, original.dims, size=spec.size)
        _require_memory(sum(tensor.numel() for tensor in original.tensors.values()) * dtype.itemsize)
        weights = convert(original, dtype, target=target)
        clock.ended("convert")
    _require_size(source, weights.dims, size=spec.size)
    _require_memory(weights.bytes)
    return weights


def _assembled(source: Source, weights: Weights, *, spec: ModelSpec, clock: _Phases) -> whisper.Whisper:
    from whisper_inference.engines.skeleton import assign, skeleton

    try:
        model = skeleton(weights.dims, size=spec.size)
        clock.ended("skeleton")
        assign(model, weights.tensors)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointDamaged(path=str(source.path), reason=str(error)) from error
    clock.ended("weights")
    return model


def _require_size(source: Source, dims: Mapping[str, int], *, size: str) -> None:
    from whisper_inference.engines.skeleton import expected_dims

    expected = expected_dims(size)
    if expected is None or dict(dims) == expected:
        return
    wrong = [
        f"{name} is {dims.get(name)} instead of {value}" for name, value in expected.items() if dims.get(name) != value
    ]
    reason = f"it is not of the size '{size}' ({', '.join(wrong[:3])}); correct WHISPER_MODEL or the path."
    raise CheckpointDamaged(path=str(source.path), reason=reason)


def _require_memory(weights_bytes: int) -> None:
    from whisper_inference.engines.limits import available_memory, require_memory

    require_memory(weights_bytes + _CPU_HEADROOM_BYTES, available_bytes=available_memory(), where="memory")


def _require_gpu_memory(weights_bytes: int) -> None:
    import torch

    from whisper_inference.engines.limits import require_memory

    free, _ = torch.cuda.mem_get_info()
    require_memory(weights_bytes + _GPU_HEADROOM_BYTES, available_bytes=free, where="GPU memory")


@dataclass(slots=True)
class _Bar:
    """Stands where whisper.transcribe expects a tqdm bar: its only view of the progress, and our way to stop it."""

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
def _observed(on_progress: OnProgress) -> Generator[None]:
    """Replace the name tqdm in the module whisper.transcribe (hidden behind the function of that name) for one call."""
    module = sys.modules["whisper.transcribe"]

    def bar(*, total: int, **_: object) -> _Bar:
        return _Bar(on_progress, total)

    stock: Callable[..., object] = module.tqdm
    module.__dict__["tqdm"] = SimpleNamespace(tqdm=bar)
    try:
        yield
    finally:
        module.__dict__["tqdm"] = stock


def _segment_of(fields: Mapping[str, object]) -> Segment:
    known = {**fields, "tokens": tuple(cast("list[int]", fields["tokens"]))}
    words = cast("list[dict[str, float | str]]", fields.get("words", []))
    known["words"] = tuple(Word(**_plain(word)) for word in words)  # pyright: ignore[reportArgumentType]
    return Segment(**_plain(known))  # pyright: ignore[reportArgumentType]


def _plain(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields with numpy's scalars as Python's, as JSON needs them."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in fields.items()}  # pyright: ignore[reportAttributeAccessIssue]
