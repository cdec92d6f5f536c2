"""Story 5: people edit a model that is at work."""

from __future__ import annotations

from e2e.model import FASTER, Model
from e2e.speech import WORDS
from tests.operator_process import eventually


def test_another_model_serves_after_the_old_one_has_finished_its_jobs(model: Model) -> None:
    model.apply(desiredState="Loaded")
    model.wait_for(state="Loaded")
    old = model.pod()["metadata"]["name"]
    with model.speaking() as speech:
        jobs = [speech.start_job() for _ in range(3)]
        model.patch(model={**FASTER, "computeType": "int8"})
        assert all(WORDS in text for text in speech.text_of(jobs))
    eventually(lambda: [pod["metadata"]["name"] for pod in model.pods() if pod["metadata"]["name"] != old], "a new pod")
    eventually(lambda: all(pod["metadata"]["name"] != old for pod in model.pods()), "the old pod is gone")
    model.wait_for(state="Loaded", observedGeneration=2)
    assert "WHISPER_COMPUTE_TYPE" in model.run("env")
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()


def test_a_model_that_shall_be_unloaded_still_serves_and_falls_back(model: Model) -> None:
    model.apply(desiredState="Loaded", idle={"unloadAfter": "2s"})
    model.wait_for(state="Loaded")
    model.patch(desiredState="Unloaded")
    model.wait_for(state="Unloaded", reason="DesiredState")
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()
        assert speech.status()["loaded"] is True
        model.wait_for(state="Unloaded", reason="DesiredState")
        eventually(lambda: speech.status()["loaded"] is False, "the server tells the same")
