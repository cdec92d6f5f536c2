"""The engine faster-whisper: CTranslate2 models, from a local folder or from the model hub."""

# The library has no type hints: its values are untyped here, and get a type where they leave this module.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from whisper_inference.engines.base import ModelSpec, OnPhase, OnProgress, choose_device
from whisper_inference.errors import CheckpointDamaged, CheckpointMissing, DownloadFailed, LoadFailed
from whisper_inference.transcripts.transcript import Options, Segment, Word

if TYPE_CHECKING:
    import faster_whisper
    import faster_whisper.transcribe
    import numpy as np
    from numpy.typing import NDArray

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SEED = 0
_SAMPLE_RATE = 16_000
_HUB_TIMEOUT_SECONDS = 5
_HEADROOM_BYTES = 200 * 2**20


@dataclass(frozen=True, slots=True)
class FasterWhisper:
    """Loads models with the library faster-whisper."""

    def preload(self, size: str | None = None) -> None:  # noqa: ARG002
        """Import faster-whisper and what it needs; the tokenizer comes with the weights."""
        # huggingface_hub reads it when it is imported; without a network, it would otherwise wait 10 s for each file.
        os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_HUB_TIMEOUT_SECONDS))
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import_module("faster_whisper")

    def load(self, spec: ModelSpec, *, on_phase: OnPhase) -> FasterWhisperModel:
        """Return the model. Phases: checkpoint, weights.

        Raises CheckpointMissing, CheckpointDamaged, DownloadFailed, ModelDoesNotFit or LoadFailed.
        """
        started = perf_counter()
        self.preload()
        device, compute_type = _resolve_device(spec)
        folder = _find_folder(spec)
        _require_memory(folder)
        on_phase("checkpoint", perf_counter() - started)
        started = perf_counter()
        model = _open_model(folder, spec=spec, device=device, compute_type=compute_type)
        on_phase("weights", perf_counter() - started)
        loaded = FasterWhisperModel(model=model, folder=folder, device=device, compute_type=compute_type)
        loaded.track_sampling()
        return loaded


@dataclass(slots=True)
class FasterWhisperModel:
    """A CTranslate2 Whisper model in memory."""

    model: faster_whisper.WhisperModel
    """The library's model."""
    folder: Path
    """The folder that it was loaded from."""
    device: str
    """cuda or cpu."""
    compute_type: str
    """float32, float16 or int8."""
    sampled: bool = False
    """Whether its replica has sampled since it was created."""

    def gpu_bytes(self) -> tuple[int, int]:
        """Return zeros: CTranslate2 does not expose its allocator; NVML reports the GPU's memory instead."""
        return 0, 0

    def detect_language(self, samples: NDArray[np.float32]) -> str:
        """Return the language of the first 30 s, detected as in WhisperModel.transcribe."""
        if not self.model.model.is_multilingual:
            return "en"
        # The features of all samples: they are clamped to their own maximum.
        language, _, _ = self.model.detect_language(features=self.model.feature_extractor(samples))
        return language

    def transcribe(
        self,
        samples: NDArray[np.float32],
        *,
        options: Options,
        language: str,
        prompt: str | None,
        on_progress: OnProgress,
    ) -> Iterator[Segment]:
        """Yield the segments of one section as the library produces them, without its voice activity filter.

        on_progress is called before each segment is yielded, so TranscriptionCancelled is raised between segments.
        """
        self._reseed()
        segments, _ = self.model.transcribe(
            samples,
            language=language,
            task=options.task,
            word_timestamps=options.word_timestamps,
            initial_prompt=prompt,
            temperature=options.temperature or TEMPERATURES,
        )
        seconds = len(samples) / _SAMPLE_RATE
        for segment in segments:
            on_progress(min(1.0, float(segment.end) / seconds))  # numpy.float64 with word timestamps
            yield _to_segment(segment)
        on_progress(1.0)

    def _reseed(self) -> None:
        """Make sampling start from the seed again.

        CTranslate2 reads its seed when a compute thread first samples (src/random.cc: a thread_local generator), so
        only new threads start from the seed: replace the replica after a sampled section, from the page cache.
        """
        import ctranslate2

        ctranslate2.set_random_seed(SEED)
        if self.sampled:
            del self.model.model  # before the new one is created: two replicas may not fit into memory
            self.model.model = _create_replica(self.folder, device=self.device, compute_type=self.compute_type)
            self.sampled = False

    def track_sampling(self) -> None:
        """Record when the model samples; its segments do not always show it, as a sampled window can be skipped."""
        decode = self.model.generate_with_fallback

        def tracked(*arguments: object) -> tuple[object, float, float, float]:
            decoded = decode(*arguments)  # pyright: ignore[reportArgumentType]
            self.sampled = self.sampled or decoded[2] > 0
            return decoded

        self.model.generate_with_fallback = tracked  # pyright: ignore[reportAttributeAccessIssue]


def _resolve_device(spec: ModelSpec) -> tuple[str, str]:
    import ctranslate2

    device = choose_device(spec.device, has_gpu=ctranslate2.get_cuda_device_count() > 0)
    # int8 on a CPU: 1.35 s for 11 s of speech, float32 takes 1.5 s (tiny.en, 2 cores) and four times the memory.
    compute_type = spec.compute_type or ("float16" if device == "cuda" else "int8")
    if compute_type == "float16" and device == "cpu":
        raise LoadFailed(cause="faster-whisper does not support float16 on a CPU; use int8 or float32.")
    return device, compute_type


def _find_folder(spec: ModelSpec) -> Path:
    if spec.path is None:
        return _official_folder(spec)
    folder = Path(spec.path)
    weights = folder / "model.bin"
    if not weights.is_file():
        hint = (
            "it is a file; faster-whisper needs a CTranslate2 folder."
            if folder.is_file()
            else "it contains no model.bin."
        )
        raise CheckpointMissing(path=str(folder), hint=hint)
    if spec.sha256 is not None:
        from whisper_inference.engines.checkpoint import digest_cache
        from whisper_inference.engines.digest import sha256_of

        digest = sha256_of(weights, cache=digest_cache(spec))
        if digest != spec.sha256.lower():
            raise CheckpointDamaged(path=str(weights), reason=f"its SHA-256 is {digest}, expected {spec.sha256}.")
    return folder


def _official_folder(spec: ModelSpec) -> Path:
    """Return the folder in the cache, downloading it if needed; a complete one is used without querying the hub."""
    from faster_whisper.utils import download_model
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(download_model(spec.size, cache_dir=spec.cache_dir, local_files_only=True))
        if (cached / "model.bin").is_file():
            return cached
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:
        raise LoadFailed(cause=f"{error}.") from error
    try:
        return Path(download_model(spec.size, cache_dir=spec.cache_dir))
    except Exception as error:  # the hub's client raises its own errors, httpx's and OSError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DownloadFailed(model=spec.size, url="the model hub", reason=lines[0][:300]) from error


def _require_memory(folder: Path) -> None:
    from whisper_inference.engines.limits import available_memory, require_memory

    # model.bin has at most 2 bytes per weight; float32 needs twice that, int8 half. Estimate with the file's size.
    needed = (folder / "model.bin").stat().st_size + _HEADROOM_BYTES
    require_memory(needed, available_bytes=available_memory(), where="memory")


def _open_model(folder: Path, *, spec: ModelSpec, device: str, compute_type: str) -> faster_whisper.WhisperModel:
    import faster_whisper

    from whisper_inference.engines.limits import usable_cores

    try:
        model = faster_whisper.WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=usable_cores(), local_files_only=True
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointDamaged(path=str(folder), reason=f"{error}.") from error
    if model.model.is_multilingual == spec.size.endswith(".en"):
        kind = "multilingual" if model.model.is_multilingual else "English-only"
        raise CheckpointDamaged(
            path=str(folder), reason=f"it is {kind}, so it is not '{spec.size}'; correct WHISPER_MODEL."
        )
    return model


def _create_replica(
    folder: Path, *, device: str, compute_type: str
) -> faster_whisper.transcribe.ctranslate2.models.Whisper:
    import ctranslate2

    from whisper_inference.engines.limits import usable_cores

    return ctranslate2.models.Whisper(
        str(folder), device=device, compute_type=compute_type, intra_threads=usable_cores()
    )


def _to_segment(segment: faster_whisper.transcribe.Segment) -> Segment:
    return Segment(
        id=segment.id,
        seek=segment.seek,
        start=float(segment.start),
        end=float(segment.end),
        text=segment.text,
        tokens=tuple(segment.tokens),
        temperature=segment.temperature or 0.0,
        avg_logprob=float(segment.avg_logprob),
        compression_ratio=float(segment.compression_ratio),
        no_speech_prob=float(segment.no_speech_prob),
        words=tuple(_to_word(word) for word in segment.words or ()),
    )


def _to_word(word: faster_whisper.transcribe.Word) -> Word:
    return Word(start=float(word.start), end=float(word.end), word=word.word, probability=float(word.probability))
