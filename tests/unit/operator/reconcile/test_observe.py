"""Observing a model's pods: which are asked, and what becomes of their answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from testing import pod_answers
from testing.operator_harness import (
    Answer,
    Calling,
    Server,
    always,
    observation_of,
    pod_of,
    routes,
    view_of,
)
from whisper_cluster.pods import Memory
from whisper_operator.reconcile.failures import Failure
from whisper_operator.reconcile.observe import observe_pods
from whispermodel.states import State

UID = "uid-base-1"
REPORT = pod_answers.status(idle_seconds=1.0)
METRICS = Answer(b'whisper_memory_bytes{process="worker",kind="proportional"} 7\n')
NOT_READY: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "False"}]}


class TestObservePods:
    async def test_serving_pod_is_asked_with_the_operators_key(self) -> None:
        server = always(Answer(REPORT))
        async with Calling(server) as calls:
            [view] = await observe_pods(
                [pod_of()], calls, key="secret", last_states={UID: State.LOADED}, read_memory=False
            )
        assert view.report is not None
        assert (view.state, server.keys) == (State.LOADED, ["Bearer secret"])
        assert server.requests == ["GET /model/status"]

    @pytest.mark.parametrize(
        "status",
        [{"phase": "Pending"}, {"podIP": ""}, NOT_READY],
        ids=["pending", "without an address", "not ready yet"],
    )
    async def test_pod_that_does_not_serve_yet_is_not_asked(self, status: dict[str, Any]) -> None:
        server = always(Answer(REPORT))
        async with Calling(server) as calls:
            [view] = await observe_pods([pod_of(**status)], calls, key=None, last_states={}, read_memory=True)
        assert (view.state, view.address, server.requests) == (State.STARTING, None, [])

    async def test_pod_that_responded_before_is_asked_although_not_ready(self) -> None:
        async with Calling(always(Answer(REPORT))) as calls:
            [view] = await observe_pods(
                [pod_of(**NOT_READY)], calls, key=None, last_states={UID: State.LOADED}, read_memory=False
            )
        assert view.state is State.LOADED

    async def test_pod_that_cannot_start_is_not_asked(self) -> None:
        server = always(Answer(REPORT))
        waiting = {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
        async with Calling(server) as calls:
            [view] = await observe_pods(
                [pod_of(container=waiting)], calls, key=None, last_states={UID: State.LOADED}, read_memory=True
            )
        assert view.failure is not None
        assert (view.state, view.failure.reason, server.requests) == (State.FAILED, "ImagePull", [])

    async def test_invalid_response_makes_a_pod_unresponsive(self) -> None:
        async with Calling(always(Answer(b"\x00<html>"))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={}, read_memory=True)
        assert view.unresponsive is not None
        assert "invalid response" in view.unresponsive
        assert (view.report, view.failure) == (None, None)

    async def test_refused_key_makes_a_pod_unresponsive(self) -> None:
        async with Calling(always(Answer({"detail": "A key is needed."}, status=401))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={}, read_memory=True)
        assert view.unresponsive == "A key is needed."

    async def test_failed_load_has_the_servers_message(self) -> None:
        async with Calling(always(Answer({**REPORT, "state": "Failed", "failure": "no space left"}))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={UID: State.FAILED}, read_memory=False)
        assert view.failure == Failure("LoadFailed", "no space left")

    @pytest.mark.parametrize(
        ("known", "scrape", "is_read"),
        [
            pytest.param({UID: State.LOADED}, False, False, id="not while nothing moves"),
            pytest.param({UID: State.LOADED}, True, True, id="when it is time"),
            pytest.param({UID: State.LOADING}, False, True, id="when its state has changed"),
            pytest.param({}, False, True, id="when it answers for the first time"),
        ],
    )
    async def test_memory_is_read(self, known: dict[str, State], scrape: bool, is_read: bool) -> None:
        server = routes(status=Answer(REPORT), metrics=METRICS)
        async with Calling(server) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states=known, read_memory=scrape)
        assert view.memory == (Memory(resident=7) if is_read else None)
        assert ("GET /metrics" in server.requests) is is_read

    async def test_unreadable_metrics_keep_the_reported_state(self) -> None:
        async with Calling(routes(status=Answer(REPORT), metrics=Answer(b"{", status=500))) as calls:
            [view] = await observe_pods([pod_of()], calls, key=None, last_states={}, read_memory=True)
        assert (view.state, view.memory) == (State.LOADED, None)

    async def test_all_pods_are_asked_concurrently(self) -> None:
        asked, everybody = 0, asyncio.Event()

        async def answer(_: str) -> Answer:
            nonlocal asked
            asked += 1
            if asked == 3:
                everybody.set()
            await everybody.wait()
            return Answer(REPORT)

        pods = [pod_of(f"base-{number}") for number in range(3)]
        known = {f"uid-base-{number}": State.LOADED for number in range(3)}
        async with Calling(Server(answer)) as calls, asyncio.timeout(2):
            views = await observe_pods(pods, calls, key=None, last_states=known, read_memory=False)
        assert [view.state for view in views] == [State.LOADED] * 3


def test_model_memory_is_summed_over_the_pods() -> None:
    views = [view_of(memory=Memory(5, 3, 4)), view_of(memory=Memory(7, 1, 2))]
    assert observation_of(*views).memory == Memory(12, 4, 6)
    assert observation_of(*views, view_of()).memory is None, "one pod is missing"
    assert observation_of(view_of()).memory is None
