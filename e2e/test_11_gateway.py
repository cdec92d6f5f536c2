"""Story 11: requests through the gateway wake models at zero and are answered, whatever happens meanwhile.

The namespaces of models and gateway enforce the Pod Security level `restricted` (`Cluster.make_namespace`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

import httpx
import pytest

from e2e.cluster import Cluster
from e2e.gateway import Gateway
from e2e.model import Model
from e2e.release import Release
from e2e.speech import WORDS, Json, Speech
from testing.audio_files import JFK, RATE, speech, speech_in_windows, write_wav
from testing.depth import depth
from testing.operator_process import eventually
from testing.spoken_words import normalized

HERD = 50
WINDOWS = 8
"""Of a job that takes several seconds."""
CYCLES = depth(ci=3, nightly=20)
IDLE = {"unloadAfter": "1s", "scaleToZeroAfter": "1s"}
BY_STEPS = {"unloadAfter": "6s", "scaleToZeroAfter": "8s"}
"""Longer than the gateway takes to declare the end of demand (docs/waking.md), so that each step can be seen."""
EXACT = timedelta(seconds=2)
LADDER = ["Waking", "Loaded", "Unloaded", "ScaledToZero"]
NO_IMAGE = {"image": "registry.invalid/whisper-inference:none"}


@pytest.fixture
def gateway(cluster: Cluster, release: Release) -> Gateway:
    """The gateway of the shared release."""
    return Gateway(cluster, release)


@pytest.fixture
def at_zero(model: Model) -> Model:
    """A model at zero, which has never had a pod."""
    model.apply(idle=IDLE)
    model.wait_for(state="Zero")
    return model


@pytest.fixture
def greeting(tmp_path: Path) -> Path:
    """The first words of the speech, which are transcribed quickly."""
    return write_wav(tmp_path / "greeting.wav", speech()[: 3 * RATE])


def test_a_herd_of_first_requests_starts_one_pod_and_loads_once(
    gateway: Gateway, at_zero: Model, greeting: Path
) -> None:
    with gateway.speaking(at_zero) as client, ThreadPoolExecutor(HERD) as pool:
        answers = list(pool.map(lambda _: client.send(greeting), range(HERD)))
    assert [answer.status_code for answer in answers] == [httpx.codes.OK] * HERD
    assert all("fellow" in answer.text for answer in answers)
    assert [at_zero.reasons().count(reason) for reason in ("Waking", "Loaded")] == [1, 1]
    assert at_zero.pod()


@pytest.mark.timeout(60 + 30 * CYCLES)
def test_the_first_request_after_the_whole_idle_ladder_is_answered_each_time(gateway: Gateway, at_zero: Model) -> None:
    at_zero.patch(idle=BY_STEPS)
    with gateway.speaking(at_zero) as client:
        for _ in range(CYCLES):
            answer = client.send()
            assert answer.status_code == httpx.codes.OK, answer.text
            assert WORDS in normalized(answer.json()["text"])
            assert answer.headers["X-Cold-Start"] == "true"
            ended = datetime.fromisoformat(client.job(answer.headers["X-Job-Id"])["finished_at"])
            idle_since = datetime.fromisoformat(at_zero.wait_for(state="Zero")["idleSince"])
            assert abs(idle_since - ended) <= EXACT
            eventually(lambda: not at_zero.pods(), "no pod is left")
    # An idle model is unloaded in two steps, of which the first keeps the libraries in memory.
    steps = [reason for reason, _ in groupby(at_zero.reasons()) if reason in LADDER]
    assert [reason for reason, _ in groupby(steps)] == LADDER * CYCLES


def test_a_model_whose_image_is_missing_says_so_and_does_not_slow_another(
    gateway: Gateway, make_model: Callable[[str], Model], at_zero: Model
) -> None:
    broken = make_model("broken")
    broken.apply(idle=IDLE, pod=NO_IMAGE)
    with gateway.speaking(broken) as of_broken, gateway.speaking(at_zero) as client, ThreadPoolExecutor() as pool:
        stored = [of_broken.start_job() for _ in range(10)]
        refused = pool.submit(of_broken.send)
        client.transcribe()
        warm = client.send()
        answer = refused.result()
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
        assert NO_IMAGE["image"] in answer.json()["error"]["message"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert phase(warm, "queue") < 1000
        assert {of_broken.job(job)["status"] for job in stored} == {"queued"}


def phase(answer: httpx.Response, name: str) -> float:
    """Return the milliseconds of a phase in Server-Timing."""
    phases = dict(part.strip().split(";dur=") for part in answer.headers["Server-Timing"].split(","))
    return float(phases[name])


def test_a_client_that_leaves_during_the_cold_start_fetches_its_job_later(gateway: Gateway, at_zero: Model) -> None:
    key = f"{at_zero.namespace}-leaves"
    with gateway.speaking(at_zero) as client, pytest.raises(httpx.ReadTimeout):
        client.send(key=key, seconds=1)
    with gateway.speaking(at_zero) as client:
        answer = client.send(key=key)
        assert WORDS in normalized(answer.json()["text"])
        assert client.text_of([answer.headers["X-Job-Id"]])
        assert at_zero.reasons().count("Waking") == 1


def test_a_job_is_finished_by_the_next_pod_when_its_pod_is_killed(
    gateway: Gateway, at_zero: Model, cluster: Cluster, tmp_path: Path
) -> None:
    file = write_wav(tmp_path / "long.wav", speech_in_windows(WINDOWS))
    with gateway.speaking(at_zero) as client:
        job = client.start_job(file)
        eventually(lambda: client.job(job)["progress"] > 0, "the job makes progress", seconds=60)
        assert client.job(job)["status"] == "running", "nothing is left to continue"
        lost = at_zero.pod()["metadata"]["name"]
        cluster.kubectl("delete", "pod", lost, "--namespace", at_zero.namespace, "--grace-period=0", "--force")
        done = client.wait_for_job(job, "succeeded", "failed")
    assert normalized(done["text"]).count(WORDS) == WINDOWS
    # The job is not to blame for its pod.
    assert (done["status"], done["attempts"]) == ("succeeded", 1)
    assert at_zero.pod()["metadata"]["name"] != lost


@pytest.mark.parametrize("replace", [Gateway.roll, Gateway.kill])
def test_what_a_gateway_accepted_survives_its_replacement(
    gateway: Gateway, at_zero: Model, tmp_path: Path, replace: Callable[[Gateway], None]
) -> None:
    file = write_wav(tmp_path / f"{at_zero.namespace}.wav", speech())
    keys = [f"{at_zero.namespace}-{number}" for number in range(3)]
    with gateway.speaking(at_zero) as client, ThreadPoolExecutor() as pool:
        jobs = [client.start_job(file) for _ in range(3)]
        held = [pool.submit(client.send, file, key=key) for key in keys]
        eventually(lambda: len(jobs_of(client, file)) == len(jobs) + len(keys), "all are accepted")
        assert "succeeded" not in {job["status"] for job in jobs_of(client, file)}, "nothing is left to lose"
        replace(gateway)
        answers = [one.result() for one in held if one.exception() is None]
    # What a gateway that is being replaced cannot finish, it refers to its successor; one that is killed says nothing.
    assert replace is Gateway.kill or len(answers) == len(keys)
    for answer in answers:
        refers = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and "Location" in answer.headers
        assert answer.status_code == httpx.codes.OK or refers, answer.text
    with gateway.speaking(at_zero) as client:
        assert all(WORDS in text for text in client.text_of(jobs))
        assert all(WORDS in normalized(client.send(file, key=key).json()["text"]) for key in keys)
        assert len(jobs_of(client, file)) == len(jobs) + len(keys)


def jobs_of(client: Speech, file: Path) -> list[Json]:
    """Return the jobs that came with a file."""
    return [job for job in client.jobs() if job["filename"] == file.name]


def test_the_openai_client_wakes_a_model(gateway: Gateway, at_zero: Model) -> None:
    name = f"{at_zero.namespace}/{at_zero.name}"
    with gateway.openai_client() as client:
        assert {"Zero"} == {(model.model_extra or {})["state"] for model in client.models.list() if model.id == name}
        assert WORDS in normalized(client.audio.transcriptions.create(model=name, file=JFK).text)
        events = list(client.audio.transcriptions.create(model=name, file=JFK, stream=True))
        assert events[-1].type == "transcript.text.done"
        assert WORDS in normalized(events[-1].text)
