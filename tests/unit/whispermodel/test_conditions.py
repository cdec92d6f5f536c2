"""Findings that do not depend on where a model runs."""

from __future__ import annotations

import pytest

from testing.planner_cases import DAY, exception, spec_of, utc
from whispermodel.conditions import ConditionType, Finding, as_conditions, progressing, refused
from whispermodel.planning.decision import Observed
from whispermodel.planning.planner import Plan, plan
from whispermodel.spec import Spec
from whispermodel.states import Mode, State
from whispermodel.status import Status

NIGHT = utc("2026-11-25T23:00")
REFUSING = {"demandPolicy": "Refuse"}
SAO_PAULO = {**DAY, "timeZone": "America/Sao_Paulo"}
CLOSED = exception("closed", "2026-11-20T00:00:00Z", "2026-12-27T00:00:00Z", state=Mode.ZERO)


def planned(state: State = State.UNLOADED, **spec: object) -> Plan:
    return plan(spec_of(**spec), Observed(state), NIGHT)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param(
            spec_of(**REFUSING, schedule=SAO_PAULO),
            "New requests are refused until Thu 07:00 -03: demandPolicy is Refuse.",
            id="by weekday within six days, in the schedule's zone",
        ),
        pytest.param(
            spec_of(**REFUSING, schedule={"exceptions": [CLOSED]}),
            "New requests are refused until Sun 2026-12-27 00:00 UTC: demandPolicy is Refuse.",
            id="with the date beyond",
        ),
        pytest.param(
            spec_of(**REFUSING, desiredState="Zero"),
            "New requests are refused: demandPolicy is Refuse.",
            id="without a time where none is known",
        ),
    ],
)
def test_a_refusal_says_until_when_in_the_one_format(spec: Spec, words: str) -> None:
    finding = refused(plan(spec, Observed(State.UNLOADED), NIGHT))
    assert finding is not None
    assert (finding.status, finding.reason, finding.message) == (False, "Refused", words)


def test_a_model_that_accepts_requests_has_no_refusal() -> None:
    assert refused(planned(schedule=DAY)) is None


@pytest.mark.parametrize(
    ("state", "spec", "facts", "reason"),
    [
        pytest.param(State.LOADED, {"desiredState": "Loaded"}, {}, "AtRest", id="at its target"),
        pytest.param(State.UNLOADED, {"desiredState": "Loaded"}, {}, "Unloaded", id="on its way"),
        pytest.param(State.LOADING, {"desiredState": "Zero"}, {}, "Loading", id="in transition, whatever is wanted"),
        pytest.param(State.UNLOADED, {"desiredState": "Loaded"}, {"held": True}, "AtRest", id="held by somebody else"),
        pytest.param(State.FAILED, {"desiredState": "Unloaded"}, {}, "AtRest", id="a failed load that nobody wants"),
        pytest.param(State.FAILED, {"desiredState": "Unloaded"}, {"hindered": True}, "Failed", id="a start to come"),
        pytest.param(State.LOADED, {"suspend": True}, {}, "AtRest", id="suspended"),
    ],
)
def test_progress(state: State, spec: dict[str, object], facts: dict[str, bool], reason: str) -> None:
    assert progressing(state, planned(state, **spec), **facts).reason == reason


def test_a_condition_whose_status_is_unchanged_keeps_its_time() -> None:
    first = Finding(ConditionType.READY, True, "Loaded", "The model is loaded; requests do not wait for a load.")
    [before] = as_conditions(Status(), [first], generation=1, now=NIGHT)
    later = utc("2026-11-26T08:00")
    status = Status(conditions=(before,))
    [same] = as_conditions(status, [Finding(first.type, True, "Unloaded", ".")], generation=2, now=later)
    [other] = as_conditions(status, [Finding(first.type, None, "Unreachable", ".")], generation=2, now=later)
    assert (same.status, same.last_transition_time, same.observed_generation) == ("True", NIGHT, 2)
    assert (other.status, other.last_transition_time) == ("Unknown", later)
