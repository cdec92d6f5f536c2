"""Many at once: one load, and everybody gets the answer to the own question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from testing.depth import depth
from testing.server_process import ServerProcess, StartServer, upload, wait_until

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


@pytest.mark.timeout(900)
def test_first_requests_at_once_share_one_load_and_get_the_answer_of_one(start_server: StartServer, clip: Path) -> None:
    count = depth(ci=20, nightly=200)
    server = start_server(WHISPER_MAX_WAITING=str(count), WHISPER_MAX_WAIT="15m")
    alone = server.transcribe(clip).json()["text"]
    server.unload()
    loads = server.metric("whisper_model_loads_total")
    answers = ask_at_once(server, [(clip, {})] * count)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["text"] for answer in answers} == {alone}
    assert server.metric("whisper_model_loads_total") == loads + 1


def test_client_beyond_100_waiting_gets_429_with_retry_after(
    start_server: StartServer, clip: Path, long_clip: Path
) -> None:
    server = start_server()

    async def ask_101() -> httpx.Response:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=_PATIENCE_SECONDS, limits=limits) as client:
            waiting = [
                asyncio.create_task(client.post("/v1/audio/transcriptions", files={"file": upload(long_clip)}))
                for _ in range(100)
            ]
            while not any(task.done() for task in waiting):
                status = (await client.get("/model/status")).json()
                if status["queued"] + status["in_flight"] == 100:
                    break
                await asyncio.sleep(0.1)
            assert not any(task.done() for task in waiting), "all hundred still wait"
            refused = await client.post("/v1/audio/transcriptions", files={"file": upload(clip)})
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return refused

    refused = asyncio.run(ask_101())
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "too-many-waiting"
    assert int(refused.headers["Retry-After"]) >= 1
    # The hundred have hung up, so their jobs end too.
    wait_until(lambda: server.metric("whisper_jobs", status="queued") == 0, "the jobs of those who left end")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
def test_mixed_requests_at_once_are_answered_as_one_by_one(
    start_server: StartServer, clip: Path, other_clip: Path, engine: str
) -> None:
    server = start_server(engine)
    kinds: list[Question] = [
        (clip, {"response_format": "json"}),
        (other_clip, {"response_format": "verbose_json", "language": "en"}),
        (other_clip, {"response_format": "srt", "temperature": "0.7"}),
        (clip, {"response_format": "verbose_json", "timestamp_granularities[]": "word"}),
        (clip, {"response_format": "text", "prompt": "A president's speech:"}),
    ]
    alone = [server.transcribe(path, **fields) for path, fields in kinds]
    assert {answer.status_code for answer in alone} == {200}
    times = depth(ci=2, nightly=5)
    at_once = ask_at_once(server, kinds * times)
    assert [answer.text for answer in at_once] == [answer.text for answer in alone * times]
