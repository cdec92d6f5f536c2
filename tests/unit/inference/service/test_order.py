"""An order and its audio arrive in chunks of any size, or do not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testing.virtual_time import run
from whisper_inference.errors import MalformedRequest
from whisper_inference.execution import MAX_ORDER_BYTES, ExecutorLost, JobInput
from whisper_inference.service.order import IncomingOrder
from whisper_inference.transcripts.transcript import Options
from whisper_inference.worker.protocol import frame

ORDER = JobInput(job="j", options=Options(initial_prompt="olá"), resume=None, max_audio_seconds=60)
AUDIO = bytes(range(256))


def chunks(*parts: bytes, seconds: float = 0) -> Callable[[], Awaitable[bytes | None]]:
    """Return what receives these parts, one every so many seconds, and then the end."""
    left = iter(parts)

    async def receive() -> bytes | None:
        await asyncio.sleep(seconds)
        return next(left, None)

    return receive


async def received(incoming: IncomingOrder) -> tuple[JobInput, bytes]:
    order = await incoming.head()
    return order, b"".join([chunk async for chunk in incoming.audio()])


@given(st.lists(st.integers(0, len(frame(ORDER) + AUDIO)), max_size=8))
def test_chunks_may_end_anywhere(cuts: list[int]) -> None:
    body = frame(ORDER) + AUDIO
    edges = [0, *sorted(cuts), len(body)]
    parts = [body[start:end] for start, end in pairwise(edges)]
    assert asyncio.run(received(IncomingOrder(chunks(*parts)))) == (ORDER, AUDIO)


async def test_order_may_have_no_audio() -> None:
    assert await received(IncomingOrder(chunks(frame(ORDER)))) == (ORDER, b"")


async def test_fields_of_a_later_version_are_ignored() -> None:
    body = frame(ORDER)[4:-1] + b',"priority":1}'
    assert await IncomingOrder(chunks(len(body).to_bytes(4) + body)).head() == ORDER


async def test_order_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(MalformedRequest, match="longer than"):
        await IncomingOrder(chunks((MAX_ORDER_BYTES + 1).to_bytes(4))).head()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((), id="nothing at all"),
        pytest.param((frame(ORDER),), id="no audio"),
        pytest.param((frame(ORDER)[:10],), id="half an order"),
    ],
)
def test_silent_gateway_loses_its_slot_after_ten_seconds(parts: tuple[bytes, ...]) -> None:
    async def story() -> None:
        left = list(parts)

        async def receive() -> bytes | None:
            if left:
                return left.pop(0)
            await asyncio.sleep(3600)
            return None

        with pytest.raises(ExecutorLost, match="no data for 10 s") as lost:
            await received(IncomingOrder(receive))
        assert lost.value.cause == "upload"
        assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.1)

    run(story)


def test_gateway_that_drips_loses_its_slot_too() -> None:
    async def story() -> None:
        with pytest.raises(ExecutorLost):
            await received(IncomingOrder(chunks(frame(ORDER), *([b"x" * 1000] * 100), seconds=1)))
        assert asyncio.get_running_loop().time() < 15

    run(story)


def test_slow_upload_at_the_required_rate_is_received() -> None:
    async def story() -> None:
        incoming = IncomingOrder(chunks(frame(ORDER), *([b"x" * 65_536] * 60), seconds=1))
        assert len((await received(incoming))[1]) == 60 * 65_536

    run(story)
