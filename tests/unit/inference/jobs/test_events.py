from __future__ import annotations

import asyncio

import pytest

from whisper_inference.jobs.events import (
    Done,
    Event,
    EventHub,
    Missed,
    ProgressMade,
    StatusChanged,
    Subscription,
    TextHeard,
)
from whisper_inference.jobs.job import Status

DONE = Done(Status.SUCCEEDED)


async def rest(subscription: Subscription) -> list[Event]:
    async with asyncio.timeout(5):
        return [event async for event in subscription]


async def test_each_subscriber_of_a_job_gets_its_events_in_order_and_then_the_end() -> None:
    hub = EventHub()
    told: list[Event] = [StatusChanged(Status.RUNNING), TextHeard("a"), ProgressMade(0.5), TextHeard("b"), DONE]
    with hub.subscribe("j") as one, hub.subscribe("j") as two, hub.subscribe("other") as other:
        for event in told:
            hub.publish("j", event)
        hub.publish("other", DONE)
        assert await rest(one) == await rest(two) == told
        assert await rest(other) == [DONE]


async def test_a_waiting_subscriber_wakes_when_something_happens() -> None:
    hub = EventHub()
    with hub.subscribe("j") as events:
        waiting = asyncio.ensure_future(rest(events))
        await asyncio.sleep(0)
        hub.publish("j", DONE)
        assert await waiting == [DONE]


async def test_progress_that_nobody_read_yet_is_replaced_by_later_progress() -> None:
    hub = EventHub()
    with hub.subscribe("j") as events:
        for percent in range(1000):
            hub.publish("j", ProgressMade(percent / 1000))
        hub.publish("j", DONE)
        assert await rest(events) == [ProgressMade(0.999), DONE]


async def test_a_slow_subscriber_gives_up_progress_before_text() -> None:
    hub = EventHub(limit=4)
    with hub.subscribe("j") as events:
        for event in (TextHeard("a"), ProgressMade(0.1), TextHeard("b"), ProgressMade(0.2), DONE):
            hub.publish("j", event)
        assert await rest(events) == [TextHeard("a"), TextHeard("b"), DONE]


async def test_a_subscriber_that_never_reads_costs_bounded_memory_and_still_gets_the_end() -> None:
    hub = EventHub(limit=10)
    with hub.subscribe("j") as events:
        for number in range(10_000):
            hub.publish("j", TextHeard(str(number)))
        hub.publish("j", DONE)
        seen = await rest(events)
    assert len(seen) <= 10
    assert (seen[0], seen[-1]) == (Missed(), DONE)
    assert seen.count(Missed()) == 1
    assert seen[-2] == TextHeard("9999")


async def test_an_impatient_wait_loses_nothing() -> None:
    hub = EventHub()
    with hub.subscribe("j") as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        hub.publish("j", TextHeard("a"))
        hub.publish("j", DONE)
        assert await rest(events) == [TextHeard("a"), DONE]


async def test_a_job_without_subscribers_is_told_to_nobody() -> None:
    hub = EventHub()
    with hub.subscribe("j"):
        pass
    hub.publish("j", DONE)
    with hub.subscribe("j") as late:
        hub.publish("j", DONE)
        assert await rest(late) == [DONE]
