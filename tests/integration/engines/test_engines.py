"""Both engines on real weights and real speech, held against their libraries."""

# The libraries have no types.
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

from testing.audio_files import JFK, RATE, repeated_speech, speech, write_wav
from testing.paths import ROOT
from whisper_inference.engines.base import Cancelled, LoadedModel, ModelSpec
from whisper_inference.engines.openai_whisper import OpenAIWhisperModel
from whisper_inference.engines.registry import engine_of
from whisper_inference.engines.sectioned import SectionDone, SegmentHeard, transcribe_file
from whisper_inference.errors import CheckpointDamaged, CheckpointMissing, LoadFailed
from whisper_inference.transcripts.languages import CODE_BY_NAME, LANGUAGES
from whisper_inference.transcripts.transcript import Options, Resume, Segment

MODELS = ROOT / "var" / "models"
PATHS = {"openai-whisper": MODELS / "tiny.en.pt", "faster-whisper": MODELS / "tiny.en-ct2"}
ENGINES = sorted(PATHS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def loaded(cache: Path) -> dict[str, LoadedModel]:
    return {name: engine_of(name).load(spec_of(name, cache), on_phase=lambda *_: None) for name in ENGINES}


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("audio") / "repeated", repeated_speech(4))


def spec_of(engine: str, cache: Path) -> ModelSpec:
    return ModelSpec(size="tiny.en", engine=engine, cache_dir=str(cache), device="cpu", path=str(PATHS[engine]))


def openai_spec(cache: Path, **changes: str | None) -> ModelSpec:
    return replace(spec_of("openai-whisper", cache), **changes)


def load(spec: ModelSpec) -> tuple[LoadedModel, list[str]]:
    phases: list[str] = []
    return engine_of(spec.engine).load(spec, on_phase=lambda phase, _: phases.append(phase)), phases


def done(
    model: LoadedModel, path: Path, *, options: Options | None = None, resume: Resume | None = None
) -> list[SectionDone]:
    events = transcribe_file(
        model,
        path,
        options=options or Options(),
        max_audio_seconds=3600,
        on_heard=lambda _: None,
        resume=resume,
        max_section_seconds=20,
    )
    return [event for event in events if isinstance(event, SectionDone)]


def segments_of(model: LoadedModel, path: Path, *, options: Options | None = None) -> list[Segment]:
    return [segment for section in done(model, path, options=options) for segment in section.segments]


def floats() -> NDArray[np.float32]:
    return speech().astype(np.float32) / np.float32(32768)


def test_the_language_table_is_whispers() -> None:
    assert list(LANGUAGES.items()) == list(whisper.tokenizer.LANGUAGES.items())
    assert whisper.tokenizer.TO_LANGUAGE_CODE == CODE_BY_NAME


def test_openai_whisper_computes_what_stock_computes_bit_for_bit(loaded: dict[str, LoadedModel]) -> None:
    ours = loaded["openai-whisper"]
    assert isinstance(ours, OpenAIWhisperModel)
    stock = whisper.load_model(str(PATHS["openai-whisper"]), device="cpu")
    mel = whisper.pad_or_trim(whisper.log_mel_spectrogram(floats()), 3000)[None]
    tokens = torch.tensor([[50257, 50362, 843, 523]])
    with torch.no_grad():
        assert torch.equal(ours.model(mel, tokens), stock(mel, tokens))
    stock.set_alignment_heads(whisper._ALIGNMENT_HEADS["tiny.en"])
    assert torch.equal(ours.model.alignment_heads.to_dense(), stock.alignment_heads.to_dense())
    assert torch.equal(ours.model.decoder.mask, stock.decoder.mask)


@pytest.mark.parametrize("word_timestamps", [False, True])
def test_openai_whisper_hears_what_stock_hears(loaded: dict[str, LoadedModel], word_timestamps: bool) -> None:
    stock = whisper.load_model(str(PATHS["openai-whisper"]), device="cpu")
    stock.set_alignment_heads(whisper._ALIGNMENT_HEADS["tiny.en"])
    torch.manual_seed(0)
    expected = whisper.transcribe(stock, floats(), fp16=False, language="en", word_timestamps=word_timestamps)
    found = segments_of(loaded["openai-whisper"], JFK, options=Options(word_timestamps=word_timestamps))
    assert "".join(segment.text for segment in found) == expected["text"]
    for segment, fields in zip(found, expected["segments"], strict=True):
        for name in ("id", "seek", "start", "end", "text", "temperature", "avg_logprob", "no_speech_prob"):
            assert getattr(segment, name) == fields[name]
        assert [word.word for word in segment.words] == [word["word"] for word in fields.get("words", [])]
        assert [word.start for word in segment.words] == [word["start"] for word in fields.get("words", [])]


@pytest.mark.parametrize("word_timestamps", [False, True])
def test_faster_whisper_hears_what_its_library_hears(loaded: dict[str, LoadedModel], word_timestamps: bool) -> None:
    library = faster_whisper.WhisperModel(str(PATHS["faster-whisper"]), device="cpu", compute_type="int8")
    expected, _ = library.transcribe(floats(), language="en", word_timestamps=word_timestamps)
    found = segments_of(loaded["faster-whisper"], JFK, options=Options(word_timestamps=word_timestamps))
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
def test_a_resumed_transcription_equals_an_undisturbed_one(
    engine: str, loaded: dict[str, LoadedModel], repeated: Path
) -> None:
    undisturbed = done(loaded[engine], repeated)
    assert len(undisturbed) > 2
    assert done(loaded[engine], repeated, resume=undisturbed[0].resume) == undisturbed[1:]


@pytest.mark.parametrize("engine", ENGINES)
def test_times_seeks_and_ids_count_from_the_files_start(
    engine: str, loaded: dict[str, LoadedModel], repeated: Path
) -> None:
    found = segments_of(loaded[engine], repeated, options=Options(word_timestamps=True))
    assert [segment.id for segment in found] == list(range(len(found)))
    assert [segment.start for segment in found] == sorted(segment.start for segment in found)
    asks = [word.start for segment in found for word in segment.words if word.word.strip(" ,.").lower() == "fellow"]
    assert asks == pytest.approx([1.4, 13.4, 25.4, 37.4], abs=0.7)
    for segment in found:
        assert segment.seek / 100 <= segment.start + 0.01


@pytest.mark.parametrize("engine", ENGINES)
def test_silence_is_no_text(engine: str, loaded: dict[str, LoadedModel], tmp_path: Path) -> None:
    [section] = done(loaded[engine], write_wav(tmp_path / "silence", np.zeros(RATE, np.int16)))
    assert section.segments == ()
    assert section.duration == 1.0
    assert section.resume.language is None


@pytest.mark.parametrize("engine", ENGINES)
def test_sampled_text_repeats(engine: str, loaded: dict[str, LoadedModel]) -> None:
    first, again = (segments_of(loaded[engine], JFK, options=Options(temperature=0.9)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cancelled_transcription_stops_and_the_model_serves_on(
    engine: str, loaded: dict[str, LoadedModel], repeated: Path
) -> None:
    def cancel(seconds: float) -> None:
        if seconds > 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(transcribe_file(loaded[engine], repeated, options=Options(), max_audio_seconds=3600, on_heard=cancel))
    assert "country" in segments_of(loaded[engine], JFK)[0].text


def test_progress_never_runs_backwards_and_ends_at_the_files_end(
    loaded: dict[str, LoadedModel], repeated: Path
) -> None:
    seen: list[float] = []
    events = list(
        transcribe_file(
            loaded["faster-whisper"], repeated, options=Options(), max_audio_seconds=3600, on_heard=seen.append
        )
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(47.0)
    assert [event.segment.id for event in events if isinstance(event, SegmentHeard)]


def test_a_second_load_converts_and_hashes_nothing(tmp_path: Path) -> None:
    _, first = load(openai_spec(tmp_path))
    [converted] = (tmp_path / "converted").glob("*.safetensors")
    written = converted.stat().st_mtime_ns
    _, second = load(openai_spec(tmp_path))
    assert "convert" in first
    assert "convert" not in second
    assert converted.stat().st_mtime_ns == written
    assert not list((tmp_path / "converted").glob("*.part"))


def test_the_converted_file_is_safetensors(cache: Path, loaded: dict[str, LoadedModel]) -> None:
    from safetensors.torch import load_file

    [converted] = (cache / "converted").glob("*.safetensors")
    original = torch.load(PATHS["openai-whisper"], weights_only=True)["model_state_dict"]
    for name, tensor in load_file(converted).items():
        assert torch.equal(tensor, original[name].float())


def test_a_damaged_converted_file_is_made_anew(tmp_path: Path) -> None:
    load(openai_spec(tmp_path))
    [converted] = (tmp_path / "converted").glob("*.safetensors")
    os.truncate(converted, 1_000_000)
    _, phases = load(openai_spec(tmp_path))
    assert "convert" in phases


def test_a_digest_that_differs_is_refused(cache: Path) -> None:
    with pytest.raises(CheckpointDamaged, match="was expected"):
        load(openai_spec(cache, sha256="0" * 64))
    digest = hashlib.sha256(PATHS["openai-whisper"].read_bytes()).hexdigest()
    load(openai_spec(cache, sha256=digest.upper()))


def test_a_checkpoint_of_another_size_is_refused_by_name(cache: Path) -> None:
    with pytest.raises(CheckpointDamaged, match="not of the size 'base'"):
        load(openai_spec(cache, size="base"))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_cut_off_checkpoint_is_damaged(share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    shutil.copy(PATHS["openai-whisper"], path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointDamaged, match="no complete Whisper checkpoint"):
        load(openai_spec(tmp_path, path=str(path)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_checkpoint_says_where_it_was_looked_for(engine: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="nowhere"):
        load(replace(spec_of(engine, tmp_path), path=str(tmp_path / "nowhere")))


def test_a_damaged_ctranslate2_folder_is_refused(tmp_path: Path) -> None:
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
def test_what_an_engine_cannot_compute_is_refused_before_anything_is_fetched(spec: ModelSpec) -> None:
    with pytest.raises(LoadFailed):
        load(spec)


def test_a_cache_that_cannot_be_written_still_serves(tmp_path: Path) -> None:
    (tmp_path / "converted").touch()  # no folder can be made there, whoever runs this
    model, _ = load(openai_spec(tmp_path))
    assert "country" in segments_of(model, JFK)[0].text
