"""Story 3: the schedule unloads the model in the evening and loads it in the morning."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from prometheus_client.parser import text_string_to_metric_families

from e2e.model import Model
from e2e.speech import WORDS

ZONE = "America/Sao_Paulo"
LEAST_BEFORE = timedelta(seconds=12)
"""Minimum time before the evening, for the pod to start and the model to load."""
LATE = timedelta(seconds=3)
"""Maximum delay of a scheduled change on a busy machine."""


def schedule_of(evening: datetime, morning: datetime) -> dict[str, Any]:
    """Return a daily schedule; the last entry that fired is yesterday's morning, so the model is loaded."""
    return {
        "timeZone": ZONE,
        "entries": [
            {"name": "evening", "cron": f"{evening.minute} {evening.hour} * * *", "state": "Unloaded"},
            {"name": "morning", "cron": f"{morning.minute} {morning.hour} * * *", "state": "Loaded"},
        ],
    }


def resident_bytes(metrics: str) -> float:
    """Return the resident memory of all processes of a server, from its metrics."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "whisper_memory_bytes" and sample.labels["kind"] == "resident"
    )


def test_the_evening_releases_memory_and_the_morning_loads_again(model: Model) -> None:
    evening = (datetime.now(ZoneInfo(ZONE)) + LEAST_BEFORE).replace(second=0, microsecond=0) + timedelta(minutes=1)
    morning = evening + timedelta(minutes=1)
    model.apply(schedule=schedule_of(evening, morning))
    by_day = model.wait_for(state="Loaded", reason="Schedule")
    by_day = model.wait_until(lambda seen: "memory" in seen, "its memory is known")
    with model.speaking() as speech:
        assert WORDS in speech.transcribe()
        loaded = resident_bytes(speech.metrics())
        workers = model.processes()
        assert by_day["nextTransition"]["by"] == "schedule 'evening'"

        by_night = wait_past(evening, model, "Unloaded")
        assert by_night["lastUnload"]["fullyReleased"] is True
        assert by_night["lastUnload"]["freedResidentBytes"] > 50 * 2**20
        assert by_night["nextTransition"]["by"] == "schedule 'morning'"
        assert len(model.processes()) < len(workers)
        assert resident_bytes(speech.metrics()) < loaded / 2
        held = model.wait_until(memory_below(by_day["memory"]["residentBytes"] / 2), "the status reports less memory")
        assert held["state"] == "Unloaded"

        wait_past(morning, model, "Loaded")
        assert WORDS in speech.transcribe()


def wait_past(fire: datetime, model: Model, state: str) -> dict[str, Any]:
    """Wait until a scheduled change has taken effect, and check its delay."""
    status = model.wait_for(state=state, target=state, seconds=(fire - datetime.now(UTC)).total_seconds() + 30)
    assert fire <= datetime.fromisoformat(status["since"]) <= fire + LATE
    assert status["message"].startswith(f"{state} by schedule")
    return status


def memory_below(most: float) -> Callable[[dict[str, Any]], bool]:
    return lambda seen: seen["memory"]["residentBytes"] < most
