"""Many at once: one load, and everybody gets the answer to the own question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.audio_files import RATE, write_wav
from tests.integration.conftest import StartServer
from tests.server_process import ServerProcess, upload, wait_until

Question = tuple[Path, dict[str, str]]
_PATIENCE_SECONDS = 800


def ask_at_once(server: ServerProcess, questions: Sequence[Question]) -> list[httpx.Response]:
    """Ask all questions at the same time; return the answers in their order."""

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=_PATIENCE_SECONDS, limits=limits) as client:
            return await asyncio.gather(
                *(
                    client.post("/v1/audio/transcriptions", files={"file": upload(path)}, data=fields)
                    for path, fields in questions
                )
            )

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def questions(clip: Path, other_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Ten that differ in their answers; half are about silence, which is soon told."""
    silence = write_wav(tmp_path_factory.mktemp("audio") / "silence.wav", np.zeros(RATE, np.int16))
    return [
        (clip, {"response_format": "json"}),
        (silence, {"response_format": "json"}),
        (other_clip, {"response_format": "verbose_json", "language": "en"}),
        (silence, {"response_format": "verbose_json"}),
        (other_clip, {"response_format": "srt", "temperature": "0.7"}),
        (silence, {"response_format": "vtt"}),
        (clip, {"response_format": "verbose_json", "timestamp_granularities[]": "word"}),
        (silence, {"response_format": "tsv"}),
        (clip, {"response_format": "text", "prompt": "A president's speech:"}),
        (silence, {"response_format": "text"}),
    ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "count"), [("faster-whisper", 200), ("openai-whisper", 50)])
def test_first_requests_at_once_share_one_load_and_are_answered_as_one_by_one(
    start_server: StartServer, questions: list[Question], engine: str, count: int
) -> None:
    server = start_server(engine, WHISPER_MAX_WAITING=str(count), WHISPER_MAX_WAIT="15m")
    rounds = count // len(questions)
    at_once = ask_at_once(server, questions * rounds)
    assert server.metric("whisper_model_loads_total") == 1
    alone = [server.transcribe(path, **fields) for path, fields in questions]
    assert {answer.status_code for answer in alone} == {200}
    assert len({answer.text for answer in alone}) == len(alone)
    assert [answer.text for answer in at_once] == [answer.text for answer in alone * rounds]


def test_who_finds_100_waiting_is_told_when_to_come_back(
    start_server: StartServer, long_clip: Path, clip: Path
) -> None:
    server = start_server()
    # The others wait behind it.
    running = server.submit(long_clip)["id"]

    async def ask_101() -> httpx.Response:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=_PATIENCE_SECONDS, limits=limits) as client:
            waiting = [
                asyncio.create_task(client.post("/v1/audio/transcriptions", files={"file": upload(clip)}))
                for _ in range(101)
            ]
            done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=_PATIENCE_SECONDS)
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            [refused] = done
            return refused.result()

    refused = asyncio.run(ask_101())
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "too-many-waiting"
    assert int(refused.headers["Retry-After"]) >= 1
    server.client.delete(f"/jobs/{running}")
    # The hundred have hung up, so their jobs end too.
    wait_until(lambda: server.metric("whisper_jobs", status="queued") == 0, "the jobs of those who left end")
