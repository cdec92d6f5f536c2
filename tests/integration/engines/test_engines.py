"""Both engines with real weights and real speech, compared with their libraries."""

# The libraries have no type hints.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import faster_whisper
import numpy as np
import pytest
import torch
import whisper
import whisper.tokenizer
from numpy.typing import NDArray

from testing.audio_files import JFK, RATE, speech, speech_in_windows, write_wav
from testing.paths import ROOT
from testing.spoken_words import normalized
from whisper_inference.engines.base import LoadedModel, ModelSpec, TranscriptionCancelled
from whisper_inference.engines.limits import usable_cores
from whisper_inference.engines.openai_whisper import OpenAIWhisperModel
from whisper_inference.engines.registry import find_engine
from whisper_inference.engines.sectioned import SectionTranscribed, SegmentTranscribed, transcribe_file
from whisper_inference.errors import CheckpointDamaged, CheckpointMissing, LoadFailed
from whisper_inference.transcripts.languages import CODE_BY_NAME, LANGUAGES
from whisper_inference.transcripts.transcript import Options, Resume, Segment

MODELS = ROOT / "var" / "models"
PATHS = {"openai-whisper": MODELS / "tiny.en.pt", "faster-whisper": MODELS / "tiny.en-ct2"}
ENGINES = sorted(PATHS)
_PHRASE_SECONDS = 5
"""Cuts the speech at the speaker's pauses, so that every section ends with its last word: where a second of noise is
left over, the engines invent words, and which ones depends on the processor's arithmetic."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def loaded(cache: Path) -> dict[str, LoadedModel]:
    return {name: find_engine(name).load(spec_of(name, cache), on_phase=lambda *_: None) for name in ENGINES}


@pytest.fixture(scope="module")
def two_windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("audio") / "windows", speech_in_windows(2))


def spec_of(engine: str, cache: Path) -> ModelSpec:
    return ModelSpec(size="tiny.en", engine=engine, cache_dir=str(cache), device="cpu", path=str(PATHS[engine]))


def openai_spec(cache: Path, **changes: str | None) -> ModelSpec:
    return replace(spec_of("openai-whisper", cache), **changes)


def load(spec: ModelSpec) -> tuple[LoadedModel, list[str]]:
    phases: list[str] = []
    return find_engine(spec.engine).load(spec, on_phase=lambda phase, _: phases.append(phase)), phases


def transcribe_sections(
    model: LoadedModel,
    path: Path,
    *,
    max_section_seconds: float,
    options: Options | None = None,
    resume: Resume | None = None,
) -> list[SectionTranscribed]:
    events = transcribe_file(
        model,
        path,
        options=options or Options(),
        max_audio_seconds=3600,
        on_progress=lambda _: None,
        resume=resume,
        max_section_seconds=max_section_seconds,
    )
    return [event for event in events if isinstance(event, SectionTranscribed)]


def transcribe_segments(model: LoadedModel, path: Path, *, options: Options | None = None) -> list[Segment]:
    sections = transcribe_sections(model, path, max_section_seconds=600, options=options)
    return [segment for section in sections for segment in section.segments]


def transcribe_phrases(
    model: LoadedModel, *, options: Options | None = None, resume: Resume | None = None
) -> list[SectionTranscribed]:
    return transcribe_sections(model, JFK, max_section_seconds=_PHRASE_SECONDS, options=options, resume=resume)


def starts_of(word: str, section: SectionTranscribed) -> list[float]:
    words = [found for segment in section.segments for found in segment.words]
    return [found.start for found in words if normalized(found.word) == word]


def speech_samples() -> NDArray[np.float32]:
    return speech().astype(np.float32) / np.float32(32768)


def test_languages_match_whisper() -> None:
    assert list(LANGUAGES.items()) == list(whisper.tokenizer.LANGUAGES.items())
    assert whisper.tokenizer.TO_LANGUAGE_CODE == CODE_BY_NAME


def test_openai_whisper_equals_stock_bit_for_bit(loaded: dict[str, LoadedModel]) -> None:
    ours = loaded["openai-whisper"]
    assert isinstance(ours, OpenAIWhisperModel)
    stock = whisper.load_model(str(PATHS["openai-whisper"]), device="cpu")
    mel = whisper.pad_or_trim(whisper.log_mel_spectrogram(speech_samples()), 3000)[None]
    tokens = torch.tensor([[50257, 50362, 843, 523]])
    with torch.no_grad():
        assert torch.equal(ours.model(mel, tokens), stock(mel, tokens))
    stock.set_alignment_heads(whisper._ALIGNMENT_HEADS["tiny.en"])
    assert torch.equal(ours.model.alignment_heads.to_dense(), stock.alignment_heads.to_dense())
    assert torch.equal(ours.model.decoder.mask, stock.decoder.mask)


@pytest.mark.parametrize("word_timestamps", [False, True])
def test_openai_whisper_transcribes_like_stock(loaded: dict[str, LoadedModel], word_timestamps: bool) -> None:
    stock = whisper.load_model(str(PATHS["openai-whisper"]), device="cpu")
    stock.set_alignment_heads(whisper._ALIGNMENT_HEADS["tiny.en"])
    torch.manual_seed(0)
    expected = whisper.transcribe(stock, speech_samples(), fp16=False, language="en", word_timestamps=word_timestamps)
    found = transcribe_segments(loaded["openai-whisper"], JFK, options=Options(word_timestamps=word_timestamps))
    assert "".join(segment.text for segment in found) == expected["text"]
    for segment, fields in zip(found, expected["segments"], strict=True):
        for name in ("id", "seek", "start", "end", "text", "temperature", "avg_logprob", "no_speech_prob"):
            assert getattr(segment, name) == fields[name]
        assert [word.word for word in segment.words] == [word["word"] for word in fields.get("words", [])]
        assert [word.start for word in segment.words] == [word["start"] for word in fields.get("words", [])]


@pytest.mark.parametrize("word_timestamps", [False, True])
def test_faster_whisper_transcribes_like_its_library(loaded: dict[str, LoadedModel], word_timestamps: bool) -> None:
    # With as many threads as ours, because the last bits of a sum depend on how it is divided among threads.
    library = faster_whisper.WhisperModel(
        str(PATHS["faster-whisper"]), device="cpu", compute_type="int8", cpu_threads=usable_cores()
    )
    expected, _ = library.transcribe(speech_samples(), language="en", word_timestamps=word_timestamps)
    found = transcribe_segments(loaded["faster-whisper"], JFK, options=Options(word_timestamps=word_timestamps))
    for segment, other in zip(found, expected, strict=True):
        assert (segment.seek, segment.start, segment.end, segment.text) == (
            other.seek,
            other.start,
            other.end,
            other.text,
        )
        assert segment.tokens == tuple(other.tokens)
        assert [word.start for word in segment.words] == [word.start for word in other.words or ()]


@pytest.mark.parametrize("engine", ENGINES)
def test_resumed_transcription_equals_an_uninterrupted_one(engine: str, loaded: dict[str, LoadedModel]) -> None:
    uninterrupted = transcribe_phrases(loaded[engine])
    assert len(uninterrupted) > 2
    assert transcribe_phrases(loaded[engine], resume=uninterrupted[0].resume) == uninterrupted[1:]


@pytest.mark.parametrize("engine", ENGINES)
def test_times_seeks_and_ids_count_from_the_start_of_the_file(engine: str, loaded: dict[str, LoadedModel]) -> None:
    first, second, third = transcribe_phrases(loaded[engine], options=Options(word_timestamps=True))
    found = [*first.segments, *second.segments, *third.segments]
    assert [segment.id for segment in found] == list(range(len(found)))
    assert [segment.start for segment in found] == sorted(segment.start for segment in found)
    assert starts_of("fellow", first) == pytest.approx([1.4], abs=0.3)
    assert starts_of("country", second) == pytest.approx([6.0], abs=0.3)
    assert starts_of("country", third) == pytest.approx([10.2], abs=0.3)
    for section, start in ((first, 0.0), (second, first.duration), (third, second.duration)):
        assert section.segments[0].seek == round(100 * start)
        assert all(segment.seek / 100 <= segment.start + 0.01 for segment in section.segments)


@pytest.mark.parametrize("engine", ENGINES)
def test_silence_has_no_segments(engine: str, loaded: dict[str, LoadedModel], tmp_path: Path) -> None:
    silence = write_wav(tmp_path / "silence", np.zeros(RATE, np.int16))
    [section] = transcribe_sections(loaded[engine], silence, max_section_seconds=600)
    assert section.segments == ()
    assert section.duration == 1.0
    assert section.resume.language is None


@pytest.mark.parametrize("engine", ENGINES)
def test_sampling_is_reproducible(engine: str, loaded: dict[str, LoadedModel]) -> None:
    first, again = (transcribe_segments(loaded[engine], JFK, options=Options(temperature=0.9)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("engine", ENGINES)
def test_model_works_after_a_cancelled_transcription(
    engine: str, loaded: dict[str, LoadedModel], two_windows: Path
) -> None:
    def cancel(seconds: float) -> None:
        if seconds > 0:
            raise TranscriptionCancelled

    with pytest.raises(TranscriptionCancelled):
        list(
            transcribe_file(loaded[engine], two_windows, options=Options(), max_audio_seconds=3600, on_progress=cancel)
        )
    assert "country" in transcribe_segments(loaded[engine], JFK)[0].text


def test_progress_increases_to_the_end_of_the_file(loaded: dict[str, LoadedModel], two_windows: Path) -> None:
    seen: list[float] = []
    events = list(
        transcribe_file(
            loaded["faster-whisper"], two_windows, options=Options(), max_audio_seconds=3600, on_progress=seen.append
        )
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(60.0)
    assert [event.segment.id for event in events if isinstance(event, SegmentTranscribed)]


def test_second_load_reuses_the_converted_file(tmp_path: Path) -> None:
    _, first = load(openai_spec(tmp_path))
    [converted] = (tmp_path / "converted").glob("*.safetensors")
    written = converted.stat().st_mtime_ns
    _, second = load(openai_spec(tmp_path))
    assert "convert" in first
    assert "convert" not in second
    assert converted.stat().st_mtime_ns == written
    assert not list((tmp_path / "converted").glob("*.part"))


def test_converted_file_is_safetensors(cache: Path, loaded: dict[str, LoadedModel]) -> None:
    from safetensors.torch import load_file

    [converted] = (cache / "converted").glob("*.safetensors")
    original = torch.load(PATHS["openai-whisper"], weights_only=True)["model_state_dict"]
    for name, tensor in load_file(converted).items():
        assert torch.equal(tensor, original[name].float())


def test_damaged_converted_file_is_replaced(tmp_path: Path) -> None:
    load(openai_spec(tmp_path))
    [converted] = (tmp_path / "converted").glob("*.safetensors")
    os.truncate(converted, 1_000_000)
    _, phases = load(openai_spec(tmp_path))
    assert "convert" in phases


def test_wrong_digest_is_rejected(cache: Path) -> None:
    with pytest.raises(CheckpointDamaged, match="expected 0000"):
        load(openai_spec(cache, sha256="0" * 64))
    digest = hashlib.sha256(PATHS["openai-whisper"].read_bytes()).hexdigest()
    load(openai_spec(cache, sha256=digest.upper()))


def test_checkpoint_of_another_size_is_rejected(cache: Path) -> None:
    with pytest.raises(CheckpointDamaged, match="not a 'base' model"):
        load(openai_spec(cache, size="base"))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_checkpoint_is_damaged(share: float, tmp_path: Path) -> None:
    path = tmp_path / "truncated.pt"
    shutil.copy(PATHS["openai-whisper"], path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointDamaged, match="not a complete Whisper checkpoint"):
        load(openai_spec(tmp_path, path=str(path)))


@pytest.mark.parametrize("engine", ENGINES)
def test_missing_checkpoint_is_reported_with_its_path(engine: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="nowhere"):
        load(replace(spec_of(engine, tmp_path), path=str(tmp_path / "nowhere")))


def test_damaged_ctranslate2_folder_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(PATHS["faster-whisper"], folder)
    os.truncate(folder / "model.bin", 1_000_000)
    with pytest.raises(CheckpointDamaged):
        load(replace(spec_of("faster-whisper", tmp_path), path=str(folder)))


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(size="tiny.en", engine="openai-whisper", cache_dir="unused", device="cpu", compute_type="int8"),
        ModelSpec(size="tiny.en", engine="openai-whisper", cache_dir="unused", device="cpu", compute_type="float16"),
        ModelSpec(size="tiny.en", engine="faster-whisper", cache_dir="unused", device="cpu", compute_type="float16"),
        ModelSpec(size="tiny.en", engine="another", cache_dir="unused"),
    ],
)
def test_unsupported_spec_fails_before_any_download(spec: ModelSpec) -> None:
    with pytest.raises(LoadFailed):
        load(spec)


def test_load_works_with_a_read_only_cache(tmp_path: Path) -> None:
    (tmp_path / "converted").touch()  # prevents creating the folder, even for root
    model, _ = load(openai_spec(tmp_path))
    assert "country" in transcribe_segments(model, JFK)[0].text
