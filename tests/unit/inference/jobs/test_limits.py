"""The limits that all clients share."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from whisper_inference.errors import TooManyUploads, TooManyWaiting
from whisper_inference.jobs.limits import WaitingClients


def test_only_so_many_clients_wait_at_a_time() -> None:
    waiting = WaitingClients()
    clients = [waiting.client(2, retry_after=7) for _ in range(3)]
    with clients[0], clients[1], pytest.raises(TooManyWaiting) as refused, clients[2]:
        pass
    assert (refused.value.status, refused.value.retry_after) == (429, 7)


def test_client_that_has_left_makes_room() -> None:
    waiting = WaitingClients()
    for _ in range(3):
        with pytest.raises(OSError, match="gone"), waiting.client(1, retry_after=7):
            raise OSError("gone")


def test_lowered_limit_holds_for_the_next_client() -> None:
    waiting = WaitingClients()
    with waiting.client(2, retry_after=7), pytest.raises(TooManyWaiting), waiting.client(1, retry_after=7):
        pass


def test_unfinished_uploads_of_one_key_leave_half_of_the_places_to_others() -> None:
    waiting = WaitingClients()
    with ExitStack() as held:
        first = held.enter_context(waiting.client(4, owner="ana", retry_after=7))
        held.enter_context(waiting.client(4, owner="ana", retry_after=7))
        third = waiting.client(4, owner="ana", retry_after=7)
        with pytest.raises(TooManyUploads) as refused, third:
            pass
        assert (refused.value.status, refused.value.params, refused.value.retry_after) == (429, {"limit": 2}, 7)
        held.enter_context(waiting.client(4, owner="bea", retry_after=7))
        first.note_uploaded()
        held.enter_context(waiting.client(4, owner="ana", retry_after=7))
