"""Story 5: users edit a model while it is working."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from e2e.model import Model
from e2e.speech import WORDS, Speech
from testing.operator_process import eventually
from tools.images import reference

OPENAI = {"size": "tiny.en", "engine": "openai-whisper", "source": {"path": "/weights/tiny.en.pt"}}


def test_a_new_engine_takes_over_after_the_old_one_has_finished_its_jobs(model: Model) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    old = model.pod()["metadata"]["name"]
    with model.speaking() as speech:
        jobs = [speech.start_job() for _ in range(6)]
        model.patch(model=OPENAI, pod={"image": reference("openai-tiny.en")})
        assert speech.job(jobs[-1])["status"] in ("queued", "running"), "all jobs were finished before the edit"
        assert served(speech) == {"model": "tiny.en", "engine": "faster-whisper"}
        assert all(WORDS in text for text in speech.text_of(jobs))
    eventually(lambda: all(pod["metadata"]["name"] != old for pod in model.pods()), "the old pod is gone")
    model.wait_for(state="Loaded", observedGeneration=2, seconds=120)
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()
        assert served(speech) == {"model": "tiny.en", "engine": "openai-whisper"}


def served(speech: Speech) -> dict[str, str]:
    """Return the model and engine that a server reports."""
    [labels] = [
        sample.labels
        for family in text_string_to_metric_families(speech.metrics())
        for sample in family.samples
        if sample.name == "whisper_model_info"
    ]
    return {name: labels[name] for name in ("model", "engine")}


def test_a_model_whose_desired_state_is_unloaded_serves_and_unloads_again(model: Model) -> None:
    model.apply(desiredState="Loaded", idle={"unloadAfter": "2s"})
    model.wait_for(state="Loaded")
    model.patch(desiredState="Unloaded")
    model.wait_for(state="Unloaded", reason="DesiredState")
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()
        assert speech.status()["loaded"] is True
        model.wait_for(state="Unloaded", reason="DesiredState")
        eventually(lambda: speech.status()["loaded"] is False, "the server is unloaded too")
