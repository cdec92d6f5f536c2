"""Jobs of several callers on one server: each sees their own, an admin all, and nobody can tell another's from none."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from testing.jobs import job
from testing.server_process import Json, Launch, ServerProcess, upload, wait_until
from whisper_inference.api.app import make_app
from whisper_inference.api.auth import ANONYMOUS
from whisper_inference.api.dependencies import Services
from whisper_inference.errors import NotAudio
from whisper_inference.jobs.database import open_database, sqlite_url
from whisper_inference.jobs.job import LOCAL, Section
from whisper_inference.jobs.store import JobStore
from whisper_inference.transcripts.transcript import Resume, Segment

SCOPES = {"alice": "use", "bob": "use", "nightly": "control", "whisper-operator": "operator", "support": "admin"}
"""By the names of the keys, which are the keys too."""
OTHERS = [name for name, scope in SCOPES.items() if name != "alice" and scope != "admin"]
REMOVED = "carol"
"""Whose key was taken out of the file."""

STORED = {
    f"{owner}-{status}": owner
    for status in ("succeeded", "failed", "cancelled")
    for owner in ("alice", "bob", ANONYMOUS.name, REMOVED)
}
"""The jobs that an earlier release has stored, by id, with their owners."""
ALICES = [name for name, owner in STORED.items() if owner == "alice"]


def routes_with_a_parameter() -> list[tuple[str, str]]:
    """Return method and path of the application's routes whose path takes something, in its schema or not."""
    app = make_app(cast("Services", SimpleNamespace(version="0", metrics=None, executions=object())))
    found = [(route.path or "", route.methods or ()) for route in iter_route_contexts(app.routes)]
    return sorted((method, path) for path, methods in found if "{" in path for method in methods)


OF_NO_STORED_JOB = [("GET", "/v1/models/{model:path}"), ("DELETE", "/execute/{job_id}")]
"""The second takes a job that a gateway stores and owns; it needs the scope operator (test_execute.py)."""
OF_A_JOB = [route for route in routes_with_a_parameter() if route not in OF_NO_STORED_JOB]
"""Whatever takes something in its path takes a stored job's id, unless listed above: a new route is tested unasked."""

each_route = pytest.mark.parametrize(("method", "path"), OF_A_JOB, ids=[" ".join(route) for route in OF_A_JOB])


def store_jobs(folder: Path) -> Path:
    """Store the jobs as an earlier server did; return the folder."""
    asyncio.run(_store_jobs(folder))
    return folder


async def _store_jobs(folder: Path) -> None:
    numbers = itertools.count()
    database = open_database(sqlite_url(folder))
    store = JobStore(database, clock=lambda: datetime.now(UTC), new_token=lambda: f"token-{next(numbers)}")
    await store.prepare()
    for name, owner in STORED.items():
        await store.add(replace(job(name), principal=owner))
        lease = await store.lease(LOCAL)
        assert lease is not None
        await store.append_section(lease.token, section_of(owner))
        if name.endswith("succeeded"):
            await store.succeed(lease.token, 1.0)
        elif name.endswith("failed"):
            await store.fail(lease.token, NotAudio(reason=f"{owner} sent noise"))
        else:
            await store.cancel(name)
    await database.close()


def section_of(owner: str) -> Section:
    segment = Segment(0, 0, 0.0, 1.0, f" {owner} spoke.", (1,), 0.0, 0.0, 1.0, 0.0)
    return Section((segment,), resume=Resume(16_000, "en", segment.text), progress=1.0)


def entry(name: str, scope: str, *, key: str | None = None) -> str:
    digest = hashlib.sha256((key or name).encode()).hexdigest()
    return f"- {{name: {name}, sha256: {digest}, scopes: [{scope}]}}\n"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text("".join(entry(name, scope) for name, scope in SCOPES.items()))
    return path


@pytest.fixture(scope="module")
def server(launch: Launch, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that found the jobs of an earlier release, and has keys."""
    with launch(data_dir=store_jobs(tmp_path_factory.mktemp("data")), WHISPER_API_KEYS_FILE=str(keys_file)) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(
    server: ServerProcess,
    key: str,
    *,
    method: str = "GET",
    path: str = "/jobs/{job_id}",
    job_id: str = "",
    **query: str,
) -> httpx.Response:
    url = re.sub(r"\{[^}]*\}", job_id, path)
    return server.client.request(method, url, headers=bearer(key), params=query)


def status_of(server: ServerProcess, job_id: str, *, key: str = "support") -> str:
    return str(ask(server, key, job_id=job_id).raise_for_status().json()["status"])


def listed(server: ServerProcess, key: str, **query: str) -> list[str]:
    """Return the ids of all pages of a caller's list."""
    ids: list[str] = []
    while True:
        page: Json = ask(server, key, path="/jobs", **query).raise_for_status().json()
        ids += [one["id"] for one in page["jobs"]]
        if page["next_cursor"] is None:
            return ids
        query["cursor"] = page["next_cursor"]


def answered(answer: httpx.Response, *, job_id: str) -> tuple[int, dict[str, str], str]:
    """Return all that a caller can see of an answer, but the id that they sent themselves."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
    return answer.status_code, headers, answer.text.replace(job_id, "ID")


def test_the_routes_of_a_job_are_found() -> None:
    assert {
        ("GET", "/jobs/{job_id}"),
        ("DELETE", "/jobs/{job_id}"),
        ("GET", "/jobs/{job_id}/result"),
        ("GET", "/jobs/{job_id}/events"),
    } <= set(OF_A_JOB)


@each_route
@pytest.mark.parametrize("caller", OTHERS)
@pytest.mark.parametrize("job_id", ALICES)
def test_a_foreign_job_looks_like_one_that_does_not_exist(
    server: ServerProcess, method: str, path: str, caller: str, job_id: str
) -> None:
    def answer(asked: str, **query: str) -> tuple[int, dict[str, str], str]:
        return answered(ask(server, caller, method=method, path=path, job_id=asked, **query), job_id=asked)

    status, _, body = answer(job_id)
    assert (status, json.loads(body)["code"]) == (404, "job-not-found")
    for query in ({}, {"format": "nonsense"}, {"unknown": "x"}):
        assert answer(job_id, **query) == answer("alice-unknown", **query)


@pytest.fixture
def in_progress(server: ServerProcess, longer_clip: Path) -> Iterator[list[str]]:
    """Two jobs of alice's, a running and a queued one."""
    running, queued = (server.submit(longer_clip, headers=bearer("alice"))["id"] for _ in range(2))
    wait_until(lambda: status_of(server, running) == "running", "a running job")
    yield [running, queued]
    for job_id in (running, queued):
        ask(server, "alice", method="DELETE", job_id=job_id)


def test_a_foreign_job_in_progress_is_neither_shown_nor_touched(server: ServerProcess, in_progress: list[str]) -> None:
    for (method, path), job_id in itertools.product(OF_A_JOB, in_progress):
        answer = ask(server, "bob", method=method, path=path, job_id=job_id)
        assert (answer.status_code, answer.json()["code"]) == (404, "job-not-found")
        assert status_of(server, job_id, key="alice") != "cancelled"


def test_an_admin_may_cancel_another_s_job(server: ServerProcess, in_progress: list[str]) -> None:
    for job_id in reversed(in_progress):
        assert ask(server, "support", method="DELETE", job_id=job_id).json()["status"] == "cancelled"
        assert status_of(server, job_id, key="alice") == "cancelled"


@each_route
@pytest.mark.parametrize("caller", ["alice", "support"])
def test_the_owner_and_an_admin_see_the_job(server: ServerProcess, method: str, path: str, caller: str) -> None:
    answer = ask(server, caller, method=method, path=path, job_id="alice-succeeded")
    assert answer.status_code == 200, answer.text
    assert status_of(server, "alice-succeeded") == "succeeded"


@each_route
@pytest.mark.parametrize("key", ["", "wrong", REMOVED, ANONYMOUS.name])
def test_without_a_valid_key_no_job_is_answered(server: ServerProcess, method: str, path: str, key: str) -> None:
    for job_id in ("alice-succeeded", "alice-unknown"):
        headers = bearer(key) if key else {}
        assert server.client.request(method, path.format(job_id=job_id), headers=headers).status_code == 401


def test_a_list_holds_the_caller_s_jobs_alone_page_by_page(server: ServerProcess) -> None:
    for caller in ("alice", "bob"):
        owned = [name for name, owner in STORED.items() if owner == caller]
        assert [name for name in listed(server, caller, limit="1") if name in STORED] == owned[::-1]
        assert listed(server, caller, status="failed") == [f"{caller}-failed"]
    assert listed(server, "nightly") == listed(server, "whisper-operator") == []
    count = len(listed(server, "bob"))
    whole = ask(server, "bob", path="/jobs", limit=str(count)).json()
    assert (len(whole["jobs"]), whole["next_cursor"]) == (count, None), "the jobs of others are no next page"


def test_another_s_cursor_shows_none_of_their_jobs(server: ServerProcess) -> None:
    cursor = ask(server, "alice", path="/jobs", limit="1").json()["next_cursor"]
    assert set(listed(server, "bob", cursor=cursor)) <= {name for name, owner in STORED.items() if owner == "bob"}
    assert listed(server, "nightly", cursor=cursor) == []


def test_an_admin_lists_all_jobs_including_those_of_removed_keys(server: ServerProcess) -> None:
    assert [name for name in listed(server, "support", limit="5") if name in STORED] == list(STORED)[::-1]


def test_an_admin_may_not_control_the_model_nor_a_controller_see_all_jobs(server: ServerProcess) -> None:
    answer = ask(server, "support", method="POST", path="/model/unload")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    assert ask(server, "nightly", method="POST", path="/model/load").status_code == 200
    assert listed(server, "nightly") == []


def test_counts_are_of_all_jobs(server: ServerProcess) -> None:
    assert server.metric("whisper_jobs") == len(listed(server, "support"))


def test_a_job_of_openai_s_routes_is_its_caller_s(server: ServerProcess, clip: Path) -> None:
    answer = server.client.post("/v1/audio/transcriptions", files={"file": upload(clip)}, headers=bearer("bob"))
    job_id = answer.headers["x-job-id"]
    assert job_id in listed(server, "bob")
    assert job_id not in listed(server, "alice")
    assert ask(server, "alice", job_id=job_id).status_code == 404
    assert ask(server, "bob", path="/jobs/{job_id}/result", job_id=job_id).json()["text"] == answer.json()["text"]


def test_a_key_is_an_owner_by_its_name(server: ServerProcess, keys_file: Path) -> None:
    """A removed name that comes back finds its jobs, and a key that is exchanged keeps them."""
    before = keys_file.read_text()
    for key in ("first", "second"):
        keys_file.write_text(before + entry(REMOVED, "use", key=key))
        assert listed(server, key) == [name for name, owner in STORED.items() if owner == REMOVED][::-1]
        assert ask(server, key, job_id=f"{REMOVED}-succeeded").status_code == 200
    assert ask(server, "first", path="/jobs").status_code == 401
    keys_file.write_text(before)


@each_route
def test_without_keys_everybody_sees_all_jobs(keyless: ServerProcess, method: str, path: str) -> None:
    for owner in (*SCOPES, REMOVED, ANONYMOUS.name):
        job_id = f"{owner}-succeeded"
        if job_id in STORED:
            assert keyless.client.request(method, path.format(job_id=job_id)).status_code == 200
    assert [one["id"] for one in keyless.client.get("/jobs").json()["jobs"]] == list(STORED)[::-1]


@pytest.fixture(scope="module")
def keyless(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on the same jobs, without keys."""
    with launch(data_dir=store_jobs(tmp_path_factory.mktemp("data"))) as server:
        yield server


def test_jobs_stored_without_keys_belong_to_the_admin_once_there_are_keys(
    launch: Launch, keys_file: Path, tmp_path: Path, clip: Path
) -> None:
    with launch(data_dir=tmp_path / "data") as open_to_all:
        job_id = open_to_all.submit(clip)["id"]
        assert open_to_all.wait_for_job(job_id)["status"] == "succeeded"
    with launch(data_dir=tmp_path / "data", WHISPER_API_KEYS_FILE=str(keys_file)) as server:
        for caller in ("alice", *OTHERS):
            assert listed(server, caller) == []
            assert ask(server, caller, path="/jobs/{job_id}/result", job_id=job_id).status_code == 404
        assert listed(server, "support") == [job_id]
        assert ask(server, "support", path="/jobs/{job_id}/result", job_id=job_id).status_code == 200
