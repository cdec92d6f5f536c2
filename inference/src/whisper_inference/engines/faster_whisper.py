"""The engine faster-whisper: CTranslate2 models, from a local folder or the official ones from the model hub."""

# The library has no types: what comes from it is unknown here, and given a type where it leaves this module.
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

from whisper_inference.engines.base import ModelSpec, OnPhase, OnProgress
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
    """Loads models of the library faster-whisper."""

    def preload(self, size: str | None = None) -> None:  # noqa: ARG002
        """Import faster-whisper and what it needs; its vocabularies lie beside the weights."""
        # Read when huggingface_hub is imported: without a network, the library would try for 10 s at each file.
        os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_HUB_TIMEOUT_SECONDS))
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import_module("faster_whisper")

    def load(self, spec: ModelSpec, *, on_phase: OnPhase) -> FasterWhisperModel:
        """Return the model. Phases: checkpoint, weights.

        Raises CheckpointMissing, CheckpointDamaged, DownloadFailed, ModelDoesNotFit or LoadFailed.
        """
        begun = perf_counter()
        self.preload()
        device, compute_type = _target_of(spec)
        folder = _folder_of(spec)
        _require_memory(folder)
        on_phase("checkpoint", perf_counter() - begun)
        begun = perf_counter()
        model = _opened(folder, spec=spec, device=device, compute_type=compute_type)
        on_phase("weights", perf_counter() - begun)
        loaded = FasterWhisperModel(model=model, folder=folder, device=device, compute_type=compute_type)
        loaded.note_samples()
        return loaded


@dataclass(slots=True)
class FasterWhisperModel:
    """A CTranslate2 Whisper in memory. device: cuda or cpu; compute_type: float32, float16 or int8."""

    model: faster_whisper.WhisperModel
    folder: Path
    device: str
    compute_type: str
    sampled: bool = False

    def gpu_bytes(self) -> tuple[int, int]:
        """Return zeros: CTranslate2 tells nothing about its allocator; NVML sees the process from outside."""
        return 0, 0

    def detect_language(self, samples: NDArray[np.float32]) -> str:
        """Return the language of the first 30 s, as WhisperModel.transcribe finds it."""
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
        """Yield the segments of one section as the library finds them, without its voice activity filter.

        on_progress is called before each segment is yielded, so Cancelled comes between two segments.
        """
        self._reseed()
        found, _ = self.model.transcribe(
            samples,
            language=language,
            task=options.task,
            word_timestamps=options.word_timestamps,
            initial_prompt=prompt,
            temperature=options.temperature or TEMPERATURES,
        )
        seconds = len(samples) / _SAMPLE_RATE
        for segment in found:
            on_progress(min(1.0, float(segment.end) / seconds))  # numpy.float64 with word timestamps
            yield _segment_of(segment)
        on_progress(1.0)

    def _reseed(self) -> None:
        """Make sampling start from the seed.

        CTranslate2 reads its seed when a computing thread first samples (src/random.cc: a thread_local generator), so
        only new threads begin anew: after a sampled section the replica is replaced, from the page cache.
        """
        import ctranslate2

        ctranslate2.set_random_seed(SEED)
        if self.sampled:
            del self.model.model  # first: two replicas may not fit
            self.model.model = _replica(self.folder, device=self.device, compute_type=self.compute_type)
            self.sampled = False

    def note_samples(self) -> None:
        """Watch for sampling; the segments do not always show it (a window can be skipped after it)."""
        decode = self.model.generate_with_fallback

        def noted(*arguments: object) -> tuple[object, float, float, float]:
            decoded = decode(*arguments)  # pyright: ignore[reportArgumentType]
            self.sampled = self.sampled or decoded[2] > 0
            return decoded

        self.model.generate_with_fallback = noted  # pyright: ignore[reportAttributeAccessIssue]


def _target_of(spec: ModelSpec) -> tuple[str, str]:
    import ctranslate2

    gpus = ctranslate2.get_cuda_device_count()
    device = spec.device or ("cuda" if gpus else "cpu")
    if device == "cuda" and not gpus:
        raise LoadFailed(cause="the device 'cuda' was asked for and there is no usable GPU; set WHISPER_DEVICE=cpu.")
    # int8 on a CPU: 1.35 s for 11 s of speech where float32 takes 1.5 s (tiny.en, 2 cores), in a quarter of the memory.
    compute_type = spec.compute_type or ("float16" if device == "cuda" else "int8")
    if compute_type == "float16" and device == "cpu":
        raise LoadFailed(cause="faster-whisper cannot compute in float16 on a CPU; use int8 or float32.")
    return device, compute_type


def _folder_of(spec: ModelSpec) -> Path:
    if spec.path is None:
        return _official_folder(spec)
    folder = Path(spec.path)
    weights = folder / "model.bin"
    if not weights.is_file():
        hint = (
            "it is a file; faster-whisper needs a CTranslate2 folder."
            if folder.is_file()
            else "there is no model.bin in it."
        )
        raise CheckpointMissing(path=str(folder), hint=hint)
    if spec.sha256 is not None:
        from whisper_inference.engines.checkpoint import receipts_in
        from whisper_inference.engines.digest import digest_of

        digest = digest_of(weights, receipts=receipts_in(spec))
        if digest != spec.sha256.lower():
            raise CheckpointDamaged(path=str(weights), reason=f"its SHA-256 is {digest}, {spec.sha256} was expected.")
    return folder


def _official_folder(spec: ModelSpec) -> Path:
    """Return the folder in the cache, downloaded if needed; without asking the hub where it is complete."""
    from faster_whisper.utils import download_model
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        held = Path(download_model(spec.size, cache_dir=spec.cache_dir, local_files_only=True))
        if (held / "model.bin").is_file():
            return held
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:
        raise LoadFailed(cause=f"{error}.") from error
    try:
        return Path(download_model(spec.size, cache_dir=spec.cache_dir))
    except Exception as error:  # the hub's client raises its own, httpx's and OSError alike
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DownloadFailed(model=spec.size, url="the model hub", reason=reason[0][:300]) from error


def _require_memory(folder: Path) -> None:
    from whisper_inference.engines.limits import available_memory, require_memory

    # model.bin holds at most 2 bytes a weight; float32 needs twice that, int8 half: the file's size is the middle.
    needed = (folder / "model.bin").stat().st_size + _HEADROOM_BYTES
    require_memory(needed, available_bytes=available_memory(), where="memory")


def _opened(folder: Path, *, spec: ModelSpec, device: str, compute_type: str) -> faster_whisper.WhisperModel:
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


def _replica(folder: Path, *, device: str, compute_type: str) -> faster_whisper.transcribe.ctranslate2.models.Whisper:
    import ctranslate2

    from whisper_inference.engines.limits import usable_cores

    return ctranslate2.models.Whisper(
        str(folder), device=device, compute_type=compute_type, intra_threads=usable_cores()
    )


def _segment_of(found: faster_whisper.transcribe.Segment) -> Segment:
    return Segment(
        id=found.id,
        seek=found.seek,
        start=float(found.start),
        end=float(found.end),
        text=found.text,
        tokens=tuple(found.tokens),
        temperature=found.temperature or 0.0,
        avg_logprob=float(found.avg_logprob),
        compression_ratio=float(found.compression_ratio),
        no_speech_prob=float(found.no_speech_prob),
        words=tuple(_word_of(word) for word in found.words or ()),
    )


def _word_of(word: faster_whisper.transcribe.Word) -> Word:
    return Word(start=float(word.start), end=float(word.end), word=word.word, probability=float(word.probability))
