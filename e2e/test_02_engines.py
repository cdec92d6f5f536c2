"""Story 2: both engines, each in its image, transcribe speech."""

from __future__ import annotations

import pytest

from e2e.model import FASTER, Model
from e2e.speech import WORDS
from tools.images import reference

OPENAI = {"size": "tiny.en", "engine": "openai-whisper", "source": {"path": "/weights/tiny.en.pt"}}
HAS_TORCH = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"


@pytest.mark.parametrize(
    ("engine", "image", "has_torch"),
    [
        pytest.param(FASTER, "faster-tiny.en", "False", id="faster-whisper, in an image without torch"),
        pytest.param(OPENAI, "openai-tiny.en", "True", id="openai-whisper, in an image with torch"),
    ],
)
def test_an_engine_transcribes_speech(model: Model, engine: dict[str, object], image: str, has_torch: str) -> None:
    model.apply(model=engine, pod={"image": reference(image)}, desiredState="Loaded")
    model.wait_for(state="Loaded", seconds=120)
    assert model.run("python", "-c", HAS_TORCH).strip() == has_torch
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()
        assert f'engine="{engine["engine"]}"' in speech.metrics()
