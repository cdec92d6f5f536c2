"""Calls to pods, to servers in this process that are correct or faulty."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from testing import pod_answers
from testing.operator_harness import Answer, Calling, Server, always, observation_of, routes, view_of
from testing.planner_cases import spec_of
from testing.virtual_time import run
from whisper_cluster.errors import NotLeading, PodRefused, PodUnreachable
from whisper_cluster.pods import LOAD_SECONDS, STATUS_SECONDS, UNLOAD_SECONDS, Address, Memory, PodClient
from whisper_operator.reconcile.calls_in_progress import Outcome
from whisper_operator.reconcile.memory import ReconcileMemory
from whisper_operator.reconcile.planner_input import planner_input
from whispermodel.catalog import Device
from whispermodel.planning.planner import plan
from whispermodel.states import Depth, Mode, State
from whispermodel.status import Status

THERE = Address("10.0.0.7")
REPORT = pod_answers.status(idle_seconds=1.5)
Call = Callable[[PodClient], Awaitable[object]]

CALLS = [
    pytest.param(lambda pods: pods.report(THERE), "GET http://10.0.0.7:8002/model/status", STATUS_SECONDS, id="status"),
    pytest.param(lambda pods: pods.load(THERE), "POST http://10.0.0.7:8002/model/load", LOAD_SECONDS, id="load"),
    pytest.param(lambda pods: pods.unload(THERE, depth=Depth.COLD), "POST http://10.0.0.7:8002/model/unload",
                 UNLOAD_SECONDS, id="unload"),
    pytest.param(lambda pods: pods.memory(THERE), "GET http://10.0.0.7:8002/metrics", STATUS_SECONDS, id="memory"),
]  # fmt: skip


async def words_of(call: Call, server: Server, error: type[Exception] = PodUnreachable) -> str:
    """Make a call that fails; return its error message."""
    async with Calling(server) as pods:
        with pytest.raises(error) as failed:
            await call(pods)
    return str(failed.value)


@pytest.mark.parametrize(
    ("ip", "url"),
    [("10.0.0.7", "http://10.0.0.7:8002"), ("fd00::7", "http://[fd00::7]:8002")],
    ids=["IPv4", "IPv6"],
)
def test_address_is_a_url(ip: str, url: str) -> None:
    assert Address(ip).url == url


class TestAnswers:
    async def test_status_is_parsed(self) -> None:
        said = {
            **REPORT,
            "device": "cuda",
            "work_began_seconds": 2.5,
            "in_flight": 1,
            "queued": 3,
            "depth": None,
            "manual": {"state": "Loaded", "at": "2026-03-02T12:00:00Z"},
            "ready_in_seconds": 0,
        }
        async with Calling(always(Answer(said))) as pods:
            report = await pods.report(THERE)
        assert (report.state, report.device, report.in_flight, report.queued) == (State.LOADED, Device.CUDA, 1, 3)
        assert (report.idle_seconds, report.work_began_seconds) == (1.5, 2.5)
        assert report.manual is not None
        assert report.manual.state is Mode.LOADED

    async def test_status_contains_the_last_load_and_unload(self) -> None:
        load = {"device": "cuda", "load_seconds": 2.5, "phases": {"read": 1.0}, "trigger": "manual", "seconds_ago": 9.0}
        freed = {"ram_mb": 300.0, "vram_mb": 1000.0}
        unload = {"device_was": "cuda", "memory_freed": freed, "fully_released": True}
        unload |= {"unload_seconds": 0.5, "seconds_ago": 99.5}
        async with Calling(always(Answer({**REPORT, "last_load": load, "last_unload": unload}))) as pods:
            report = await pods.report(THERE)
        assert report.last_load is not None
        assert (report.last_load.trigger, report.last_load.load_seconds, report.last_load.seconds_ago) == (
            "manual",
            2.5,
            9.0,
        )
        assert report.last_unload is not None
        assert report.last_unload.memory_freed is not None
        assert (report.last_unload.memory_freed.vram_mb, report.last_unload.seconds_ago) == (1000, 99.5)

    async def test_status_that_no_server_can_be_in_is_refused(self) -> None:
        words = await words_of(lambda pods: pods.report(THERE), always(Answer(pod_answers.status("Zero"))))
        assert "no server's model is Zero" in words

    async def test_unknown_fields_are_ignored(self) -> None:
        async with Calling(always(Answer({**REPORT, "mood": "good"}))) as pods:
            assert (await pods.report(THERE)).state is State.LOADED

    async def test_load_response_is_parsed(self) -> None:
        server = always(Answer(pod_answers.loaded(device="cuda", load_seconds=2.5, phases={"read": 1.0})))
        async with Calling(server) as pods:
            loaded = await pods.load(THERE)
        assert (loaded.device, loaded.load_seconds, loaded.phases) == ("cuda", 2.5, {"read": 1.0})
        assert server.requests == ["POST /model/load"]

    @pytest.mark.parametrize("depth", Depth)
    async def test_unload_sends_its_depth_and_returns_what_was_freed(self, depth: Depth) -> None:
        freed = {"ram_mb": 300.0, "vram_mb": 1000.0}
        server = always(Answer(pod_answers.unloaded(device_was="cuda", memory_freed=freed, fully_released=True)))
        async with Calling(server) as pods:
            unloaded = await pods.unload(THERE, depth=depth)
        assert server.requests == [f"POST /model/unload?depth={depth}&timeout=30"]
        assert unloaded.memory_freed is not None
        assert (unloaded.memory_freed.vram_mb, unloaded.fully_released, unloaded.pending) == (1000, True, False)

    async def test_pending_unload(self) -> None:
        answer = Answer(pod_answers.unloaded(pending=True), status=202)
        async with Calling(always(answer)) as pods:
            assert (await pods.unload(THERE, depth=Depth.COLD)).pending

    @pytest.mark.parametrize("key", [None, "secret"])
    async def test_key_is_sent(self, key: str | None) -> None:
        server = always(Answer(REPORT))
        async with Calling(server) as pods:
            await pods.report(Address("10.0.0.7", key))
        assert server.keys == [f"Bearer {key}" if key else None]

    async def test_former_leader_may_only_read(self) -> None:
        server = always(Answer(REPORT))
        calling = Calling(server)
        async with calling:
            pods = PodClient(calling, may_act=lambda: False)
            for call in (pods.load(THERE), pods.unload(THERE, depth=Depth.WARM)):
                with pytest.raises(NotLeading, match="not sent: the lease has expired"):
                    await call
            await pods.report(THERE)
        assert server.requests == ["GET /model/status"]


class TestMemory:
    def metrics(self) -> bytes:
        registry = CollectorRegistry()
        held = Gauge("whisper_memory_bytes", ".", ["process", "kind"], registry=registry)
        for process, size in (("api", 1), ("zygote", 10), ("worker", 100)):
            held.labels(process, "proportional").set(size)
            held.labels(process, "resident").set(5000)
        gpu = Gauge("whisper_gpu_memory_bytes", ".", ["kind"], registry=registry)
        gpu.labels("used").set(2e9)
        gpu.labels("reserved").set(3e9)
        Gauge("whisper_other", ".", ["kind"], registry=registry).labels("proportional").set(7)
        return generate_latest(registry)

    async def test_memory_is_summed_by_proportional_share(self) -> None:
        async with Calling(routes(metrics=Answer(self.metrics()))) as pods:
            assert await pods.memory(THERE) == Memory(111, 2_000_000_000, 3_000_000_000)

    async def test_server_without_memory_metrics_holds_nothing(self) -> None:
        async with Calling(always(Answer(b"python_info 1.0\n"))) as pods:
            assert await pods.memory(THERE) == Memory()

    @pytest.mark.parametrize(
        "text",
        [
            b"\xff\xfe\x00",
            b"<html>not ours</html>",
            b"whisper_memory_bytes{",
            b'whisper_memory_bytes{kind="proportional"} many\n',
            b'whisper_memory_bytes{kind="proportional"} NaN\n',
            b'whisper_memory_bytes{kind="proportional"} +Inf\n',
            b'whisper_memory_bytes{kind="proportional"} -1\n',
            b'whisper_memory_bytes{kind="proportional"} 1e300\n',
        ],
    )
    async def test_invalid_metrics_raise(self, text: bytes) -> None:
        assert "invalid metrics" in await words_of(lambda pods: pods.memory(THERE), always(Answer(text)))

    @settings(max_examples=60, deadline=None)
    @given(
        text=st.one_of(
            st.binary(max_size=60),
            st.text('whisper_memory_bytes{}kind="proportional",= \n#TYPE0123456789.eE+-NaInf\\', max_size=80),
        )
    )
    def test_arbitrary_metrics_do_not_break_the_parser(self, text: bytes | str) -> None:
        async def story() -> None:
            async with Calling(always(Answer(text if isinstance(text, bytes) else text.encode()))) as pods:
                try:
                    memory = await pods.memory(THERE)
                except PodUnreachable:
                    return
                assert min(memory.resident, memory.gpu, memory.gpu_reserved) >= 0

        asyncio.run(story())


class TestNonsense:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            pytest.param(b"\x00<html>not ours", "Invalid JSON", id="no JSON"),
            pytest.param(b"", "Invalid JSON", id="nothing"),
            pytest.param(b"[]", "body", id="a list"),
            pytest.param(b"{}", "state: Field required", id="fields that are missing"),
            pytest.param(json.dumps({**REPORT, "state": "Asleep"}).encode(), "state: ", id="a state that is none"),
            pytest.param(json.dumps({**REPORT, "in_flight": "many"}).encode(), "in_flight: ", id="words for numbers"),
            pytest.param(json.dumps({**REPORT, "idle_seconds": float("nan")}).encode(), "idle_seconds: ", id="NaN"),
            pytest.param(json.dumps({**REPORT, "idle_seconds": 1e300}).encode(), "idle_seconds: ", id="ages of ages"),
            pytest.param(json.dumps({**REPORT, "queued": -1}).encode(), "queued: ", id="fewer than none"),
            pytest.param(b"[" * 100_000, "Invalid JSON", id="nested too deeply"),
        ],
    )
    async def test_invalid_status_raises(self, body: bytes, words: str) -> None:
        said = await words_of(lambda pods: pods.report(THERE), always(Answer(body)))
        assert said.startswith("invalid response (")
        assert words in said

    NUMBERS = st.one_of(st.floats(), st.integers(), st.sampled_from([0.0, 1e9, -0.0, 1e308]))

    @settings(max_examples=60, deadline=None)
    @given(idle=NUMBERS, began=NUMBERS | st.none(), in_flight=NUMBERS, queued=NUMBERS)
    def test_any_reported_numbers_can_be_planned_with(
        self, idle: float, began: float | None, in_flight: float, queued: float
    ) -> None:
        said = {**REPORT, "idle_seconds": idle, "work_began_seconds": began, "in_flight": in_flight, "queued": queued}

        async def story() -> None:
            async with Calling(always(Answer(said))) as pods:
                try:
                    report = await pods.report(THERE)
                except PodUnreachable:
                    return
            observation = observation_of(view_of(report=report))
            seen = planner_input(observation, Status())
            planned = plan(spec_of(idle={"scaleToZeroAfter": "1h"}), seen, observation.now)
            assert planned.check_at is None or planned.check_at > observation.now

        asyncio.run(story())

    @settings(max_examples=60, deadline=None)
    @given(seconds=NUMBERS, freed=NUMBERS)
    def test_any_receipt_can_be_written(self, seconds: float, freed: float) -> None:
        amounts = {"ram_mb": freed, "vram_mb": freed}
        loaded = Answer(pod_answers.loaded(device="cpu", load_seconds=seconds, phases={"read": seconds}))
        unloaded = Answer(pod_answers.unloaded(device_was="cpu", memory_freed=amounts, unload_seconds=seconds))

        async def story() -> None:
            memory = ReconcileMemory()
            async with Calling(routes(load=loaded, unload=unloaded)) as pods:
                for call in (pods.load(THERE), pods.unload(THERE, depth=Depth.COLD)):
                    try:
                        result = await call
                    except PodUnreachable:
                        continue
                    memory.record_outcomes([Outcome("uid", State.LOADING, result)], Status(), observation_of().now)
            status = Status(last_load=memory.receipts.unreported.load, last_unload=memory.receipts.unreported.unload)
            json.dumps(status.model_dump(mode="json"), allow_nan=False)

        asyncio.run(story())

    @pytest.mark.parametrize(("call", "url", "_seconds"), CALLS)
    async def test_endless_response_is_cut_off(self, call: Call, url: str, _seconds: float) -> None:
        said = await words_of(call, always(Answer(b"x" * (4 * 2**20 + 1))))
        assert said == f"{url}: the response has more than 4194304 bytes"


class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "words", "code"),
        [
            pytest.param(Answer({"detail": "It does not fit.", "code": "does-not-fit"}, status=507),
                         "It does not fit.", "does-not-fit", id="a problem document"),
            pytest.param(Answer(b"broken", status=500), "HTTP 500", "unknown", id="no document"),
            pytest.param(Answer(b"", status=404), "HTTP 404", "unknown", id="nothing"),
            pytest.param(Answer({"error": "broken"}, status=502), "HTTP 502", "unknown", id="another document"),
            pytest.param(Answer({"detail": None}, status=503), "HTTP 503", "unknown", id="no detail"),
            pytest.param(Answer(b"", status=307), "HTTP 307", "unknown", id="a redirection"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize(("call", "_url", "_seconds"), CALLS)
    async def test_refusal_has_the_servers_message_or_status(
        self, call: Call, _url: str, _seconds: float, answer: Answer, words: str, code: str
    ) -> None:
        async with Calling(always(answer)) as pods:
            with pytest.raises(PodRefused) as refused:
                await call(pods)
        assert (str(refused.value), refused.value.code, refused.value.status) == (words, code, answer.status)


class TestPatience:
    @pytest.mark.parametrize(("call", "url", "seconds"), CALLS)
    def test_request_without_response_times_out(self, call: Call, url: str, seconds: float) -> None:
        async def never(_: str) -> Answer:
            await asyncio.sleep(timedelta(days=1).total_seconds())
            return Answer()

        async def story() -> float:
            assert await words_of(call, Server(never)) == f"{url}: timed out after {seconds:g} s"
            return asyncio.get_running_loop().time()

        assert run(story) == seconds

    def test_load_may_be_slow(self) -> None:
        async def slowly(_: str) -> Answer:
            await asyncio.sleep(3000)
            return Answer(pod_answers.loaded(device="cuda", load_seconds=2999.0))

        async def story() -> float | None:
            async with Calling(Server(slowly)) as pods:
                return (await pods.load(THERE)).load_seconds

        assert run(story) == 2999

    async def test_refused_connection_is_reported(self) -> None:
        async def refuse(_: str) -> Answer:
            raise ConnectionError("Connection refused")

        said = await words_of(lambda pods: pods.report(THERE), Server(refuse))
        assert said == "GET http://10.0.0.7:8002/model/status: Connection refused"
