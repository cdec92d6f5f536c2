"""The oracle of the chaos program notices every promise that is not kept."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from testing.chaos.oracle import Oracle
from testing.chaos.stand_ins import text_of

Json = dict[str, Any]


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(text_of)


def promises(oracle: Oracle) -> list[str]:
    return [violation.promise for violation in oracle.violations]


def ended(status: str, *, attempts: int = 1, error: Json | None = None) -> Json:
    return {"id": "one", "status": status, "attempts": attempts, "error": error, "waiting_for": None}


def test_job_that_succeeds_with_its_text_keeps_all_promises(oracle: Oracle) -> None:
    oracle.accepted("key", "one")
    oracle.answered("one", text_of("one"))
    oracle.judge("one", ended("succeeded"), text_of("one"))
    assert promises(oracle) == []
    assert oracle.open == {}


@pytest.mark.parametrize(
    ("found", "text", "promise"),
    [
        pytest.param(None, None, "no job is lost", id="unknown to the gateway"),
        pytest.param(ended("queued"), None, "nothing is stuck", id="still queued"),
        pytest.param(ended("running"), None, "nothing is stuck", id="still running"),
        pytest.param(ended("succeeded"), "one0 one1 one1 one2", "a job has one result", id="a section twice"),
        pytest.param(ended("succeeded"), "two0 two1 two2", "a job has one result", id="the text of another job"),
        pytest.param(ended("cancelled"), None, "an accepted job succeeds", id="cancelled by nobody"),
        pytest.param(ended("failed", error={"code": "worker-lost"}), None, "an accepted job succeeds", id="too early"),
        pytest.param(ended("failed", attempts=3), None, "an accepted job succeeds", id="failed without a reason"),
    ],
)
def test_end_that_is_not_allowed_is_noticed(oracle: Oracle, found: Json | None, text: str | None, promise: str) -> None:
    oracle.accepted("key", "one")
    oracle.judge("one", found, text)
    assert promises(oracle) == [promise]


def test_cancelled_job_and_one_that_failed_three_times_are_allowed(oracle: Oracle) -> None:
    oracle.accepted("key", "one")
    oracle.withdrawn("one")
    oracle.judge("one", ended("cancelled"), None)
    oracle.accepted("other key", "one")
    oracle.judge("one", ended("failed", attempts=3, error={"code": "worker-lost"}), None)
    assert promises(oracle) == []


def test_second_job_of_a_key_is_noticed(oracle: Oracle) -> None:
    oracle.accepted("key", "one")
    oracle.accepted("key", "one")
    assert promises(oracle) == []
    oracle.accepted("key", "two")
    assert promises(oracle) == ["one key is one job"]


def test_wrong_answer_is_noticed(oracle: Oracle) -> None:
    oracle.answered("one", "two0 two1 two2")
    assert promises(oracle) == ["a job has one result"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(httpx.Response(415, json={"code": "not-audio", "detail": "Not audio."}), [], id="a problem"),
        pytest.param(
            httpx.Response(503, json={"error": {"code": "x", "message": "y"}}, headers={"Retry-After": "1"}),
            [],
            id="in OpenAI's shape",
        ),
        pytest.param(httpx.Response(502, text="Bad Gateway"), ["a refusal has a reason"], id="without a reason"),
        pytest.param(
            httpx.Response(503, json={"code": "x", "detail": "y"}),
            ["a refusal says when to retry"],
            id="without Retry-After",
        ),
        pytest.param(
            httpx.Response(500, json={"code": "internal", "detail": "y"}), ["no error is internal"], id="internal"
        ),
        pytest.param(
            httpx.Response(404, json={"code": "model-not-found", "detail": "y"}),
            ["a reason is true"],
            id="about a model that exists",
        ),
    ],
)
def test_refusal_needs_a_reason(oracle: Oracle, answer: httpx.Response, expected: list[str]) -> None:
    oracle.refused(answer, what="a request")
    assert promises(oracle) == expected


@pytest.mark.parametrize(("excused", "expected"), [(True, []), (False, ["an undisturbed gateway answers"])])
def test_lost_connection_needs_a_disturbed_gateway(oracle: Oracle, excused: bool, expected: list[str]) -> None:
    oracle.cut_off(httpx.ReadError("reset"), what="a request", excused=excused)
    assert promises(oracle) == expected
