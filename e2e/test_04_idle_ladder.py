"""Story 4: an idle model is unloaded, then scaled to zero; running jobs are never interrupted."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from e2e.model import Model
from e2e.speech import WORDS
from testing.audio_files import speech_in_windows, write_wav
from testing.operator_process import eventually
from testing.spoken_words import normalized

UNLOAD_AFTER, ZERO_AFTER = timedelta(seconds=4), timedelta(seconds=9)
EXACT = timedelta(seconds=2)
IDLE = {"unloadAfter": "4s", "scaleToZeroAfter": "9s"}
_TIMES = 16


@pytest.fixture
def long_speech(tmp_path: Path) -> Path:
    """Speech whose transcription takes longer than the idle times."""
    return write_wav(tmp_path / "long.wav", speech_in_windows(_TIMES))


def woken(model: Model) -> None:
    """Keep demand until the model is loaded, then let it expire."""
    model.demand(seconds=120)
    model.wait_for(state="Loaded")
    model.demand(seconds=1)


def test_an_idle_model_is_unloaded_and_then_scaled_to_zero_on_time(model: Model) -> None:
    model.apply(idle=IDLE)
    woken(model)
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()
    unloaded = model.wait_for(state="Unloaded")
    idle_since = datetime.fromisoformat(unloaded["idleSince"])
    assert abs(datetime.fromisoformat(unloaded["since"]) - idle_since - UNLOAD_AFTER) <= EXACT
    at_zero = model.wait_for(state="Zero")
    assert abs(datetime.fromisoformat(at_zero["since"]) - idle_since - ZERO_AFTER) <= EXACT
    assert at_zero["replicas"]["desired"] == 0
    eventually(lambda: not model.pods(), "no pod is left")


def test_a_job_longer_than_the_idle_times_is_not_interrupted(model: Model, long_speech: Path) -> None:
    model.apply(idle=IDLE)
    woken(model)
    with model.speaking() as speech:
        job = speech.start_job(long_speech)
        done = speech.wait_for_job(job, "succeeded", "failed", "cancelled")
    took = datetime.fromisoformat(done["finished_at"]) - datetime.fromisoformat(done["started_at"])
    assert took > ZERO_AFTER
    assert (done["status"], done["attempts"]) == ("succeeded", 1)
    assert normalized(done["text"]).count(WORDS) == _TIMES
    assert model.wait_for(state="Unloaded")["reason"] == "Idle"
