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
    TextAdded,
)
from whisper_inference.jobs.job import LOCAL, Status

DONE = Done(Status.SUCCEEDED)


async def rest(subscription: Subscription) -> list[Event]:
    async with asyncio.timeout(5):
        return [event async for event in subscription]


async def test_subscribers_get_events_in_order_until_the_end() -> None:
    hub = EventHub()
    published: list[Event] = [StatusChanged(Status.RUNNING), TextAdded("a"), ProgressMade(0.5), TextAdded("b"), DONE]
    with hub.subscribe("j", LOCAL) as one, hub.subscribe("j", LOCAL) as two, hub.subscribe("other", LOCAL) as other:
        for event in published:
            hub.publish("j", event)
        hub.publish("other", DONE)
        assert await rest(one) == await rest(two) == published
        assert await rest(other) == [DONE]


async def test_waiting_subscriber_wakes_on_an_event() -> None:
    hub = EventHub()
    with hub.subscribe("j", LOCAL) as events:
        waiting = asyncio.ensure_future(rest(events))
        await asyncio.sleep(0)
        hub.publish("j", DONE)
        assert await waiting == [DONE]


async def test_unread_progress_is_replaced_by_later_progress() -> None:
    hub = EventHub()
    with hub.subscribe("j", LOCAL) as events:
        for percent in range(1000):
            hub.publish("j", ProgressMade(percent / 1000))
        hub.publish("j", DONE)
        assert await rest(events) == [ProgressMade(0.999), DONE]


async def test_slow_subscriber_loses_progress_before_text() -> None:
    hub = EventHub(limit=4)
    with hub.subscribe("j", LOCAL) as events:
        for event in (TextAdded("a"), ProgressMade(0.1), TextAdded("b"), ProgressMade(0.2), DONE):
            hub.publish("j", event)
        assert await rest(events) == [TextAdded("a"), TextAdded("b"), DONE]


async def test_unread_events_are_bounded_and_keep_the_end() -> None:
    hub = EventHub(limit=10)
    with hub.subscribe("j", LOCAL) as events:
        for number in range(10_000):
            hub.publish("j", TextAdded(str(number)))
        hub.publish("j", DONE)
        seen = await rest(events)
    assert len(seen) <= 10
    assert (seen[0], seen[-1]) == (Missed(), DONE)
    assert seen.count(Missed()) == 1
    assert seen[-2] == TextAdded("9999")


async def test_cancelled_wait_loses_no_event() -> None:
    hub = EventHub()
    with hub.subscribe("j", LOCAL) as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        hub.publish("j", TextAdded("a"))
        hub.publish("j", DONE)
        assert await rest(events) == [TextAdded("a"), DONE]


async def test_publishing_without_subscribers_is_free() -> None:
    hub = EventHub()
    with hub.subscribe("j", LOCAL):
        pass
    hub.publish("j", DONE)
    with hub.subscribe("j", LOCAL) as late:
        hub.publish("j", DONE)
        assert await rest(late) == [DONE]
