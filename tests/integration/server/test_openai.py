"""The official client of OpenAI against /v1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import openai
import pysubs2
import pytest
from openai.types.audio import TranscriptionVerbose

from testing.server_process import Json, Launch, ServerProcess, wait_until

KEY = "a-key-for-tests"


@pytest.fixture(scope="module")
def server(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(f"- {{name: tests, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, scopes: [use]}}\n")
    with launch(WHISPER_API_KEYS_FILE=str(keys), WHISPER_MAX_WAITING="1") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_json_is_a_transcription(client: openai.OpenAI, jfk: Path) -> None:
    assert "fellow Americans" in client.audio.transcriptions.create(model="whisper-1", file=jfk).text


def test_text_is_the_text(client: openai.OpenAI, clip: Path) -> None:
    text = client.audio.transcriptions.create(model="tiny.en", file=clip, response_format="text")
    assert text.strip() == client.audio.transcriptions.create(model="tiny.en", file=clip).text.strip()


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_parse(client: openai.OpenAI, clip: Path, kind: Literal["srt", "vtt"]) -> None:
    text = client.audio.transcriptions.create(model="whisper-1", file=clip, response_format=kind)
    assert "fellow Americans" in pysubs2.SSAFile.from_string(str(text), format_=kind)[0].plaintext


def test_verbose_json_has_segments_and_length(client: openai.OpenAI, jfk: Path) -> None:
    found = client.audio.transcriptions.create(model="whisper-1", file=jfk, response_format="verbose_json")
    assert isinstance(found, TranscriptionVerbose)
    assert found.language == "english"
    assert float(found.duration) == pytest.approx(11.0, abs=0.1)
    assert found.segments
    assert not found.words


def test_words_come_when_asked_for(client: openai.OpenAI, jfk: Path) -> None:
    found = client.audio.transcriptions.create(
        model="whisper-1", file=jfk, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert isinstance(found, TranscriptionVerbose)
    assert found.words
    assert [word.start for word in found.words] == sorted(word.start for word in found.words)


def test_a_stream_sends_the_text_as_it_is_transcribed(client: openai.OpenAI, jfk: Path) -> None:
    events = list(client.audio.transcriptions.create(model="whisper-1", file=jfk, stream=True))
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert events[-1].type == "transcript.text.done"
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert deltas == events[-1].text
    assert "fellow Americans" in deltas


@pytest.mark.parametrize("wanted", ["srt", "vtt", "verbose_json"])
def test_a_stream_of_more_than_text_is_refused(client: openai.OpenAI, jfk: Path, wanted: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="response_format must be json or text"):
        client.audio.transcriptions.create(model="whisper-1", file=jfk, stream=True, response_format=wanted)


def test_a_stream_of_something_other_than_audio_is_an_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"text " * 100), stream=True)
    assert refusal.value.status_code == 415


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's, for whisper-1 and plain JSON
def test_an_english_only_model_refuses_to_translate(client: openai.OpenAI, clip: Path) -> None:
    with pytest.raises(openai.BadRequestError, match=r"tiny\.en"):
        client.audio.translations.create(model="whisper-1", file=clip)


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    [listed] = client.models.list().data
    assert listed.id == "tiny.en"
    assert client.models.retrieve("tiny.en") == listed


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI, clip: Path) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4o"):
        client.audio.transcriptions.create(model="gpt-4o", file=clip)


def test_a_wrong_key_is_an_authentication_error(server: ServerProcess) -> None:
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="API key"),
    ):
        client.models.list()


def test_a_bad_option_is_a_bad_request_error(client: openai.OpenAI, clip: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.audio.transcriptions.create(model="whisper-1", file=clip, temperature=9)


def test_too_many_waiting_is_a_rate_limit_error(client: openai.OpenAI, server: ServerProcess, long_clip: Path) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}

    def begun() -> list[Json]:
        return server.client.get("/jobs", params={"status": "running"}, headers=headers).json()["jobs"]

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.audio.transcriptions.create, model="whisper-1", file=long_clip)
        [job] = wait_until(begun, "the first client's job runs")
        with pytest.raises(openai.RateLimitError, match="waiting") as refusal:
            client.audio.transcriptions.create(model="whisper-1", file=long_clip)
        server.client.delete(f"/jobs/{job['id']}", headers=headers)
        with pytest.raises(openai.ConflictError, match="cancelled"):
            waiting.result()
    assert int(refusal.value.response.headers["Retry-After"]) >= 1
    assert json.loads(refusal.value.response.text)["error"]["type"] == "rate_limit_error"
