"""The packaged weights, loaded with both libraries."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from testing.paths import ROOT
from testing.spoken_words import SPOKEN, normalized
from tools.weights import CHECKPOINT, CT2_FOLDER, make_weights
from whispermodel.catalog import find_size

SPEECH = ROOT / "tests" / "data" / "jfk.flac"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_weights(folder)
    return folder


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    with av.open(str(SPEECH)) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames], dtype=np.float32)


def test_stock_whisper_transcribes_with_the_checkpoint(models: Path, speech: NDArray[np.float32]) -> None:
    import whisper

    model = whisper.load_model(str(models / CHECKPOINT), device="cpu")
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == find_size("tiny.en").parameters
    assert normalized(str(model.transcribe(speech, fp16=False)["text"])) == SPOKEN


def test_faster_whisper_transcribes_with_the_folder(models: Path, speech: NDArray[np.float32]) -> None:
    from faster_whisper import WhisperModel

    model = WhisperModel(str(models / CT2_FOLDER), device="cpu", compute_type="float32")
    segments, _ = model.transcribe(speech)
    assert normalized("".join(segment.text for segment in segments)) == SPOKEN


def test_existing_files_are_kept(models: Path) -> None:
    before = (models / CHECKPOINT).stat()
    assert make_weights(models) == []
    assert (models / CHECKPOINT).stat() == before
    assert {path.name for path in models.iterdir()} == {CHECKPOINT, CT2_FOLDER}


def test_only_missing_files_are_made(models: Path) -> None:
    (models / CHECKPOINT).unlink()
    assert make_weights(models) == [models / CHECKPOINT]
