"""Which results still have to be fetched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from whisper_inference.errors import AudioDamaged, ResultNotReady, ServiceError
from whisper_inference.jobs.service import JobService
from whisper_inference.jobs.unfetched import UnfetchedResults


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        pytest.param(AudioDamaged(reason="cut off"), [], id="there is none, and it has heard why"),
        pytest.param(ResultNotReady(job="a", job_status="running"), ["a"], id="it ended only after that was said"),
    ],
)
async def test_failed_fetch_counts_only_if_no_result_can_follow(answer: ServiceError, left: list[str]) -> None:
    unfetched = UnfetchedResults()

    async def transcript(job_id: str) -> None:
        unfetched.add(job_id)
        raise answer

    jobs = SimpleNamespace(store=SimpleNamespace(transcript=transcript), unfetched=unfetched)
    with pytest.raises(type(answer)):
        await JobService.transcript(cast("JobService", jobs), "a")
    assert unfetched.jobs == left
